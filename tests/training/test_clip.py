"""CLIP trained from the shards of a data set, whose captions are made of its classes."""

import pytest

from ddpm_core.runs import results
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.stepping.contrasting import Contrasting
from ddpm_core.training.worker import train_rank
from tests.training.small import small_config
from tests.training.stepping.test_contrasting import CLIP
from tests.training.test_worker import ALONE, FakeTracker, Killed


def trained(store, **changes):
    """Return the digest of the weights after a training from the shards on."""
    config = small_config(data__captions="classes", train__num_steps=6, train__checkpoint_every=2)
    config = config.replaced({"model": {**CLIP, "text_length": 24}, **changes})
    run_shard(store, config)
    train_rank(store, config, ALONE)
    return results.final_checkpoint(store, config).files["ema"].sha256


@pytest.fixture
def roots(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
    return (open_store(str(tmp_path / name)) for name in ("one", "two", "three"))


def test_a_killed_training_ends_in_the_same_weights_of_the_same_captions(roots, monkeypatch):
    """Catches: captions that are drawn anew after a restart, or that the training never reads."""
    whole, killed, other = roots
    wanted, true_step = trained(whole), Contrasting.step

    def fatal(self, number, *args):
        if number == 5:
            raise Killed
        true_step(self, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Contrasting, "step", fatal)
        with pytest.raises(Killed):
            trained(killed)
    assert trained(killed) == wanted
    assert trained(other, **{"data.caption_templates": ["no {name}"]}) != wanted
