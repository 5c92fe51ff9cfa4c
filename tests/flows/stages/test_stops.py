"""What stops the jobs of a flow: Ctrl-C, a termination, a cancelled run, the stop command."""

import contextlib
from types import SimpleNamespace

import pytest

from ddpm_core.recipes import digits
from ddpm_core.runs.run import DEFAULT_ROOT
from ddpm_core.store.storage import open_store
from flows import plan
from flows.ray_jobs import Job
from tests.flows.fakes import recorded
from tests.flows.stages.conftest import MARKS

pytestmark = MARKS


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
