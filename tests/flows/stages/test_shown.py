"""What Prefect and a terminal show of a flow, and that no work depends on it."""

import io
import re

import pytest

from ddpm_core import errors, progress
from ddpm_core.runs.stages import STAGES
from ddpm_core.store import manifest
from flows import artifacts, console
from flows.command_line import TRAIN_DDPM
from tests.flows.fakes import is_done, recorded
from tests.flows.stages.conftest import MARKS, artifact_of

pytestmark = MARKS


def test_progress_reaches_terminal_and_prefect(store, config, jobs, given):
    """Catches: a user who sees nothing for hours, or not what the stage warns of."""
    from flows.stages import shard_dataset

    jobs.lines = ["(pid=1) shard  5/10 images  downloading", "shard  10/10 images", "more"]
    jobs.lines.append(f"{progress.WARNING}the chain has no end")
    stream = io.StringIO()
    with console.show_on(console.Console(stream)):
        shard_dataset(**given)
    shown = stream.getvalue()
    assert "started as job" in shown
    assert "5/10 images  downloading" in shown
    assert "warning: the chain has no end\n" in shown
    assert "more" not in shown
    assert re.search(r"shard      done in \d+ s: \S+/datasets/digits-", shown)
    assert artifact_of(config.name, "shard", "progress")["data"] == 100.0
    assert "/datasets/digits-" in artifact_of(config.name, "shard", "result")["data"]


def test_an_artifact_that_cannot_be_written_does_not_end_the_stage(jobs, given, monkeypatch):
    """Catches: a Prefect server's outage that stops a training, or is waited for at each line."""
    import httpx

    from flows.stages import shard_dataset

    asked = []

    def refuse(**_):
        asked.append(None)
        raise httpx.ConnectError("no server")

    for name in ("create_progress_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(artifacts, name, refuse)
    monkeypatch.setattr(artifacts, "_EVERY_S", 0.0)
    jobs.lines = [f"shard  {number}/10 images" for number in range(10)]
    assert shard_dataset(**given)["stage"] == "shard"
    assert len(asked) == 2, "progress once, and the result"


@pytest.mark.parametrize("error", [errors.StorageError, manifest.DamagedError, ValueError])
def test_a_picture_that_cannot_be_read_is_one_warning(store, config, jobs, given, error):
    """Catches: a finished stage that S3, or a damaged picture, ends while it is shown."""
    from flows.stages import sample

    recorded(store, config, "shard", "train")
    stream = io.StringIO()

    def refuse(*_):
        raise error("the picture is gone")

    with pytest.MonkeyPatch.context() as patch, console.show_on(console.Console(stream)):
        patch.setattr(artifacts, "_inlined", refuse)
        assert sample(**given)["stage"] == "sample"
    warnings = [line for line in stream.getvalue().splitlines() if "the picture is gone" in line]
    assert len(warnings) == len(STAGES["sample"].pictures)
    assert all(line.startswith(progress.WARNING) for line in warnings)
    assert "/samples/" in artifact_of(config.name, "sample", "result")["data"]


def test_page_of_the_whole_run_shows_grid_and_numbers(config, jobs, given):
    """Catches: a flow run whose page is empty, its results and MLflow four clicks below."""
    from prefect import get_client

    from flows.train_ddpm import train_ddpm

    state = train_ddpm(**given, return_state=True)
    shown = artifact_of(config.name, "summary")
    assert shown["flow_run_id"] == str(state.state_details.flow_run_id)
    assert "| bits/dim | 3.250 ± 0.500" in shown["data"]
    assert "![grid](data:image/png;base64," in shown["data"]
    assert shown["data"].startswith("[The run in MLflow](http://127.0.0.1:5000")
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).name == config.name


def test_api_lost_in_a_stage_ends_its_record_and_no_work(store, config, jobs, given, monkeypatch):
    """Catches: a trained model, and then a traceback, since Prefect's server was killed meanwhile;
    the same said at each stage; a server that is back and stays unused."""
    import httpx
    from prefect.client.base import PrefectHttpxSyncClient as Client

    from flows import stages
    from flows.train_ddpm import train_ddpm

    send, gone = Client.send, []

    def refuse(client, request, *more, **options):
        if gone:
            raise httpx.ConnectError("nobody there")
        return send(client, request, *more, **options)

    def go():
        if len(jobs.followed) == 2:
            gone.append(None)
        if len(jobs.followed) == 3:
            gone.clear()

    monkeypatch.setattr(Client, "send", refuse)
    jobs.on_follow = go
    stream = io.StringIO()
    parameters = given | {"ray_address": None}
    with console.show_on(console.Console(stream)):
        results = stages.run_flow(train_ddpm, TRAIN_DDPM.stages(), parameters)
    assert [result["stage"] for result in results] == list(TRAIN_DDPM.stages())
    assert jobs.ran == list(TRAIN_DDPM.stages())
    assert is_done(store, config, *TRAIN_DDPM.stages())
    assert stream.getvalue().count("Prefect's API is gone (ConnectError: nobody there)") == 1


def test_api_lost_for_good_ends_no_work(store, config, jobs, given, monkeypatch):
    """Catches: the stages that are done already looked at, and told, once more at the end."""
    import httpx
    from prefect.client.base import PrefectHttpxSyncClient as Client

    from flows import stages
    from flows.train_ddpm import train_ddpm

    def lose():
        def refuse(*_, **__):
            raise httpx.ConnectError("nobody there")

        monkeypatch.setattr(Client, "send", refuse)

    jobs.on_follow = lose
    stream = io.StringIO()
    parameters = given | {"ray_address": None}
    with console.show_on(console.Console(stream)):
        results = stages.run_flow(train_ddpm, TRAIN_DDPM.stages(), parameters)
    assert [result["stage"] for result in results] == list(TRAIN_DDPM.stages())
    assert is_done(store, config, *TRAIN_DDPM.stages())
    assert stream.getvalue().count("Prefect's API is gone") == 1
    assert stream.getvalue().count("done already") == 1, "of the stage in which it was lost"


@pytest.mark.parametrize("in_a_stage", [False, True])
def test_state_says_what_ended_the_flow_in_our_words(jobs, given, caplog, in_a_stage):
    """Catches: "Failed", or "1/1 states failed", and two tracebacks for a sentence."""
    from flows.stages import shard_dataset
    from flows.train_ddpm import train_ddpm

    if in_a_stage:
        jobs.ends, jobs.lines = [3], ["shard: a.png is no image; give another"]
        wanted, kind = "a.png is no image; give another", errors.DataError
    else:
        given = given | {"overrides": {"train.num_step": 5}}
        wanted, kind = "no key 'train.num_step'; did you mean 'num_steps'?", errors.ConfigError
    state = train_ddpm(**given, return_state=True)
    assert state.is_failed()
    assert state.message == wanted
    if in_a_stage:
        jobs.ends = [3]
        assert shard_dataset(**given, return_state=True).message == wanted
    assert type(state.result(raise_on_failure=False)) is kind
    assert "Traceback" not in caplog.text


def test_prefect_links_to_mlflow(jobs, given, config, monkeypatch):
    """Catches: no way from Prefect's page to the curves, a link that a browser will not open, a
    password in it."""
    from flows.stages import train

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(**given)
    link = artifact_of(config.name, "mlflow")
    assert link["data"].endswith("](http://127.0.0.1:5000)")
    assert f"make ui ROOT={given['root']}" in link["description"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example/x")
    train(**given)
    link = artifact_of(config.name, "mlflow")
    assert link["data"].endswith("](https://mlflow.example/x)")
    assert "secret" not in str(link)


def test_wrong_override_fails_the_flow_at_once(jobs, given):
    """Catches: a configuration error after a cluster was started, or tried three times."""
    from flows.train_ddpm import train_ddpm

    with pytest.raises(errors.ConfigError, match="did you mean"):
        train_ddpm(**given | {"overrides": {"train.num_step": 5}})
    assert not jobs.entered
