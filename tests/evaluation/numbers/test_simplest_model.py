"""The simplest models against closed forms: a Gaussian's entropy, and that of a coin."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_core.evaluation.delivery import _values
from ddpm_core.evaluation.numbers.gathered import _relative
from ddpm_core.evaluation.numbers.simplest_model import reference_bits, relative_metric
from ddpm_core.recipes import digits, recipe
from ddpm_core.shards.members import ImageMember


def member(images):
    """Return what an index says of training images like these."""
    values = images.numpy().astype(np.float64)
    moments = [tuple(one(values, axis=(0, 2, 3)).tolist()) for one in (np.mean, np.std)]
    return ImageMember(str(images.numpy().dtype), images.shape[1:], *moments, None)


@pytest.mark.parametrize(("dtype", "levels"), [(torch.uint8, 256), (torch.uint16, 65536)])
def test_a_gaussian_costs_its_entropy(dtype, levels):
    """Catches a variance for a deviation, nats for bits, levels of another depth, and moments of a
    channel for those of all: bits/dim are log2(s sqrt(2 pi e)), s in levels."""
    generator = torch.Generator().manual_seed(0)
    deviation, middle = levels / 12, levels / 2
    drawn = middle + deviation * torch.randn(50, 2, 20, 20, generator=generator)
    drawn[:, 1] += levels / 20  # a channel of another mean widens the one Gaussian
    images = drawn.round().clamp(0, levels - 1).to(dtype)
    spread = math.sqrt(deviation**2 + (levels / 40) ** 2)
    found = reference_bits(images, member(images), is_binary=False)
    assert found.shape == (50,)
    expected = math.log2(spread * math.sqrt(2 * math.pi * math.e))
    assert float(found.mean()) == pytest.approx(expected, abs=0.01)


def test_heartbeats_cost_14_bits_as_coins():
    """Catches the probability of a 0, and the level 255 for 1: 20 H(1/5) = 14.438 bits; the paper's
    -2.414 saves 12.024 of them."""
    beats = torch.where(torch.arange(20) % 5 == torch.arange(5)[:, None], 255, 0)
    images = beats.to(torch.uint8).reshape(5, 1, 1, 20)
    found = reference_bits(images, member(images), is_binary=True)
    assert 20 * float(found.mean()) == pytest.approx(14.438, abs=1e-3)
    bits = np.full(5, 2.414 / 20)
    metric = relative_metric(bits, found.numpy(), recipe("heartbeat"), {"step": 7})
    assert metric["per_image"] == pytest.approx(12.024, abs=1e-3)
    assert metric["value"] == pytest.approx(12.024 / 20, abs=1e-4)
    assert (metric["protocol"]["num_images"], metric["protocol"]["step"]) == (5, 7)
    assert "independent bits" in metric["protocol"]["reference"]
    plain = relative_metric(bits, found.numpy(), digits(), {})
    assert "one Gaussian" in plain["protocol"]["reference"]


def test_of_images_in_place_nothing_is_known_to_compare_with():
    """Catches: a division by zero at the end of an evaluation; 0 for what is not known."""
    image = ImageMember("uint8", (3, 8, 8), (), (), None)
    found = _relative(SimpleNamespace(index=SimpleNamespace(image=image)), None)
    assert found["value"] is None
    assert "in place" in found["reason"]
    distance = dict.fromkeys(["samples_test", "samples_train", "test_train"])
    bits = dict.fromkeys(["value", "standard_error", "prior", "rate", "decoder"], 1.0)
    said = _values(
        {"bits_per_dim": bits, "frechet_distance": distance, "relative_to_gaussian": found}
    )
    assert said["eval/relative_to_gaussian"] is None
