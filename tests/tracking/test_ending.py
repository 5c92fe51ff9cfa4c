"""Runs that were killed get an end in MLflow; those that live keep theirs."""

import json
import subprocess
import sys

import pytest

from ddpm_core.tracking import ending, ui
from ddpm_core.tracking.place import find_home
from tests.tracking.local import log, open_quiet, status_of, the_run

_KILLED = """
import os, signal, sys, time
from ddpm_core.config import RunConfig
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import open_tracker
config = RunConfig.from_json(sys.stdin.buffer.read(), origin="stdin")
tracker = open_tracker(open_store(sys.argv[1]), config, stage="train", machine_every_s=None)
tracker.begin()
tracker.log_points([{"step": 1, "loss": 0.5}])
while tracker._outbox._queue:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def show(store):
    """Do what `make ui` does before it shows the page."""
    return ui.page_of_experiment(store, find_home(store), "http://x")


def begun(store, config, stage="train", **process):
    """Return client and run of a stage that has begun, by this process or one that differs."""
    tracker = open_quiet(store, config, stage)
    tracker.begin()
    assert tracker.close()
    client, run = the_run(store, config)
    run_id = run.info.run_id
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, f"ddpm.stage.{stage}", "running")
    noted = json.loads(ending.process_tag(stage)[f"ddpm.process.{stage}"]) | process
    client.set_tag(run_id, f"ddpm.process.{stage}", json.dumps(noted))
    return client, run_id


@pytest.mark.slow
def test_a_run_that_was_killed_ends_when_it_did(store, config, capsys):
    """Catches `kill -9` that leaves a run RUNNING for ever, with a duration up to the look."""
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, store.uri],
        input=config.to_json().encode(),
        check=False,
        timeout=120,
    )
    assert killed.returncode == -9
    assert status_of(store, config, "train") == ("RUNNING", "running")
    show(store)
    assert status_of(store, config, "train") == ("KILLED", "interrupted")
    client, run = the_run(store, config)
    (point,) = client.get_metric_history(run.info.run_id, "loss")
    begun_s = json.loads(run.data.tags["ddpm.process.train"])["since"]
    assert run.info.end_time == max(point.timestamp, int(1000 * begun_s))
    assert f"{config.name}: nothing works on it any more; KILLED at " in capsys.readouterr().err


def test_what_is_alive_or_elsewhere_goes_on(store, config, monkeypatch):
    """Catches a live run that a look ends: of this process, of another machine whose process number
    means nothing here; and one there that is silent for more than an hour and shown for ever."""
    for process in ({}, {"host": "elsewhere", "pid": 2**22 + 1}):
        client, run_id = begun(store, config, **process)
        show(store)
        assert status_of(store, config, "train") == ("RUNNING", "running")
    monkeypatch.setattr(ending, "SILENCE_S", -1.0)
    show(store)
    assert status_of(store, config, "train") == ("KILLED", "interrupted")
    # A folder of this path on another machine: not ours to judge by its silence.
    client, run_id = begun(store, config, host="elsewhere")
    client.set_tag(run_id, "ddpm.birth", "another")
    show(store)
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_stage_that_is_done_is_finished_whatever_its_end_said(store, config, monkeypatch):
    """Catches KILLED for a result that is there: the server was away when the stage ended."""
    begun(store, config, "sample", pid=2**22 + 1)
    monkeypatch.setattr(ending, "STAGES", {"sample": Sampled()})
    show(store)
    assert status_of(store, config, "sample") == ("FINISHED", "done")


class Sampled:
    """A stage whose result is there."""

    def result(self, store, config):
        assert config.name.startswith("test_a_stage_that_is_done")
        return "a manifest"


def test_a_stage_of_another_run_ends_what_was_killed(store, config):
    """Catches a server's page that a reviewer opens without `make ui`."""
    begun(store, config, pid=2**22 + 1)
    log(store, config.replaced({"name": f"{config.name}-next"}))
    assert status_of(store, config, "train") == ("KILLED", "interrupted")
