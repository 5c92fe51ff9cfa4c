"""A network that reads captions, trained with its encoder from the shards on, then drawn from."""

import math

import pytest

from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.runs import results
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.worker import train_rank
from tests.models.adm_oracle import TEXT
from tests.sampling.tiny import RecordingTracker, in_process  # noqa: F401 - a fixture
from tests.training.small import small_config
from tests.training.test_worker import ALONE, Killed

FEW = {
    "sample.num_images": 8,
    "sample.unit_size": 4,
    "sample.batch_size": 4,
    "sample.num_grid_images": 4,
    "sample.num_strip_images": 2,
    "sample.guidance_scale": 2.0,
    "evaluate.num_likelihood_images": 4,
    "evaluate.batch_size": 16,
    "evaluate.feature_steps": 5,
}


def config_of(**changes):
    of_data = {"data.name": "coloured_digits", "data.num_test_images": None}
    few = {"train.num_steps": 6, "train.checkpoint_every": 2, "train.preview_every": 4}
    return small_config().replaced(
        TEXT
        | {"model.text_length": 32}
        | of_data
        | {"data.captions": "beside"}
        | few
        | FEW
        | changes
    )


def trained(store):
    """Return the digest of the weights after a training from the shards on."""
    config = config_of()
    run_shard(store, config)
    train_rank(store, config, ALONE)
    return results.final_checkpoint(store, config).files["ema"].sha256


class Tracker(RecordingTracker):
    def log_previews(self):
        pass


@pytest.fixture
def roots(tmp_path, monkeypatch):
    def open_tracker(store, _config, **_):
        tracker = Tracker()
        tracker.store = store
        return tracker

    for module in ("training.worker", "sampling.stage", "evaluation.stage"):
        monkeypatch.setattr(f"ddpm_core.{module}.open_tracker", open_tracker)
    return [open_store(str(tmp_path / name)) for name in ("one", "two")]


def test_a_killed_training_ends_in_the_same_weights_and_draws_what_it_read(
    in_process,  # noqa: F811
    roots,
    monkeypatch,
):
    """Catches: captions, or their leaving out, that are drawn anew after a restart; an encoder that
    is not in the checkpoint; a stage that a network of texts does not get through.
    """
    whole, killed = roots
    wanted, true_step = trained(whole), Denoising.step

    def fatal(self, number, *args):
        if number == 5:
            raise Killed
        true_step(self, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "step", fatal)
        with pytest.raises(Killed):
            trained(killed)
    assert trained(killed) == wanted
    config = config_of()
    run_sample(whole, config)
    assert math.isfinite(run_evaluate(whole, config)["bits_per_dim"]["value"])
