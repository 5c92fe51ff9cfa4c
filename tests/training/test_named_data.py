"""A training on a data set that is below the root, where no source of its images is."""

import pytest

from ddpm_core import cluster
from ddpm_core.runs import layout
from ddpm_core.runs.run import configure
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.worker import train_rank
from tests.datasets.made import made
from tests.own_cache import cache_folder
from tests.training.small import CPU, newest_checkpoint, small_config
from tests.training.test_worker import FakeTracker

__all__ = ["cache_folder"]
pytest_plugins = ["tests.s3_fixtures"]


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_run_on_a_named_set_is_trained_as_one_on_its_source(
    where, tmp_path, request, monkeypatch
):
    """Catches: a training that looks for a source, which random images have not; other weights, or
    another experiment, than of the same images without the name; a root in a bucket that lacks a
    file.
    """
    monkeypatch.setattr(worker, "open_tracker", lambda *_, **__: FakeTracker())
    on_disk = where == "disk"
    root = str(tmp_path / "a root")
    store = open_store(root) if on_disk else request.getfixturevalue("s3_store")
    pointer = made(store, "noise", num_train=24)
    changes = small_config(train__num_steps=3, train__checkpoint_every=3).flat()
    changes = {key: value for key, value in changes.items() if not key.startswith("data.")}
    named = configure("digits", root=store.uri, run=None, changes=changes | {"data.sets": "noise"})
    assert run_shard(store, named[1]) == pointer.folder
    # The same without the name, as if it had been made of a source.
    source = named[1].replaced({"data.sets": None, "name": "source"})
    store.create(layout.dataset_pointer_key("source"), pointer.to_json())
    found = []
    for config in (named[1], source):
        train_rank(store, config, cluster.Place(rank=0, world_size=1, device=CPU))
        checkpoint = newest_checkpoint(store, config.name)
        found.append((checkpoint.files["state"].sha256, checkpoint.body))
    assert found[0] == found[1]
    assert found[0][1]["dataset"] == pointer.fingerprint
