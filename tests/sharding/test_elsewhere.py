"""A root that was copied to where its sources are not: data sets are used, and grow, by name."""

import shutil

import pytest
import torch

from ddpm_core import cluster
from ddpm_core.runs import results
from ddpm_core.runs.dataset_names import lineage
from ddpm_core.runs.run import configure
from ddpm_core.sharding.stage import run_shard
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from tests.images.image_files import image_file, write_folder
from tests.own_cache import cache_folder
from tests.sampling.tiny import RecordingTracker, in_process
from tests.sharding.small import files_below

__all__ = ["cache_folder", "in_process"]
pytest_plugins = ["tests.s3_fixtures"]

KEYS = {
    "model.base_channels": 8,
    "model.channel_mults": [1],
    "model.num_res_blocks": 1,
    "model.num_groups": 4,
    "model.attention_resolutions": [],
    "diffusion.num_timesteps": 24,
    "train.num_steps": 3,
    "train.global_batch_size": 4,
    "evaluate.num_likelihood_images": 2,
    "compute.num_workers": 1,
}
MADE = {"data.height": 8, "data.width": 8, "data.images_per_shard": 4, "data.num_test_images": 2}


@pytest.fixture
def source(tmp_path):
    pictures = {f"{kind}/{at}.png": image_file(10 * ord(kind[0]) + at) for kind in ("cat", "owl")
                for at in range(5)}  # fmt: skip
    return write_folder(tmp_path / "my photos", pictures)


@pytest.fixture(params=["folder", "bucket"])
def elsewhere(request, tmp_path):
    """Return a function that moves a root to where nothing else of this machine is."""

    def moved(root):
        if request.param == "folder":
            return open_store(str(root.rename(tmp_path / "another machine")))
        store = request.getfixturevalue("s3_store")
        for key, data in files_below(root).items():
            store.write(key, data)
        shutil.rmtree(root)
        return store

    return moved


def run_of(store, run, **changes):
    return configure("images", root=store.uri, run=run, changes={**KEYS, **changes})[1]


def trained(store, config):
    """The SHA-256 of the last weights, by what they are."""
    run_shard(store, config)
    worker.train_rank(store, config, cluster.Place(0, 1, torch.device("cpu")))
    done = results.final_checkpoint(store, config)
    return {role: record.sha256 for role, record in done.files.items()}


def test_where_no_source_is_a_named_set_trains_to_the_same_weights_and_grows(
    source, elsewhere, tmp_path, in_process, monkeypatch
):
    """Catches a stage that looks for the source, or for the root of before; other weights; and an
    append that only a disk can do."""
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_more: RecordingTracker())
    here = open_store(str(tmp_path / "root"))
    made = run_of(here, "a", **MADE, **{"data.source": str(source), "data.set_name": "faces"})
    expected = trained(here, made)
    store = elsewhere(tmp_path / "root")
    shutil.rmtree(source)
    other = write_folder(tmp_path / "more", {f"bee/{at}.png": image_file(at) for at in range(3)})
    appended = run_of(store, "c", **{"data.append_to": "faces", "data.source": str(other)})
    run_shard(store, appended)
    old, new = lineage(store, "faces")
    grown = load_index(store, new.pointer.folder, new.pointer.fingerprint)
    assert sum(grown.num_images.values()) == 13
    assert problems_of(store, grown) == []
    assert trained(store, run_of(store, "b", **{"data.sets": old.pinned})) == expected
    assert trained(store, run_of(store, "d", **{"data.sets": "faces"})) != expected
