"""UniPC against diffusers and against the exact flow of normal images."""

import pytest
import torch

from ddpm_core.diffusion.denoiser import at_sigma
from ddpm_core.diffusion.paths.spacing import chain_sigmas, choose_timesteps, karras_sigmas
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from tests.diffusion.chains import PAPER, normal
from tests.diffusion.samplers.oracles import scheduler_of, state, walk_sigmas
from tests.diffusion.samplers.toys import flow, gaussian, orders, toy


def theirs_of(sigmas):
    scheduler = walk_sigmas(
        scheduler_of("UniPCMultistepScheduler", PAPER, solver_order=2, solver_type="bh2"), sigmas
    )
    denoiser, x_t = toy(), normal(2, 5)
    for index, sigma in enumerate(sigmas):
        x = state(x_t, sigma)
        levels = torch.full((2,), sigma, dtype=torch.float64)
        eps = (x - at_sigma(denoiser, x, levels)) / sigma
        x_t = scheduler.step(eps, len(sigmas) - 1 - index, x_t).prev_sample
    return x_t


@pytest.mark.parametrize("num_steps", [2, 3, 10])
@pytest.mark.parametrize("spacing", ["chain", "karras"])
def test_unipc_is_that_of_diffusers(spacing, num_steps):
    """Catches a wrong weight or order of predictor or corrector, and a corrector left out."""
    sigmas = karras_sigmas(PAPER, num_steps)
    if spacing == "chain":
        sigmas = chain_sigmas(PAPER, choose_timesteps("trailing", 1000, num_steps))
    ours = unipc_sample(toy(), normal(2, 5), sigmas=sigmas, clip_x_0=False)
    torch.testing.assert_close(ours, theirs_of(sigmas), rtol=1e-8, atol=1e-8)


def error_of(sampler, num_steps):
    """Return how far the state at the smallest sigma is from the exact flow of normal images."""
    sigmas, x_T, states = karras_sigmas(PAPER, num_steps), normal(64)[:, None], []
    sampler(
        gaussian(),
        x_T,
        sigmas=sigmas,
        clip_x_0=False,
        on_step=lambda remaining, x_t, x_0_hat: states.append(x_t),
    )
    exact = flow(state(x_T, sigmas[0]), sigmas[0], sigmas[-1])
    return float((state(states[-2], sigmas[-1]) - exact).abs().max())


@pytest.mark.usefixtures("shapes_unchecked")
def test_unipc_converges_with_order_2_or_better():
    """Catches a corrector that is not the parabola's integral; it alone would have order 3."""
    errors = [error_of(unipc_sample, 20 * 2**k) for k in range(4)]
    assert errors[-1] < 1e-3
    assert all(order > 1.8 for order in orders(errors)), orders(errors)


def test_the_corrector_pays():
    """Catches a corrector that does nothing: the same calls must give a smaller error than 2M."""
    assert error_of(unipc_sample, 40) < 0.5 * error_of(dpm_solver_sample, 40)
