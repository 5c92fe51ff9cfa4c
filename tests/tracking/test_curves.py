"""Curves in TensorBoard and in Weights & Biases."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import open_tracker, place
from tests.tracking.local import open_quiet


def written(folder):
    (birth,) = folder.iterdir()
    return curves_in(birth)


def curves_in(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(one.step, one.value) for one in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_has_each_point_once(store, config, monkeypatch, tmp_path):
    """Catches: a curve that is written again by every attempt, and one that MLflow alone gets."""
    monkeypatch.setenv("DDPM_TENSORBOARD", str(tmp_path / "some curves"))
    points = [{"step": step, "train/loss": step / 8, "bad": float("nan")} for step in (1, 2, 3)]
    for length in (2, 3):
        with open_quiet(store, config) as tracker:
            tracker.log_points(points[:length])
    expected = {"train/loss": [(1, 0.125), (2, 0.25), (3, 0.375)]}
    assert written(tmp_path / "some curves" / config.name) == expected


def test_curves_need_no_mlflow(config, monkeypatch, tmp_path):
    """Catches: TensorBoard that is silent where MLflow is off, as for a root in a bucket."""
    monkeypatch.setattr(place, "find_home", lambda _store: None)
    monkeypatch.setenv("DDPM_TENSORBOARD", str(tmp_path / "curves"))
    with open_tracker(open_store(str(tmp_path)), config, stage="train") as tracker:
        tracker.log_points([{"step": 7, "loss": 0.5}])
    assert written(tmp_path / "curves" / config.name) == {"loss": [(7, 0.5)]}


def test_another_run_of_the_name_has_curves_of_its_own(config, monkeypatch, tmp_path):
    """Catches: two roots' runs, or one that was deleted and trained anew, in one curve, of which
    only the first is written."""
    monkeypatch.setenv("DDPM_TENSORBOARD", str(tmp_path / "curves"))
    monkeypatch.setattr(place, "find_home", lambda _store: None)
    for root in ("one", "other"):
        with open_tracker(open_store(str(tmp_path / root)), config, stage="train") as tracker:
            tracker.log_points([{"step": 7, "loss": 0.5}])
    births = list((tmp_path / "curves" / config.name).iterdir())
    assert [curves_in(one) for one in births] == [{"loss": [(7, 0.5)]}] * 2


def test_a_bucket_that_is_away_stops_no_training(store, config, monkeypatch, tmp_path, capsys):
    """Catches: the id of the run's folder that is read where the training waits for it."""

    def away(*_):
        raise StorageError("no answer")

    monkeypatch.setenv("DDPM_TENSORBOARD", str(tmp_path / "curves"))
    monkeypatch.setattr(place, "find_home", lambda _store: None)
    monkeypatch.setattr("ddpm_core.tracking.curves.identify", away)
    tracker = open_tracker(store, config, stage="train")
    tracker.log_points([{"step": 7, "loss": 0.5}])
    assert not tracker.close(0.1)
    assert "did not get the points of steps 7 to 7" in capsys.readouterr().err


class FakeWandb(ModuleType):
    """W&B's client, as far as it is used; a run stays until the next with its id."""

    class errors:  # noqa: N801 - as W&B has it
        Error = type("Error", (Exception,), {})
        CommError = type("CommError", (Error,), {})

    Settings = SimpleNamespace

    def __init__(self):
        super().__init__("wandb")
        self.runs = {}

    def init(self, *, id, **about):
        run = self.runs.setdefault(id, SimpleNamespace(about=about, summary={}, rows=[]))
        run.define_metric = lambda *names, **how: None
        run.log = lambda values: (run.rows.append(values), run.summary.update(values))
        return run


def test_wandb_goes_on_with_its_run(store, config, monkeypatch):
    """Catches: a second run of W&B's after a resume, and points that are sent again."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delitem(sys.modules, "ddpm_core.tracking.wandb_curves", raising=False)
    monkeypatch.setattr("ddpm_core.tracking.curves.find_spec", lambda _name: object())
    monkeypatch.setenv("DDPM_WANDB", "project")
    points = [{"step": step, "loss": step / 8, "rate": 0.5} for step in (1, 2, 3)]
    for length in (2, 3):
        with open_quiet(store, config) as tracker:
            tracker.log_points(points[:length])
    ((_, run),) = fake.runs.items()
    assert run.about["project"] == "project"
    assert run.about["config"]["train.num_steps"] == config.train.num_steps
    assert [(row["train_step"], row["loss"]) for row in run.rows] == [
        (1, 0.125), (2, 0.25), (3, 0.375),
    ]  # fmt: skip
    monkeypatch.delitem(sys.modules, "ddpm_core.tracking.wandb_curves")


def test_what_cannot_write_is_refused_before_anything_starts(store, config, monkeypatch):
    monkeypatch.setenv("DDPM_TENSORBOARD", "s3://bucket/curves")
    with pytest.raises(ConfigError, match="is no folder of a disk"):
        open_quiet(store, config)
    monkeypatch.delenv("DDPM_TENSORBOARD")
    monkeypatch.setenv("DDPM_WANDB", "project")
    monkeypatch.setattr("ddpm_core.tracking.curves.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        open_quiet(store, config)
