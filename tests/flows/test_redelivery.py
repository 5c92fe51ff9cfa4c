"""A flow that finds its run done sends what a server of MLflow lacks of it."""

import pytest

from ddpm_core.recipes import digits
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import open_tracker, place
from flows import redelivery
from tests.tracking.local import committed


class Done:
    """A stage whose result is made; it delivers it, and what was made before it, as stages do."""

    def __init__(self, name, result, before, ran):
        self.name, self.delivers, self.ran = name, [*before, result], ran
        self.is_delivered = name != "shard"

    def result(self, _store, _config):
        return self.delivers[-1]

    def load(self):
        return self.run

    def run(self, store, config):
        self.ran.append(self.name)
        with open_tracker(store, config, stage=self.name, machine_every_s=None) as tracker:
            for one in self.delivers:
                tracker.deliver(one, lambda: tracker.set_tags({"a": "b"}))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A root, a run, its stages, and the list of those that ran."""
    for name in place._JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    store, config, ran = open_store(str(tmp_path / "root")), digits(), list[str]()
    made = {
        one: committed(store, config, grid=one.encode()) for one in ("shard", "train", "sample")
    }
    stages = {
        "shard": Done("shard", made["shard"], [], ran),
        "train": Done("train", made["train"], [], ran),
        "sample": Done("sample", made["sample"], [made["train"]], ran),
    }
    monkeypatch.setattr(redelivery, "STAGES", stages)
    return store, config, tuple(stages), ran


def test_what_a_server_lacks_is_sent_once(finished, tmp_path, monkeypatch):
    """Catches "done already" that leaves a gap in MLflow for ever, a stage that runs again each
    time, and a line for each of four stages where one sends all."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/server.db")
    store, config, stages, ran = finished
    redelivery.send_missing(store, config, stages)
    assert ran == ["sample"]
    redelivery.send_missing(store, config, stages)
    assert ran == ["sample"]


def test_the_database_in_the_root_is_never_away(finished):
    """Catches a finished flow that reads a database, and imports torch, to find all there."""
    store, config, stages, ran = finished
    redelivery.send_missing(store, config, stages)
    assert not ran


def test_a_server_that_is_still_away_is_tried_once(finished, monkeypatch):
    """Catches the wait for a dead server that is repeated for each stage."""
    store, config, stages, ran = finished
    monkeypatch.setattr(redelivery, "has_arrived", lambda *_: False)
    redelivery.send_missing(store, config, stages)
    assert ran == ["sample"]
