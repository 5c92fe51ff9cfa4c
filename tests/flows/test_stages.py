"""The flows on a Prefect server, with a cluster in memory: done, attach, retry, stop."""

import contextlib
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ddpm_core import errors, progress
from ddpm_core.cluster import connection
from ddpm_core.config import ComputeConfig
from ddpm_core.recipes import digits
from ddpm_core.runs.run import DEFAULT_ROOT
from ddpm_core.runs.stages import STAGES
from ddpm_core.store import manifest
from ddpm_core.store.storage import open_store
from flows import artifacts, console, plan, ray_jobs
from flows.command_line import PAPER, TRAIN_DDPM
from flows.embedded import Cluster
from flows.ray_jobs import Job
from tests import toy_stage
from tests.flows.fakes import FakeJobs, finish, is_done, recorded

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.long,
    # Prefect's own test harness and server, not ours.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WAITS_S = [0.0, 0.0]


@pytest.fixture(scope="module", autouse=True)
def prefect_api():
    """A Prefect server of these tests' own."""
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=240):
            yield


@pytest.fixture
def jobs(store, config, monkeypatch):
    """Give the cluster on which all stages of `config` would run."""
    from flows import one_stage, stages

    def work(name):
        finish(store, config, name.removeprefix(f"{config.name}-").split("-")[0])

    fake = FakeJobs(work)
    entered = []

    @contextlib.contextmanager
    def cluster_at(address):
        entered.append(address)
        yield Cluster(address or "http://127.0.0.1:1", None if address else "token")

    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)  # nothing here computes
    monkeypatch.setattr(plan, "require_answer", lambda _address: None)
    monkeypatch.setattr(one_stage, "cluster_at", cluster_at)
    monkeypatch.setattr(one_stage, "RayJobs", lambda _cluster: fake)
    monkeypatch.setattr(
        stages, "run_stage", stages.run_stage.with_options(retry_delay_seconds=WAITS_S)
    )
    fake.entered = entered
    return fake


@pytest.fixture
def given(store, config):
    return {"recipe": "digits", "root": store.uri, "run": config.name, "overrides": {}}


def test_pipeline_runs_its_stages_in_order_and_then_never_again(store, config, jobs, given):
    """Catches: a stage left out, results handed on as objects, a second run that starts jobs."""
    from flows.train_ddpm import train_ddpm

    results = train_ddpm(**given)
    assert [result["stage"] for result in results] == list(TRAIN_DDPM.stages)
    assert jobs.ran == list(TRAIN_DDPM.stages)
    assert is_done(store, config, *TRAIN_DDPM.stages)
    entered = len(jobs.entered)
    assert train_ddpm(**given) == results
    assert len(jobs.ran) == 4
    assert len(jobs.entered) == entered, "a finished stage needs no cluster"


def test_the_paper_s_six_stages_run_in_order_and_then_never_again(store, config, jobs, given):
    """Catches: the ablations before the study, a stage left out, `train-ddpm`'s work done twice."""
    from flows.one_stage import stop_jobs
    from flows.paper import paper
    from flows.train_ddpm import train_ddpm

    train_ddpm(**given)
    results = paper(**given)
    assert [result["stage"] for result in results] == list(PAPER.stages)
    assert PAPER.stages == ("shard", "train", "sample", "evaluate", "study", "ablations")
    assert jobs.ran == list(PAPER.stages)
    assert [STAGES[one["stage"]].result(store, config) is not None for one in results] == [True] * 6
    assert results[4]["result"].startswith(f"{store.uri}/runs/{config.name}/study/")
    assert results[5]["result"].startswith(f"{store.uri}/runs/{config.name}/ablations/")
    entered = len(jobs.entered)
    assert paper(**given) == results
    assert len(jobs.ran) == 6
    assert len(jobs.entered) == entered, "a finished stage needs no cluster"
    assert paper.on_cancellation_hooks == [stop_jobs]


def test_a_seventh_stage_is_run_and_shown_by_the_flows(store, config, jobs, given, monkeypatch):
    """Catches: a flow that names its stages one by one, numbers that only an evaluation has."""
    from flows.train_ddpm import train_ddpm

    def work(name):
        stage = name.removeprefix(f"{config.name}-").split("-")[0]
        if stage == "toy":
            toy_stage.run_toy(store, config)
        else:
            finish(store, config, stage)

    monkeypatch.setitem(STAGES, "toy", toy_stage.STAGE)
    jobs.work, jobs.lines = work, ["toy  1/2 toys"]
    results = train_ddpm(**given)
    assert results[-1]["stage"] == "toy"
    assert jobs.ran == ["shard", "train", "sample", "evaluate", "toy"]
    assert "7 of 9" in artifact_of(config.name, "toys")["data"]
    assert "| play value | 7 of 9 |" in artifact_of(config.name, "summary")["data"]
    assert artifact_of(config.name, "toy", "progress")["data"] == 50.0


def test_stages_on_a_ray_of_the_flow_s_own_are_one_job(store, config, jobs, given):
    """Catches: four jobs that start, import and join the same, ten seconds each; a stage whose
    lines are shown, or kept, as another's; a stage that is done before it is looked at, unseen."""
    from flows.train_ddpm import train_ddpm

    jobs.lines = ["shard  5/10 images", "and more"]
    stream = io.StringIO()
    with console.show_on(console.Console(stream)):
        train_ddpm(**given)
    ((name, command),) = jobs.submitted
    assert command[2:4] == ["ddpm_core.several", "shard,train,sample,evaluate"]
    assert jobs.followed == [name] * 4
    logs = sorted(store.local_path(f"runs/{config.name}/logs").iterdir())
    assert [log.name.split("-")[1] for log in logs] == ["evaluate", "sample", "shard", "train"]
    assert {log.read_text() for log in logs} == {"shard  5/10 images\nand more\n"}
    assert f"train      runs in job {name}" in stream.getvalue()
    for stage in TRAIN_DDPM.stages:
        assert re.search(rf"{stage} +done in", stream.getvalue())


@pytest.mark.parametrize("end", [7, None])
def test_stage_of_a_shared_job_is_tried_again_with_those_after_it(jobs, given, end):
    """Catches: all done again since one was killed, or the others left out, or two at once."""
    from flows.train_ddpm import train_ddpm

    jobs.ends = [0, end]
    train_ddpm(**given)
    assert [command[3] for _, command in jobs.submitted] == [
        "shard,train,sample,evaluate",
        "train,sample,evaluate",
    ]
    assert jobs.ran == ["shard", "train", "train", "sample", "evaluate"]


def test_stage_of_a_shared_job_says_itself_why_it_ended(jobs, given):
    """Catches: the reason of a stage looked for in the lines of the one before it."""
    from flows.train_ddpm import train_ddpm

    jobs.ends = [0, 5]
    jobs.lines = ["shard: no end", "train: the loss is not finite"]
    with pytest.raises(errors.DivergenceError, match=r"^the loss is not finite$"):
        train_ddpm(**given)


def test_stages_on_a_cluster_are_jobs_of_their_own(jobs, given):
    """Catches: a flow that was lost and, begun again, finds no job of the stage it had come to."""
    from flows.train_ddpm import train_ddpm

    train_ddpm(**given, ray_address="http://head:8265")
    assert [name.split("-")[1] for name, _ in jobs.submitted] == list(TRAIN_DDPM.stages)


def test_stage_flow_alone_attaches_to_the_living_job(store, config, jobs, given):
    """Catches: a second job where the first survived its flow."""
    from flows.stages import shard_dataset

    recorded(store, config)
    name = f"{plan.job_prefix(store, config, 'shard')}-a1"
    jobs.jobs[name] = Job(name, "RUNNING", None, "")
    result = shard_dataset(**given, ray_address="http://head:8265")
    assert jobs.followed == [name]
    assert not jobs.submitted
    assert result["stage"] == "shard"
    assert jobs.entered == ["http://head:8265"]


@pytest.mark.parametrize("ends", [[6, 7, 0], [None, -9, 0]])
def test_what_may_pass_is_tried_again_twice(jobs, given, ends):
    """Catches: a training whose machine was lost given up, or tried without end."""
    from flows.stages import shard_dataset

    jobs.ends = list(ends)
    assert shard_dataset(**given)["stage"] == "shard"
    assert [name[-3:] for name, _ in jobs.submitted] == ["-a1", "-a2", "-a3"]


def test_tries_are_bounded_and_the_last_error_is_the_flow_s(jobs, given):
    """Catches: retries of the flow times retries of the task."""
    from flows.train_ddpm import train_ddpm

    jobs.ends = [7] * 10
    with pytest.raises(errors.ClusterError):
        train_ddpm(**given)
    assert len(jobs.submitted) == 1 + len(WAITS_S)


@pytest.mark.parametrize("end", [1, 2, 3, 4, 5, 130, -2, "stopped"])
def test_what_will_fail_again_is_not_tried_again(jobs, given, end):
    """Catches: a diverged training restarted, or one that a person stopped."""
    from flows.stages import shard_dataset

    jobs.ends = [end, 0]
    with pytest.raises(errors.PipelineError) as caught:
        shard_dataset(**given)
    assert len(jobs.submitted) == 1
    assert caught.value.exit_code == (130 if end in ("stopped", -2) else end)


def refused_job():
    """What the client makes of Ray's answer to a job that it will never take."""
    return ray_jobs._refusal(RuntimeError("Request failed with status code 400: no such thing"))


def cluster_too_small():
    """What a stage on a cluster with one core says to its configuration."""
    nodes = [{"Alive": True, "Resources": {"CPU": 1.0}}]
    compute = ComputeConfig(num_workers=2, use_gpu=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection.ray, "nodes", lambda: nodes)
        with pytest.raises(errors.PipelineError) as caught:
            connection._preflight(compute, patience_s=0)
    return caught.value


def test_what_the_cluster_refuses_is_not_tried_again(jobs, given, monkeypatch):
    """Catches: three attempts, with waits, at what Ray has said no to."""
    from flows.stages import shard_dataset

    asked, refusal = [], refused_job()

    def refuse(prefix, command):
        asked.append(prefix)
        raise refusal

    monkeypatch.setattr(jobs, "ensure", refuse)
    with pytest.raises(type(refusal), match="no such thing"):
        shard_dataset(**given)
    assert len(asked) == 1


def test_what_the_cluster_cannot_hold_is_not_tried_again(jobs, given):
    """Catches: three attempts, with waits, at more workers than there are cores."""
    from flows.stages import shard_dataset

    too_small = cluster_too_small()
    jobs.ends, jobs.lines = [too_small.exit_code, 0], [f"shard: {too_small}"]
    with pytest.raises(errors.ConfigError, match="has room for 1"):
        shard_dataset(**given)
    assert len(jobs.submitted) == 1


def test_ctrl_c_stops_the_job(jobs, given, monkeypatch):
    """Catches: a training that goes on after its user has gone."""
    from flows.stages import shard_dataset

    def interrupt():
        raise KeyboardInterrupt

    jobs.on_follow = interrupt
    with pytest.raises(KeyboardInterrupt):
        shard_dataset(**given)
    assert [job.status for job in jobs.jobs.values()] == ["STOPPED"]
    # In a process of Prefect's worker it is the worker that somebody interrupted.
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "0")
    with pytest.raises(KeyboardInterrupt):
        shard_dataset(**given, ray_address="http://head:8265")
    assert sorted(job.status for job in jobs.jobs.values()) == ["RUNNING", "STOPPED"]


@pytest.mark.parametrize("cancelling", [True, False])
def test_termination_stops_the_job_only_if_the_run_is_being_cancelled(jobs, given, cancelling):
    """Catches: a lost worker that takes days of training with it, a cancelled one that stays."""
    from prefect import get_client
    from prefect.exceptions import TerminationSignal
    from prefect.runtime import flow_run
    from prefect.states import Cancelling

    from flows.stages import shard_dataset

    def terminate():
        if cancelling:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run.id, Cancelling(), force=True)
        raise TerminationSignal(signal=15)

    jobs.on_follow = terminate
    with terminations_survived(), pytest.raises(TerminationSignal):
        shard_dataset(**given, ray_address="http://head:8265")
    assert [job.status for job in jobs.jobs.values()] == ["STOPPED" if cancelling else "RUNNING"]


@contextlib.contextmanager
def terminations_survived():
    """Take the SIGTERM that Prefect sends itself after a termination."""
    import signal

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def test_hook_of_a_cancelled_run_stops_all_its_jobs(store, config, jobs, given):
    """Catches: a job that outlives the cancelled flow since the flow's process was killed hard."""
    from flows.one_stage import stop_jobs
    from flows.train_ddpm import train_ddpm

    recorded(store, config)
    mine = [f"{plan.job_prefix(store, config, stage)}-a1" for stage in ("train", "sample")]
    other_root = open_store(f"{store.uri}-other")
    others = [f"{plan.job_prefix(other_root, config, 'train')}-a1"]
    for name in mine + others:
        jobs.jobs[name] = Job(name, "RUNNING", None, "")
    run = SimpleNamespace(parameters=given | {"ray_address": None})
    stop_jobs(flow=train_ddpm, flow_run=run, state=None)
    assert not [job for job in jobs.jobs.values() if job.has_ended]
    run.parameters["ray_address"] = "http://head:8265"
    stop_jobs(flow=train_ddpm, flow_run=run, state=None)
    assert {name for name, job in jobs.jobs.items() if job.has_ended} == set(mine)
    assert train_ddpm.on_cancellation_hooks == [stop_jobs]


def test_hook_knows_what_a_run_left_to_the_defaults(jobs, monkeypatch, tmp_path):
    """Catches: a KeyError in the hook, so that the job of a cancelled run goes on."""
    from flows.one_stage import stop_jobs
    from flows.train_ddpm import train_ddpm

    monkeypatch.chdir(tmp_path)
    config = digits()
    name = f"{plan.job_prefix(open_store(DEFAULT_ROOT), config, 'train')}-a1"
    jobs.jobs[name] = Job(name, "RUNNING", None, "")
    run = SimpleNamespace(parameters={"ray_address": "http://head:8265"})
    stop_jobs(flow=train_ddpm, flow_run=run, state=None)
    assert jobs.jobs[name].has_ended


def test_stop_command_stops_a_run_s_jobs(store, config, jobs, monkeypatch, capsys):
    """Catches: no way out when the flow that submitted a job is gone."""
    from flows import stop

    monkeypatch.setattr(stop, "RayJobs", lambda _cluster: jobs)
    name = f"{plan.job_prefix(store, config, 'evaluate')}-a1"
    jobs.jobs[name] = Job(name, "RUNNING", None, "")
    given = ["--run", config.name, "--root", store.uri, "--ray-address", "http://head:8265"]
    assert stop.main(given) == 0
    assert f"stopped {name}" in capsys.readouterr().out
    assert stop.main(given) == 0
    assert "no job" in capsys.readouterr().out


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
    """Catches: a flow run whose page is empty, its results four clicks below."""
    from prefect import get_client

    from flows.train_ddpm import train_ddpm

    state = train_ddpm(**given, return_state=True)
    shown = artifact_of(config.name, "summary")
    assert shown["flow_run_id"] == str(state.state_details.flow_run_id)
    assert "| bits/dim | 3.250 ± 0.500" in shown["data"]
    assert "![grid](data:image/png;base64," in shown["data"]
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
        results = stages.run_flow(train_ddpm, TRAIN_DDPM.stages, parameters)
    assert [result["stage"] for result in results] == list(TRAIN_DDPM.stages)
    assert jobs.ran == list(TRAIN_DDPM.stages)
    assert is_done(store, config, *TRAIN_DDPM.stages)
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
        results = stages.run_flow(train_ddpm, TRAIN_DDPM.stages, parameters)
    assert [result["stage"] for result in results] == list(TRAIN_DDPM.stages)
    assert is_done(store, config, *TRAIN_DDPM.stages)
    assert stream.getvalue().count("Prefect's API is gone") == 1
    assert stream.getvalue().count("done already") == 1, "of the stage in which it was lost"


def test_flow_run_without_a_name_is_named_after_the_recipe():
    """Catches: flow runs called "None", or after an animal."""
    from flows.stages import train

    assert train.flow_run_name
    assert train.flow_run_name.format(run=None, recipe="mnist", root="x") == "mnist"
    assert train.flow_run_name.format(run="a.b", recipe="mnist", root="x") == "a.b"


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


def test_damaged_result_is_made_again_by_its_stage(store, config, jobs, given, monkeypatch):
    """Catches: a flow that refuses for ever what the stage that it would start mends."""
    from flows.train_ddpm import train_ddpm

    recorded(store, config, *TRAIN_DDPM.stages)
    damaged = ["shard", "sample"]

    def look(stage, real):
        def result(*given):
            if stage in damaged:
                raise manifest.DamagedError(f"{stage} is damaged")
            return real(*given)

        return result

    for name, stage in list(STAGES.items()):
        monkeypatch.setitem(STAGES, name, replace(stage, result=look(name, stage.result)))
    jobs.work = lambda name: damaged.remove(name.split("-")[1])
    stream = io.StringIO()
    with console.show_on(console.Console(stream)):
        train_ddpm(**given)
    assert jobs.ran == ["shard", "sample"]
    assert "warning: sample: sample is damaged\nsample runs again" in stream.getvalue()
    damaged.append("train")
    jobs.work = lambda _: None
    with pytest.raises(manifest.DamagedError, match="train is damaged"):
        train_ddpm(**given)


def artifact_of(*words):
    """Return the latest artifact of that key from Prefect's API."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        key = artifacts.artifact_key(*words)
        return client.request("GET", "/artifacts/{key}/latest", path_params={"key": key}).json()


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
