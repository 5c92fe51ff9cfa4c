"""Image to image: a part of a path, begun with an image, under every family of samplers."""

import math

import pytest
import torch

from ddpm_core.diffusion.integrate import FixedStep
from ddpm_core.diffusion.paths.sigma import sigma_grid, sigma_range, time_of_sigma
from ddpm_core.diffusion.paths.spacing import karras_sigmas
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample, descend
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import heun_sample
from ddpm_core.diffusion.samplers.ode import ode_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.wrappers.respacing import discretised, respaced
from ddpm_core.diffusion.wrappers.shortened import shortened, start_of
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import PAPER, SHORT, normal
from tests.diffusion.every_path import PATHS, exact
from tests.diffusion.objectives import PREDICTIONS, knowing
from tests.diffusion.samplers.toys import toy

ONE = Mixture(row(1.0), row(0.3)[:, None], row(0.5)[:, None])


def noise(number):
    return normal(2, 3, seed=number)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("depth", [2, 17])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ancestral_sampling_from_a_depth_is_the_end_of_the_whole_walk(prediction, depth):
    """Catches a chain of another clock, a start one step off: bit for bit, of every prediction."""
    x_0, eps = normal(2, 3, seed=1), normal(2, 3, seed=2)
    denoiser = knowing(SHORT, normal(2, 3, seed=5), prediction, "fixed_large")
    part = shortened(denoiser, depth)
    assert part.path.num_timesteps == depth
    state = start_of(part, x_0, eps).state
    x_t = q_sample(SHORT, x_0, torch.full((2,), depth - 1), eps)
    assert torch.equal(state, x_t)
    expected = descend(denoiser, x_t, first=depth - 1, noise=noise)
    assert torch.equal(ddpm_sample(part, state, noise=noise), expected)


SAMPLES = {
    "heun": lambda d, s: heun_sample(
        d, s.heun_state, sigmas=karras_sigmas(d.path, 40), clip_x_0=False
    ),
    "dpm_solver": lambda d, s: dpm_solver_sample(
        d, s.state, sigmas=karras_sigmas(d.path, 100), clip_x_0=False
    ),
    "unipc": lambda d, s: unipc_sample(
        d, s.state, sigmas=karras_sigmas(d.path, 40), clip_x_0=False
    ),
    "ode": lambda d, s: ode_sample(d, s.state, solver=FixedStep(sigma_grid(d.path, 40), "rk4")),
}


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", PATHS)
def test_every_solver_leads_a_noised_image_where_the_flow_does(name):
    """Catches a start that is scaled for another solver or path, and another depth.

    The flow of Gaussian data shrinks x = x_0 + sigma eps towards their mean by a known factor.
    """
    path = PATHS[name]
    depth = 200 if name == "chain" else float(time_of_sigma(path, row(0.6)[0]))
    part = shortened(exact(ONE, path), depth)
    sigma = sigma_range(part.path)[1]
    assert 0.55 < sigma < 1
    x_0, eps = row(0.9, -0.4, 0.3)[:, None], row(0.2, -1.0, 2.0)[:, None]
    start = start_of(part, x_0, eps)
    x = x_0 + sigma * eps
    expected = 0.3 + (x - 0.3) * 0.5 / math.hypot(0.5, sigma)
    for solver, sample in SAMPLES.items():
        torch.testing.assert_close(sample(part, start), expected, rtol=0, atol=2e-3, msg=solver)


@pytest.mark.usefixtures("shapes_unchecked")
def test_chains_of_few_steps_begin_in_the_middle_too():
    """Catches a start on the path where the chain that is made of it is scaled otherwise."""
    x_0, eps = row(0.9, -0.4, 0.3)[:, None], row(0.2, -1.0, 2.0)[:, None]
    for name, path in PATHS.items():
        if name == "chain":
            part = shortened(respaced(exact(ONE, path), range(0, 1000, 4)), 100)
            sigma = float(((1 - PAPER.alphas_cumprod[396]) / PAPER.alphas_cumprod[396]).sqrt())
        else:
            grid = torch.logspace(-1.8, math.log10(0.6), 200, dtype=torch.float64)
            times = time_of_sigma(path, grid).tolist()
            part, sigma = discretised(exact(ONE, path), times), 0.6
        found = ddim_sample(part, start_of(part, x_0, eps).state, clip_x_0=False)
        expected = 0.3 + (x_0 + sigma * eps - 0.3) * 0.5 / math.hypot(0.5, sigma)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02, msg=name)


@pytest.mark.parametrize("depth", [0, 1, 51, 2.5, -3, math.nan])
def test_a_depth_that_the_chain_has_not_is_refused(depth):
    """Catches a chain of one step, and one that is rounded."""
    with pytest.raises(ConfigError, match="from 2 to the 50 of the chain"):
        shortened(toy(SHORT), float(depth))


@pytest.mark.parametrize("depth", [0.0, 1e-5, 1.1, math.nan])
def test_a_time_that_the_path_has_not_is_refused(depth):
    """Catches a path that is longer than the network was trained on."""
    with pytest.raises(ConfigError, match="must be a time of the path, above 1e-05, to 1"):
        shortened(exact(ONE, PATHS["vp"]), depth)
