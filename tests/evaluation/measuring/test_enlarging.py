"""Whether what is enlarged has its low resolution, by a network that copies what it is given."""

import math

import numpy as np
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning, LowRes
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.evaluation.measuring.enlarging import (
    LowMeasured,
    consistency_metric,
    enlarged_part,
    levels_of,
)
from ddpm_core.inference.build import build_schedule
from ddpm_core.loading.held import ImageSet
from tests.sampling.tiny import tiny_config

CONFIG = tiny_config(
    **{"model.low_size": [4, 4], "diffusion.num_timesteps": 8, "train.low_levels": [0, 0.6]},
    **{"diffusion.beta_schedule": "cosine", "diffusion.prediction": "x_0"},
)
GREYS = torch.tensor([0, 60, 90, 200, 255])
IMAGES = ImageSet(
    GREYS.to(torch.uint8)[:, None, None, None].expand(5, 1, 8, 8).clone(),
    {},
    num_classes=1,
    counts=(5,),
)


def copying(x_t, t, conditioning):
    return conditioning.low.image


def part(start, stop):
    low = torch.zeros(1, 1, 1, 1)
    null = Conditioning(low=LowRes(low, torch.tensor([-1])))
    denoiser = NetworkDenoiser(copying, build_schedule(CONFIG), prediction="x_0", null=null)
    return enlarged_part(
        denoiser,
        None,
        LowMeasured(CONFIG, torch.device("cpu")),
        IMAGES,
        start,
        stop,
        given=Conditioning(),
        levels=levels_of(CONFIG),
        sample=CONFIG.sample,
    )


def test_a_network_that_copies_loses_the_noise_and_nothing_else():
    """Catches a low resolution at another level than is said, of another image, one that is drawn
    anew for each unit, and levels that the network has not seen."""
    assert levels_of(CONFIG) == (0.0, 0.1, 0.25, 0.5)
    found = part(0, 5)
    assert found["own"].shape == (5, 4)
    assert torch.equal(found["own"][:, 0], torch.zeros(5).double())
    # The last shares of 8 steps: 0.1 is one step, 0.25 two and 0.5 four.
    grey, abar = GREYS[2] / 127.5 - 1, build_schedule(CONFIG).alphas_cumprod
    key, positions = seeding.key(CONFIG.evaluate.seed, "sample_low", 1), torch.tensor([2])
    eps = seeding.normal(key, 0, positions, (1, 8, 8))
    for column, steps in ((1, 1), (2, 2), (3, 4)):
        noised = abar[steps - 1].sqrt() * grey + (1 - abar[steps - 1]).sqrt() * eps
        levels = ((noised.clamp(-1, 1) + 1) * 127.5).round().reshape(4, 2, 4, 2).mean((1, 3))
        expected = (torch.floor(levels + 0.5) - 90).square().mean()
        assert float(found["own"][2, column]) == pytest.approx(float(expected), rel=0.02)
    later = part(2, 4)
    assert torch.equal(later["own"], found["own"][2:4])


def test_the_control_is_the_next_image():
    """Catches a control that is the image itself, and one that ends with the unit."""
    steps = GREYS.roll(-1) - GREYS
    assert torch.allclose(part(0, 5)["other"], steps.double().square())
    assert torch.allclose(part(0, 2)["other"], steps[:2].double().square())


def test_decibels_are_of_all_images_together():
    """Catches a mean of decibels, which an exact image makes infinite, and a peak of 1 or 2."""
    own = np.array([[0.0, 4.0, 1.0, 1.0], [2.0, 16.0, 1.0, 1.0]])
    metric = consistency_metric(own, np.array([100.0, 300.0]), CONFIG, {})
    assert metric["value"] == pytest.approx(20 * math.log10(255))
    assert metric["by_level"][1]["value"] == pytest.approx(20 * math.log10(255) - 10)
    assert metric["shuffled"] == pytest.approx(20 * math.log10(255) - 10 * math.log10(200))
