"""Averages of power functions: their widths, and any of them made of stored ones."""

import math
from itertools import pairwise

import pytest
import torch

from ddpm_core.models.ema import EMA
from ddpm_core.models.profiles import WIDEST, Power, gamma_of, inner_product, sigma_rel_of
from ddpm_core.models.synthesis import Profile, fit

STEPS, STORED = 512, (0.05, 0.1)


@pytest.mark.parametrize(
    ("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94), (WIDEST, 0.0), (0.01, 96.995)]
)
def test_the_exponent_of_a_width(sigma_rel, gamma):
    """Catches another root of the cubic; 16.97 and 6.94 are those of Karras et al. 2024, 3.1."""
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=5e-3)
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 2.0, 16.97])
def test_a_width_is_the_standard_deviation_of_the_profile(gamma):
    """Catches a wrong formula of the width, by the profile's moments in numbers."""
    tau = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    p = (gamma + 1) * tau**gamma / 100_000
    mean = float(p @ tau)
    assert sigma_rel_of(gamma) == pytest.approx(math.sqrt(float(p @ (tau - mean) ** 2)), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [((2.5, 7.0), (5.0, 7.0)), ((2.5, 4.0), (5.0, 10.0)), ((9.0, 8.0), (1.0, 3.0))]
)
def test_the_inner_product_is_the_integral_up_to_the_earlier_end(a, b):
    """Catches a product that goes on beyond the shorter of two profiles, or mixes their ends."""
    end = min(a[1], b[1])
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) * end / 200_000
    (ga, ta), (gb, tb) = a, b
    pa, pb = ((g + 1) * tau**g / t ** (g + 1) for g, t in ((ga, ta), (gb, tb)))
    assert inner_product(*a, *b) == pytest.approx(float(pa @ pb) * end / 200_000, rel=1e-6)
    assert inner_product(*a, *b) == inner_product(*b, *a)


def stored_profiles(count):
    steps = [STEPS * number // count for number in range(1, count + 1)]
    return [Profile(gamma_of(sigma_rel), step) for step in steps for sigma_rel in STORED]


def test_more_snapshots_come_nearer_and_the_stored_profile_is_exact():
    """Catches an error that is not measured, or that does not fall: halved steps, a quarter of it.

    Profiles that are smooth within a step of the snapshots: second order.
    """
    target = Profile(gamma_of(0.12), STEPS)
    errors = [fit(target, stored_profiles(count)).error for count in (16, 32, 64, 128)]
    for coarse, fine in pairwise(errors):
        assert 3.3 < coarse / fine < 4.3
    assert errors[1] == pytest.approx(8.8e-4, rel=0.02)
    one = fit(Profile(gamma_of(0.1), STEPS), stored_profiles(8))
    assert one.error < 1e-6
    assert one.coefficients == pytest.approx([0.0] * 15 + [1.0], abs=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.075, 0.12, 0.2])
def test_the_average_that_is_made_is_the_one_that_was_tracked(sigma_rel):
    """Catches coefficients of other profiles than those of the averages: of t off by a step, say.

    The difference of the two averages is the integral of what is left of the profile, times the
    weights: at most the product of their norms of L2 (Cauchy and Schwarz), exactly so for weights
    that stand still within a step.
    """
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(STEPS, 20, generator=generator).cumsum(0).double() / math.sqrt(STEPS)
    params = {"w": torch.zeros(20)}
    decays = {one: Power(gamma_of(one)) for one in (*STORED, sigma_rel)}
    averages = {one: EMA(params) for one in decays}
    stored, profiles = [], stored_profiles(32)
    for step, theta in enumerate(walk):
        params["w"].copy_(theta)
        for one, ema in averages.items():
            ema.update(decays[one].at(step))
        if (step + 1) % (STEPS // 32) == 0:
            stored += [averages[one].state_dict()["w"].double().clone() for one in STORED]
    target = Profile(gamma_of(sigma_rel), STEPS)
    made = fit(target, profiles)
    found = sum(c * one for c, one in zip(made.coefficients, stored, strict=True))
    tracked = averages[sigma_rel].state_dict()["w"].double()
    whole = (target.gamma, float(STEPS))
    left = made.error * math.sqrt(inner_product(*whole, *whole))
    # Plus what float32 rounds of averages that are up to 4 large, in as many updates.
    bound = left * walk.square().sum(0).sqrt() + 1e-5
    assert bool(((found - tracked).abs() <= bound).all())
    nearest = min((averages[one].state_dict()["w"].double() - tracked).norm() for one in STORED)
    assert (found - tracked).norm() < nearest / 20
