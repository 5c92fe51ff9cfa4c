"""The flows run their stages in order, attach to what runs, and try again what may pass."""

import io
import re
from dataclasses import replace

import pytest

from ddpm_core import errors
from ddpm_core.cluster import connection
from ddpm_core.config import ComputeConfig
from ddpm_core.runs.stages import STAGES
from ddpm_core.store import manifest
from flows import console, plan, ray_jobs
from flows.command_line import PAPER, TRAIN_DDPM
from flows.ray_jobs import Job
from tests import toy_stage
from tests.flows.fakes import finish, is_done, recorded
from tests.flows.stages.conftest import MARKS, WAITS_S, artifact_of

pytestmark = MARKS


def test_pipeline_runs_its_stages_in_order_and_then_never_again(store, config, jobs, given):
    """Catches: a stage left out, results handed on as objects, a second run that starts jobs."""
    from flows.train_ddpm import train_ddpm

    results = train_ddpm(**given)
    assert [result["stage"] for result in results] == list(TRAIN_DDPM.stages())
    assert jobs.ran == list(TRAIN_DDPM.stages())
    assert is_done(store, config, *TRAIN_DDPM.stages())
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
    assert [result["stage"] for result in results] == list(PAPER.stages())
    assert PAPER.stages() == ("shard", "train", "sample", "evaluate", "study", "ablations")
    assert jobs.ran == list(PAPER.stages())
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
    for stage in TRAIN_DDPM.stages():
        assert re.search(rf"{stage} +done in", stream.getvalue())


def test_stage_of_a_shared_job_is_tried_again_with_those_after_it(jobs, given):
    """Catches: all done again since one was killed, or the others left out, or two at once."""
    from flows.train_ddpm import train_ddpm

    jobs.ends = [0, None]
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
    assert [name.split("-")[1] for name, _ in jobs.submitted] == list(TRAIN_DDPM.stages())


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


def test_what_may_pass_is_tried_again_twice(jobs, given):
    """Catches: a training whose machine was lost given up, or tried without end."""
    from flows.stages import shard_dataset

    jobs.ends = [6, -9, 0]
    assert shard_dataset(**given)["stage"] == "shard"
    assert [name[-3:] for name, _ in jobs.submitted] == ["-a1", "-a2", "-a3"]


def test_tries_are_bounded_and_the_last_error_is_the_flow_s(jobs, given):
    """Catches: retries of the flow times retries of the task."""
    from flows.train_ddpm import train_ddpm

    jobs.ends = [7] * 10
    with pytest.raises(errors.ClusterError):
        train_ddpm(**given)
    assert len(jobs.submitted) == 1 + len(WAITS_S)


@pytest.mark.parametrize("end", [5, "stopped"])
def test_what_will_fail_again_is_not_tried_again(jobs, given, end):
    """Catches: a diverged training restarted, or one that a person stopped.

    Which error each end is, `test_attempt.py` says; which of them are tried again,
    `test_one_stage.py`.
    """
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


def test_flow_run_without_a_name_is_named_after_the_recipe():
    """Catches: flow runs called "None", or after an animal."""
    from flows.stages import train

    assert train.flow_run_name
    assert train.flow_run_name.format(run=None, recipe="mnist", root="x") == "mnist"
    assert train.flow_run_name.format(run="a.b", recipe="mnist", root="x") == "a.b"


def test_damaged_result_is_made_again_by_its_stage(store, config, jobs, given, monkeypatch):
    """Catches: a flow that refuses for ever what the stage that it would start mends."""
    from flows.train_ddpm import train_ddpm

    recorded(store, config, *TRAIN_DDPM.stages())
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
