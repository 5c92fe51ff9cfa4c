"""Every sampler by its name on every process in continuous time: exact networks draw the data."""

import math
from typing import get_args

import pytest
import torch

from ddpm_core.config import SampleConfig
from ddpm_core.config.diffusion import EdmConfig, FlowConfig, SubVpConfig, VeConfig, VpConfig
from ddpm_core.diffusion.choices import Sampler
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import FixedStep
from ddpm_core.diffusion.measures.ode_likelihood import ode_density
from ddpm_core.diffusion.path_network import ChainNetwork
from ddpm_core.diffusion.paths.sigma import sigma_grid
from ddpm_core.inference import continuous
from ddpm_core.sampling.sampler import describe, run_sampler
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import normal
from tests.diffusion.every_path import exact

pytestmark = pytest.mark.usefixtures("shapes_unchecked")
DATA = Mixture(row(0.3, 0.7), row(-0.8, 0.5)[:, None], row(0.1, 0.2)[:, None])
MEAN = 0.3 * -0.8 + 0.7 * 0.5
VARIANCE = 0.3 * (0.1**2 + 0.8**2) + 0.7 * (0.2**2 + 0.5**2) - MEAN**2
KINDS = {one.model_fields["kind"].default: one for one in (
    VpConfig, SubVpConfig, VeConfig, FlowConfig, EdmConfig)}  # fmt: skip
NUM = 1500
SETTINGS: dict[str, dict[str, object]] = {
    **{name: {"sampler": name} for name in get_args(Sampler) if name != "predictor_corrector"},
    "adaptive": {"sampler": "ode", "ode_method": "adaptive", "ode_tolerance": 1e-4},
    "karras": {"sampler": "heun", "spacing": "karras", "num_steps": 30},
}


def denoiser_of(kind, data=DATA, num_timesteps=100):
    """Return the exact denoiser on the chain of the path, as a trained network is put there."""
    section = KINDS[kind](num_timesteps=num_timesteps)
    path = continuous.path_of(section)
    on_path = exact(data, path, section.prediction)
    chain = continuous.chain_made_of(section)
    network = ChainNetwork(on_path.network, path, chain)
    return NetworkDenoiser(network, chain, section.prediction, section.variance)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_draws_the_mixture_on_every_path(kind, name):
    """Catches a chain whose steps are not the path's, an x_t that is not scaled, sigmas that
    lie elsewhere: mean, variance and share of the first component, within five errors."""
    sample = SampleConfig(state="float64", **{"clip_x_0": False, **SETTINGS[name]})
    x_T = normal(NUM, 1, seed=9999)
    x_0 = run_sampler(denoiser_of(kind), sample, x_T, lambda number: normal(NUM, 1, seed=number))
    error = 5 * math.sqrt(0.3 * 0.7 / NUM)
    more = 0.05 if name in ("langevin", "sde") else 0.02  # their steps are no exact integrals
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=error + more)
    assert float(x_0.var()) == pytest.approx(VARIANCE, rel=error + more)
    assert float((x_0 < -0.3).double().mean()) == pytest.approx(0.3, abs=error + more)


@pytest.mark.parametrize("kind", KINDS)
def test_the_corrector_draws_it_too(kind):
    """Catches norms that are not of the path's own score. Of N(0, 1/4) in 64 dimensions: in one, a
    step that is as long as its own noise is no Langevin dynamics."""
    data = Mixture(row(1.0), torch.zeros(1, 64).double(), torch.full((1, 64), 0.5).double())
    sample = SampleConfig(sampler="predictor_corrector", clip_x_0=False)
    x_T = normal(100, 64, seed=9999)
    x_0 = run_sampler(denoiser_of(kind, data), sample, x_T, lambda n: normal(100, 64, seed=n))
    assert float(x_0.var()) == pytest.approx(0.25, rel=0.08)
    assert float(x_0.mean()) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_is_of_the_path_from_its_beginning(kind):
    """Catches bits/dim of images with the noise of the chain's first step, or the chain's clock for
    the path's: data N(0, 1/4), whose density is in closed form but for the noise at the beginning.
    """
    data = Mixture(row(1.0), row(0.0)[:, None], row(0.5)[:, None])
    of_path = continuous.without_steps(denoiser_of(kind, data))
    x = row(-1.1, -0.3, 0.0, 0.6)[:, None]
    found = ode_density(of_path, x, solver=FixedStep(sigma_grid(of_path.path, 100), "rk4")).bits
    exactly = -torch.distributions.Normal(0.0, 0.5).log_prob(x[:, 0]) / math.log(2)
    # VE begins with a noise of 0.02, 8e-4 of the variance twice over.
    torch.testing.assert_close(found, exactly, rtol=0, atol=5e-3)


def test_fifty_steps_of_the_evaluation_s_solver_meet_the_closed_form():
    """Catches a solver of order two, whose error is 0.07, or one whose steps lie where nothing
    happens: N(0, 1/4) on the VP path of 0.1 to 20, met within 1e-3 bits/dim."""
    data = Mixture(row(1.0), row(0.0)[:, None], row(0.5)[:, None])
    of_path, x = continuous.without_steps(denoiser_of("vp", data)), row(-1.1, 0.0, 0.6)[:, None]
    found = ode_density(of_path, x, solver=FixedStep(sigma_grid(of_path.path, 50), "rk4")).bits
    exactly = -torch.distributions.Normal(0.0, 0.5).log_prob(x[:, 0]) / math.log(2)
    assert float((found - exactly).abs().max()) < 1e-3


def test_an_adaptive_solver_says_so_and_is_one_step_of_a_strip():
    """Catches num_steps of the chain in a protocol, and a strip without frames."""
    sample = SampleConfig(sampler="ode", ode_method="adaptive", ode_tolerance=1e-3)
    about, seen = describe(sample, 200), []
    assert (about["num_steps"], about["ode_method"]) == (None, "adaptive")
    assert about["ode_tolerance"] == 1e-3
    x_0 = run_sampler(
        denoiser_of("vp"),
        sample,
        normal(3, 1),
        lambda number: normal(3, 1, seed=number),
        on_step=lambda to_go, x, x_0_hat: seen.append((to_go, x)),
    )
    ((to_go, shown),) = seen
    assert to_go == 0
    assert shown is x_0
