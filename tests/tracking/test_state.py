"""What MLflow shows of a run: at work, finished, failed, interrupted."""

import threading

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.tracking import (
    mlflow_run,
    outbox,
)
from ddpm_core.tracking.outbox import Unreachable
from tests.tracking.local import log, open_quiet, runs_of, status_of, the_run, wait_for


def test_the_status_follows_the_stages(store, config):
    """Catches runs that stay RUNNING after the one stage that was asked for, failed ones that look
    finished, interrupted ones that look as if they went on."""
    tracker = open_quiet(store, config)
    tracker.begin()
    wait_for(lambda: runs_of(store, config)[1])
    wait_for(lambda: status_of(store, config, "train") == ("RUNNING", "running"))
    assert tracker.close()
    assert status_of(store, config, "train") == ("FINISHED", "done")
    for error, status, word in (
        (ZeroDivisionError, "FAILED", "failed"),
        (KeyboardInterrupt, "KILLED", "interrupted"),
    ):
        tracker = open_quiet(store, config, "evaluate")
        tracker.begin()
        with pytest.raises(error), tracker:
            raise error
        assert status_of(store, config, "evaluate") == (status, word)
    log(store, config, stage="evaluate")
    assert status_of(store, config, "evaluate") == ("FINISHED", "done")


def test_a_group_that_is_killed_with_its_worker_has_an_end_too(store, config):
    """Catches a cancelled training that is RUNNING for ever: the process that logged is gone, and
    the stage that started it has logged nothing."""
    log(store, config)
    client, run = the_run(store, config)
    client.update_run(run.info.run_id, status="RUNNING")
    with pytest.raises(KeyboardInterrupt), open_quiet(store, config):
        raise KeyboardInterrupt
    assert status_of(store, config, "train") == ("KILLED", "interrupted")


def test_what_is_refused_before_it_begins_leaves_nothing(store, config):
    """Catches a failed MLflow run for a typo, after the seconds that MLflow's import takes."""
    log(store, config)
    with pytest.raises(ConfigError), open_quiet(store, config):
        raise ConfigError("no such key")
    assert status_of(store, config, "train") == ("FINISHED", "done")


def test_a_stage_that_finds_its_result_changes_no_duration(store, config):
    """Catches "done already" that moves the end of the run, or shows it as RUNNING meanwhile."""
    log(store, config, stage="evaluate")
    client, before = the_run(store, config)
    for stage in ("evaluate", "train"):
        with open_quiet(store, config, stage) as tracker:
            tracker.log_metrics({"fid": 1.0}, step=3)
        _, after = the_run(store, config)
        assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)
        assert after.data.tags[f"ddpm.stage.{stage}"] == "done"
    # What a kill left RUNNING ends, but not what another stage is working on.
    client.update_run(before.info.run_id, status="RUNNING")
    client.set_tag(before.info.run_id, "ddpm.stage.sample", "running")
    for stage, status in (("evaluate", "RUNNING"), ("sample", "FINISHED")):
        with open_quiet(store, config, stage) as tracker:
            tracker.log_metrics({"fid": 1.0}, step=3)
        assert the_run(store, config)[1].info.status == status


def test_an_old_delivery_that_comes_last_brings_nothing_back(store, config, monkeypatch):
    """Catches `running` over `done`, and an old tag over a new one, after an outage: what was not
    delivered is put behind what was queued later."""
    monkeypatch.setattr(outbox, "_FIRST_WAIT_S", 0.05)
    fails, ended = {"begin": 1, "set_tags": 3}, []

    def failing(name):
        real = getattr(mlflow_run.MlflowRun, name)

        def method(run, *arguments):
            if fails.get(name, 0) > 0:
                fails[name] -= 1
                wait_for(lambda: ended)
                raise Unreachable("away")
            return real(run, *arguments)

        return method

    for name in ("begin", "set_tags"):
        monkeypatch.setattr(mlflow_run.MlflowRun, name, failing(name))
    tracker = open_quiet(store, config)
    tracker.begin()
    tracker.set_tags({"a": "old"})
    tracker.set_tags({"a": "new"})
    threading.Timer(0.3, lambda: ended.append(True)).start()
    assert tracker.close()
    assert status_of(store, config, "train") == ("FINISHED", "done")
    assert the_run(store, config)[1].data.tags["a"] == "new"
