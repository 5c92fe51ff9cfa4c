"""Guidance: its identities, its interval, its closed form on Gaussians, and rescaling."""

import math

import numpy as np
import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.diffusion.choices import is_learned
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import FixedStep
from ddpm_core.diffusion.paths.sde import VariancePreserving
from ddpm_core.diffusion.paths.sigma import sigma_at, sigma_grid, sigma_range, time_of_sigma
from ddpm_core.diffusion.paths.spacing import karras_sigmas
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import heun_sample
from ddpm_core.diffusion.samplers.ode import ode_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.wrappers.guidance import EVERYWHERE, Guided, Interval, rescaled
from ddpm_core.diffusion.wrappers.respacing import discretised, respaced
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import PAPER, SHORT, every_t, normal
from tests.diffusion.every_path import exact
from tests.diffusion.objectives import LEARNED, PREDICTIONS, saying

VP = VariancePreserving()
LOW, HIGH = sigma_range(VP)
GIVEN = Mixture(row(1.0), row(1.0)[:, None], row(0.2)[:, None])
"""p(x | c) of family.md's table: N(1, 0.04)"""
NOT_GIVEN = Mixture(row(1.0), row(0.0)[:, None], row(1.04**0.5)[:, None])
"""p(x): N(0, 1.04)"""
TABLE = {
    0.0: (0.0, 1.0198),
    1.0: (0.9987, 0.2000),
    2.0: (1.0902, 0.0392),
    3.0: (1.0768, 0.0077),
    5.0: (1.0552, 0.0003),
}
"""scale -> mean and standard deviation of what the guided flow draws"""


def closed_form(scale: float, low: float = 0.0, high: float = HIGH) -> tuple[float, float]:
    """Return mean and standard deviation that the guided flow makes of N(0, 1 + high**2).

    dx/dsigma is linear in x: its homogeneous solution is a product of powers, and the mean follows
    by variation of constants.
    """

    def shrunk(sigma):
        return (0.04 + sigma**2) ** (scale / 2) * (1.04 + sigma**2) ** ((1 - scale) / 2)

    # Equal steps of the logarithm, from where the integrand is linear in sigma.
    sigmas = np.concatenate([[0.0], np.geomspace(1e-4, high, 40_001)]) if low == 0 else None
    sigmas = np.geomspace(low, high, 40_001) if sigmas is None else sigmas
    force = scale * sigmas / (0.04 + sigmas**2) / shrunk(sigmas)
    mean = shrunk(low) * np.trapezoid(force, sigmas)
    return float(mean), shrunk(low) / shrunk(high) * math.sqrt(1 + high**2)


@pytest.mark.parametrize("scale", TABLE)
def test_the_table_of_guided_gaussians_is_its_closed_form(scale):
    """Catches an error of the closed form below: the table was made by another program."""
    assert closed_form(scale) == pytest.approx(TABLE[scale], abs=6e-5)


def heun(denoiser, x_T):
    sigmas = karras_sigmas(VP, 100)
    # The walk begins at sigma x_T and not at sqrt(1 + sigma**2) x_T.
    return heun_sample(denoiser, x_T * math.hypot(1, HIGH) / HIGH, sigmas=sigmas, clip_x_0=False)


def ddim(denoiser, x_T):
    times = time_of_sigma(VP, sigma_grid(VP, 999)).tolist()
    chain = discretised(denoiser, sorted(set(times)))
    return ddim_sample(chain, x_T, clip_x_0=False)


FLOWS = {
    "ode": (
        lambda d, x: ode_sample(d, x, solver=FixedStep(sigma_grid(VP, 80), "rk4")),
        1e-4,
    ),
    "heun": (heun, 2e-3),
    "dpm_solver": (
        lambda d, x: dpm_solver_sample(d, x, sigmas=karras_sigmas(VP, 200), clip_x_0=False),
        2e-3,
    ),
    "unipc": (
        lambda d, x: unipc_sample(d, x, sigmas=karras_sigmas(VP, 200), clip_x_0=False),
        2e-3,
    ),
    "ddim": (ddim, 1e-2),
}


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", FLOWS)
def test_guided_samplers_draw_the_table(name):
    """Catches guidance on another quantity than the image, and w counted from another number.

    The flow is affine in x_T: what it returns of 0 and of 1 is its mean and standard deviation.
    """
    sample, tolerance = FLOWS[name]
    x_T = row(0.0, 1.0)[:, None]
    for scale, expected in TABLE.items():
        if name == "ddim" and scale not in (2.0, 3.0):
            continue  # a thousand steps each
        guided = Guided(exact(GIVEN, VP), exact(NOT_GIVEN, VP, "x_0"), scale)
        mean, end = sample(guided, x_T)[:, 0].tolist()
        assert (mean, end - mean) == pytest.approx(expected, abs=tolerance), scale


@pytest.mark.usefixtures("shapes_unchecked")
def test_guidance_in_an_interval_is_the_flow_of_each_part():
    """Catches an interval in the wrong unit, or guidance outside of it: three flows, one by one."""
    # Each bound once from above: no step has slopes of both sides.
    above = [bound * (1 + 1e-7) for bound in (0.2, 3.0)]
    parts = [(LOW, 0.2), (above[0], 3.0), (above[1], HIGH)]
    grid = torch.cat([torch.from_numpy(np.geomspace(*part, 60)) for part in parts])
    guided = Guided(exact(GIVEN, VP), exact(NOT_GIVEN, VP), 3.0, Interval(0.2, 3.0))
    found = ode_sample(guided, row(0.0, 1.0)[:, None], solver=FixedStep(grid, "rk4"), denoise=False)
    mean, std = closed_form(1.0, 3.0, HIGH)
    for scale, low, high in ((3.0, 0.2, 3.0), (1.0, LOW, 0.2)):
        pushed, spread = closed_form(scale, low, high)
        spread /= math.sqrt(1 + high**2)
        mean, std = pushed + spread * mean, spread * std
    assert found[:, 0].tolist() == pytest.approx([mean, mean + std], abs=1e-5)
    assert std > 2 * closed_form(3.0, LOW, HIGH)[1]


def test_the_interval_is_half_open_whichever_way_sigma_came():
    """Catches a bound on the wrong side, and one that rounding decides."""
    for time in (7, 20, 33):
        sigma = float(sigma_at(SHORT, torch.tensor(time)))
        back = time_of_sigma(SHORT, torch.tensor([sigma], dtype=torch.float64))
        for t in (torch.tensor([time]), back, back.nextafter(row(0.0)), back.nextafter(row(99.0))):
            assert Interval(0.0, sigma).contains(SHORT, t).tolist() == [True]
            assert Interval(sigma, 1e9).contains(SHORT, t).tolist() == [False]
    inside = Interval(0.05, 0.5).contains(SHORT, every_t(SHORT))
    sigmas = sigma_at(SHORT, every_t(SHORT))
    assert torch.equal(inside, (sigmas > 0.05) & (sigmas <= 0.5))
    assert 0 < int(inside.sum()) < 50
    assert not bool(Interval(0.3, 0.3).contains(SHORT, every_t(SHORT)).any())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_row_is_guided_by_its_own_noise_and_no_other(prediction):
    """Catches a batch that is guided as its first image, and rows that batch mates change."""
    own, other = (saying(normal(50, 2, 3, seed=seed), SHORT, prediction) for seed in (1, 2))
    x_t, t = normal(50, 2, 3, seed=3), every_t(SHORT)
    band = Interval(0.05, 0.5)
    said = Guided(own, other, 3.0, band).predict(x_t, t)
    everywhere, nowhere = Guided(own, other, 3.0).predict(x_t, t), own.predict(x_t, t)
    inside = band.contains(SHORT, t)
    assert torch.equal(said.x_0[inside], everywhere.x_0[inside])
    assert torch.equal(said.x_0[~inside], nowhere.x_0[~inside])


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "velocity"])
def test_a_reference_that_says_the_same_changes_nothing(prediction):
    """Catches weights of the two that do not sum to one."""
    own = saying(normal(50, 2, 3, seed=1), SHORT, prediction)
    x_t, t = normal(50, 2, 3, seed=3), every_t(SHORT)
    expected = own.predict(x_t, t)
    for scale in (0.0, 0.5, 1.0, 7.5):
        assert torch.equal(Guided(own, own, scale).predict(x_t, t).x_0, expected.x_0)


class Labelled:
    """A network of three classes and the null that counts its calls; its last layer sees all."""

    def __init__(self, variance: str) -> None:
        self.variance, self.calls, self.rows = variance, 0, 0
        self.weight = normal(6, 6, seed=5, dtype=torch.float32)

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning = NOTHING) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(x_t)
        assert conditioning.label is not None
        shift = (conditioning.label + 0.01 * t)[:, None]
        value = ((x_t.flatten(1) + shift) @ self.weight).tanh().reshape(x_t.shape)
        return torch.cat([value, value], dim=1) if is_learned(self.variance) else value


@pytest.mark.parametrize("variance", ["fixed_large", *LEARNED])
def test_one_call_of_twice_the_rows_says_what_two_calls_say(variance):
    """Catches halves that are exchanged, and a second call: to 1e-5, also around a few steps."""
    network = Labelled(variance)
    model = NetworkDenoiser(
        network, SHORT, "v", variance, null=Conditioning(label=torch.tensor([3]))
    )
    given = model.given(Conditioning(label=torch.tensor([0, 1, 2])))
    x_t, t = normal(3, 2, 3, seed=1, dtype=torch.float32), torch.tensor([3, 20, 49])
    own, other = given.predict(x_t, t), model.given_nothing().predict(x_t, t)
    network.calls = network.rows = 0
    said = Guided(given, model.given_nothing(), 2.5).predict(x_t, t)
    assert (network.calls, network.rows) == (1, 6)
    expected = other.x_0 + 2.5 * (own.x_0 - other.x_0)
    torch.testing.assert_close(said.x_0, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(said.log_variance, own.log_variance, rtol=0, atol=1e-5)
    network.calls = network.rows = 0
    few = respaced(Guided(given, model.given_nothing(), 2.5), [3, 20, 49])
    ddim_sample(few, x_t)
    assert (network.calls, network.rows) == (3, 18)


# -- rescaling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_is_that_of_diffusers(phi):
    """Catches standard deviations of the batch, exchanged, or of the wrong mix."""
    own, guided = normal(3, 2, 4, 4, seed=1), 3 * normal(3, 2, 4, 4, seed=2) + 1
    torch.testing.assert_close(
        rescaled(guided, own, phi), rescale_noise_cfg(guided, own, guidance_rescale=phi)
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_rescaled_guidance_has_the_spread_of_the_unguided(prediction):
    """Catches rescaling of another form than the network's own, and of rows not guided."""
    own, other = (saying(normal(50, 2, 3, seed=seed), SHORT, prediction) for seed in (1, 2))
    x_t, t = normal(50, 2, 3, seed=3), every_t(SHORT)
    form = "x_0" if prediction in ("x_prev", "drift") else prediction
    said = Guided(own, other, 4.0, rescale=1.0).predict(x_t, t)
    assert said.kind == form
    found, expected = (
        one.of_kind(form).flatten(1).std(dim=1) for one in (said, own.predict(x_t, t))
    )
    torch.testing.assert_close(found, expected)
    plain = Guided(own, other, 4.0).predict(x_t, t).of_kind(form)
    half = Guided(own, other, 4.0, rescale=0.5).predict(x_t, t).of_kind(form)
    torch.testing.assert_close(half, (plain + said.of_kind(form)) / 2)


def test_an_image_without_spread_is_not_rescaled():
    """Catches a division by zero."""
    flat, own = torch.full((1, 2, 3), 0.5, dtype=torch.float64), normal(1, 2, 3)
    assert torch.equal(rescaled(flat, own, 0.7), flat)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": -0.1}, "scale=-0.1 must be at least 0"),
        ({"scale": math.nan}, "scale=nan"),
        ({"scale": 2.0, "rescale": 1.1}, "rescale=1.1 must be in 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, match):
    """Catches a number that would be taken as it is."""
    with pytest.raises(ConfigError, match=match):
        Guided(exact(GIVEN, VP), exact(NOT_GIVEN, VP), **options)


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.nan)])
def test_intervals_that_are_none_are_refused(bounds):
    """Catches an interval that guides nothing without saying so."""
    with pytest.raises(ConfigError, match="must have 0 <= low <= high"):
        Interval(*bounds)


def test_a_reference_on_another_path_is_refused():
    """Catches a weak model of another schedule; an equal one made anew is the same path."""
    again = VariancePreserving()
    assert Guided(exact(GIVEN, VP), exact(NOT_GIVEN, again), 2.0).interval is EVERYWHERE
    twice = [respaced(exact(GIVEN, PAPER), [0, 500, 999]) for _ in range(2)]
    assert Guided(*twice, 2.0).path is twice[0].path
    for other in (exact(NOT_GIVEN, PAPER), exact(NOT_GIVEN, VariancePreserving(beta_max=19.0))):
        with pytest.raises(ConfigError, match=r"cannot be combined.*same forward process"):
            Guided(exact(GIVEN, VP), other, 2.0)
    with pytest.raises(ConfigError, match=r"a chain of 1000 steps.*a chain of 50 steps"):
        Guided(exact(GIVEN, PAPER), exact(NOT_GIVEN, SHORT), 2.0)
