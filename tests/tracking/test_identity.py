"""Which MLflow run stands for what."""

import shutil
from pathlib import Path

import pytest
import torch

from ddpm_core.runs import layout
from ddpm_core.store.storage import open_store
from ddpm_core.tracking.identity import Identity
from ddpm_core.training.storing import checkpoint
from tests.tracking.local import committed, log, open_quiet, runs_of, the_run

MINE = Identity("/data/runs/digits", "e", "mine")


@pytest.mark.parametrize(
    ("changed", "unique", "owns"),
    [
        ({}, False, True),
        ({"ddpm.birth": "other"}, False, False),
        ({"ddpm.birth": "other"}, True, True),
        ({"ddpm.birth": None}, False, True),
        ({"ddpm.birth": None, "ddpm.experiment": "other"}, False, False),
        ({"ddpm.experiment": "other"}, False, True),
        ({"ddpm.run_uri": "/home/runs/digits"}, True, False),
        ({"ddpm.run_uri": None}, True, False),
    ],
)
def test_what_a_run_owns(changed, unique, owns):
    """Catches the model of another machine's /data/runs taken for one's own, one's own taken for
    another's after a training anew in the only place of this name, or after an upgrade."""
    tags = {key: value for key, value in (MINE.tags | changed).items() if value is not None}
    assert MINE.owns(tags, unique_root=unique) is owns


def test_a_run_trained_anew_in_a_deleted_folder_is_another_run(store, config):
    """Catches the parameters and the loss of the run before, over which nothing new is logged."""
    log(store, config, {"step": 50, "loss": 0.5})
    shutil.rmtree(store.local_path(layout.run_folder(config.name)))
    other = config.replaced({"train.learning_rate": 0.5})
    log(store, other, {"step": 50, "loss": 0.25})
    client, (first, second) = runs_of(store, config)
    assert second.data.params["train.learning_rate"] == "0.5"
    assert first.data.params["train.learning_rate"] != "0.5"
    for run, loss in ((first, 0.5), (second, 0.25)):
        found = client.get_metric_history(run.info.run_id, "loss")
        assert [one.value for one in found] == [loss]


def test_another_experiment_in_the_same_folder_is_another_run(store, config):
    """Catches a folder that was emptied by hand, all but its id."""
    log(store, config, {"step": 50, "loss": 0.5})
    log(store, config.replaced({"train.learning_rate": 0.5}), {"step": 50, "loss": 0.25})
    assert len(runs_of(store, config)[1]) == 2


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_a_run_from_before_folders_had_ids_goes_on(store, config, has_checkpoint):
    """Catches an upgrade that leaves the curve behind; and, without a checkpoint, the points of a
    training that begins anew dropped."""
    config = config.replaced({"name": f"{config.name[:40]}-{has_checkpoint}".lower()})
    log(store, config, {"step": 50, "loss": 0.5})
    client, run = the_run(store, config)
    for tag in ("ddpm.birth", "ddpm.variant"):
        client.delete_tag(run.info.run_id, tag)
    store.delete(layout.birth_key(config.name))
    if has_checkpoint:
        weights = {"model.x": torch.zeros(1)}
        origin = checkpoint.Origin(layout.experiment_fingerprint(config), "f")
        parts = checkpoint.write_parts(store, config.name, 50, {"state": weights, "ema": weights})
        checkpoint.commit(store, config.name, origin, step=50, images_seen=1, written=parts,
                          history=[])  # fmt: skip
    log(store, config, {"step": 50, "loss": 0.5}, {"step": 100, "loss": 0.25})
    log(store, config)
    assert len(runs_of(store, config)[1]) == (1 if has_checkpoint else 2)


def test_samples_of_another_sampler_are_a_run_beside(store, config):
    """Catches tags, grid and numbers of two samplers in one run."""
    store.create(layout.run_json_key(config.name), config.to_json().encode())
    other = config.replaced({"sample.num_steps": 10, "sample.sampler": "unipc"})
    for one, picture in ((config, b"first"), (other, b"second")):
        result = committed(store, config, grid=picture)
        with open_quiet(store, one, "sample") as tracker:
            assert tracker.is_variant is (one is other)
            tracker.log_image("grid.png", result, "grid")
            tracker.set_tags({"ddpm.samples_uri": picture.decode()})
        with open_quiet(store, one, "evaluate") as tracker:
            tracker.log_metrics({"fid": len(picture)}, step=3000)
    with open_quiet(store, other, "train") as tracker:
        assert not tracker.is_variant, "how it is sampled changes nothing of a training"
    client, (main, child) = runs_of(store, config)
    assert child.data.tags["mlflow.parentRunId"] == main.info.run_id
    assert child.info.run_name.endswith(" sample.sampler=unipc sample.num_steps=10")
    assert (main.info.status, child.info.status) == ("FINISHED", "FINISHED")
    for run, picture in ((main, b"first"), (child, b"second")):
        assert run.data.tags["ddpm.samples_uri"] == picture.decode()
        assert run.data.metrics == {"fid": len(picture)}
        path = client.download_artifacts(run.info.run_id, "pictures/grid.png")
        assert Path(path).read_bytes() == picture
    assert child.data.params["sample.sampler"] == "unipc"


def test_two_folders_of_one_path_on_one_server_are_two_runs(tmp_path, config, monkeypatch):
    """Catches runs of two people, whose machines both have /data/runs, that become one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/server.db")
    root = tmp_path / "runs"
    for machine in ("one", "two"):
        store = open_store(str(root))
        log(store, config, {"step": 50, "loss": 0.5})
        root.rename(tmp_path / machine)
    _, found = runs_of(store, config)
    assert len(found) == 2
