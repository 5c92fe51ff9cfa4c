"""A training on a mixture of data sets that lie below the root."""

from ddpm_core.runs.run import configure
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.worker import train_rank
from tests.datasets.made import made
from tests.own_cache import cache_folder
from tests.training.small import newest_checkpoint, small_config
from tests.training.test_worker import ALONE, FakeTracker, train_until

__all__ = ["cache_folder"]


def test_a_training_on_a_mixture_goes_on_as_if_it_had_not_been_killed(tmp_path, monkeypatch):
    """Catches: sets that begin their epochs anew after a restart; a worker that knows the source
    of neither; labels of a union that are none of the network's."""
    monkeypatch.setattr(worker, "open_tracker", lambda *_, **__: FakeTracker())
    store = open_store(str(tmp_path / "a root"))
    made(store, "noise", num_train=24)
    made(store, "more", num_train=17)
    changes = small_config(train__num_steps=4, train__checkpoint_every=2).flat()
    changes = {key: value for key, value in changes.items() if not key.startswith("data.")}
    changes |= {"data.sets": "noise:0.7,more:0.3", "model.conditioning": "label"}
    found = []
    for run, killed in (("whole", False), ("killed", True)):
        config = configure("digits", root=store.uri, run=run, changes=changes)[1]
        run_shard(store, config)
        if killed:
            train_until(store, config, 3, monkeypatch)
        train_rank(store, config, ALONE)
        checkpoint = newest_checkpoint(store, run)
        found.append((checkpoint.files["state"].sha256, checkpoint.body["dataset"]))
    assert found[0] == found[1]
