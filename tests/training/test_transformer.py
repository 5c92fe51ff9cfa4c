"""The second kind of network, trained by the same step: nothing of it is the U-Net's alone."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddpm_core.config import RunConfig
from ddpm_core.loading.loader import ImageSet
from ddpm_core.training.stepping.denoising import Denoising
from tests.training.small import (
    average_of,
    copy_of,
    load,
    make_learner,
    rank_slice,
    small_config,
    state_of,
)


def config() -> RunConfig:
    """Return a training of a transformer of 32,000 parameters."""
    return small_config(train__global_batch_size=32, train__random_flip=False).replaced(
        {
            "model.kind": "dit",
            "model.hidden_size": 32,
            "model.num_layers": 2,
            "model.num_heads": 4,
            "train.learning_rate": 4e-3,
        }
    )


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Give the handwritten digits that come with scikit-learn."""
    grey = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[:, None]
    zeros = torch.zeros(len(grey), dtype=torch.int64)
    return ImageSet(torch.from_numpy(grey), zeros, num_classes=1, counts=(len(grey),))


def run(learner: Denoising, images: ImageSet, start: int, stop: int) -> None:
    for step in range(start, stop):
        learner.step(step, rank_slice(config(), images, step, 0, 1))


def test_the_loss_of_digits_falls(images):
    """Catches: a gate or a patch without a gradient, which leaves the loss at that of the output 0
    it begins with: 1, the variance of the noise."""
    learner = make_learner(config())
    run(learner, images, 0, 4)
    assert learner.trainee.counts.point()["loss"] == pytest.approx(1, abs=0.05)
    run(learner, images, 4, 25)
    learner.trainee.counts.point()
    run(learner, images, 25, 30)
    assert learner.trainee.counts.point()["loss"] < 0.35


def test_a_training_continues_bit_for_bit(images):
    """Catches: a part of the network that is in no checkpoint, and one that is and should not be:
    its positions follow from the configuration."""
    whole, first, second = (make_learner(config()) for _ in range(3))
    run(whole, images, 0, 8)
    run(first, images, 0, 5)
    assert not [name for name in state_of(first) if "positions" in name]
    load(second, state=copy_of(state_of(first)), ema=copy_of(average_of(first)))
    run(second, images, 5, 8)
    torch.testing.assert_close(state_of(second), state_of(whole), rtol=0, atol=0)
    torch.testing.assert_close(average_of(second), average_of(whole), rtol=0, atol=0)
    assert second.trainee.counts.point() == whole.trainee.counts.point()
