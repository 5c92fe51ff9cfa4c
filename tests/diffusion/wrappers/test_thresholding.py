"""Thresholds against diffusers', and where theirs end."""

import math

import diffusers
import pytest
import torch

from ddpm_core.diffusion.wrappers.thresholding import (
    DynamicThreshold,
    StaticThreshold,
    quantile_of_each,
)
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import SHORT, every_t, normal
from tests.diffusion.objectives import saying

X_0 = (
    normal(50, 2, 3, 4, seed=1)
    * torch.linspace(0.1, 4, 50, dtype=torch.float64)[:, None, None, None]
)
"""from images well within [-1, 1] to images far beyond"""


@pytest.mark.parametrize(("quantile", "cap"), [(0.99, 1.0), (0.99, 50.0), (0.8, 2.0), (1.0, 9.0)])
def test_the_dynamic_threshold_is_that_of_diffusers(quantile, cap):
    """Catches a quantile of the batch or of signed values, a lost division, and another cap."""
    scheduler = diffusers.DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=cap
    )
    denoiser = DynamicThreshold(saying(X_0, SHORT, "x_0"), quantile, cap)
    found = denoiser.predict(normal(50, 2, 3, 4), every_t(SHORT)).x_0
    torch.testing.assert_close(found, scheduler._threshold_sample(X_0))
    assert float(found.abs().max()) <= 1
    inside = X_0.abs().flatten(1).amax(1) <= 1
    assert 0 < int(inside.sum()) < 50
    assert torch.equal(found[inside], X_0[inside])


def test_a_cap_of_one_is_the_static_threshold():
    """Catches a static threshold that is not a clip, and a scale where there is none."""
    x_t, t, said = normal(50, 2, 3, 4), every_t(SHORT), saying(X_0, SHORT, "x_0")
    found = StaticThreshold(said).predict(x_t, t).x_0
    assert torch.equal(found, X_0.clamp(-1, 1))
    assert torch.equal(DynamicThreshold(said, cap=1.0).predict(x_t, t).x_0, found)
    assert torch.equal(StaticThreshold(said, 0.3).predict(x_t, t).x_0, X_0.clamp(-0.3, 0.3))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.995, 1.0])
def test_the_quantile_is_that_of_torch(share):
    """Catches a rank that is one off, and an interpolation the other way."""
    found = quantile_of_each(X_0, share)
    torch.testing.assert_close(found, torch.quantile(X_0.flatten(1), share, dim=1))


@pytest.mark.parametrize(
    "options",
    [
        {"quantile": 0.0},
        {"quantile": 1.01},
        {"quantile": math.nan},
        {"cap": 0.9},
        {"cap": math.nan},
    ],
)
def test_numbers_that_make_no_sense_are_refused(options):
    """Catches a quantile in per cent, and a cap that would enlarge images."""
    with pytest.raises(ConfigError, match=r"must be in \(0, 1\] and cap"):
        DynamicThreshold(saying(X_0), **options)
    with pytest.raises(ConfigError, match=r"bound=0\.0 must be greater than 0"):
        StaticThreshold(saying(X_0), 0.0)
