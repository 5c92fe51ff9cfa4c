"""DPM-Solver++ (2M) and its SDE variant against diffusers and closed forms."""

import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import at_sigma
from ddpm_core.diffusion.paths.spacing import chain_sigmas, choose_timesteps, karras_sigmas
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from tests.diffusion.chains import PAPER, normal, oracle
from tests.diffusion.samplers.oracles import scheduler_of, state, walk_sigmas
from tests.diffusion.samplers.toys import SPREAD, flow, gaussian, orders, toy

SIGMAS = chain_sigmas(PAPER, choose_timesteps("trailing", 1000, 10))


def draws(step):
    return normal(2, 5, seed=100 + step)


def outputs(denoiser, x_t, sigma):
    """Return the noise that the network sees in the chain's x_t."""
    levels = torch.full((len(x_t),), sigma, dtype=torch.float64)
    x = state(x_t, sigma)
    return (x - at_sigma(denoiser, x, levels)) / sigma


def theirs_of(algorithm, sigmas, *, exact):
    """Return x_0 of diffusers; exact: by its formulas alone, as its `step` rounds to float32."""
    scheduler = walk_sigmas(
        scheduler_of("DPMSolverMultistepScheduler", PAPER, algorithm_type=algorithm), sigmas
    )
    denoiser, x_t, before = toy(), normal(2, 5), None
    for index, sigma in enumerate(sigmas):
        remaining = len(sigmas) - 1 - index
        eps = outputs(denoiser, x_t, sigma)
        if not exact:
            x_t = scheduler.step(eps, remaining, x_t, variance_noise=draws(remaining)).prev_sample
            continue
        scheduler._step_index = index
        now, noise = scheduler.convert_model_output(eps, sample=x_t), draws(remaining)
        if index == 0 or remaining == 0:
            x_t = scheduler.dpm_solver_first_order_update(now, sample=x_t, noise=noise)
        else:
            x_t = scheduler.multistep_dpm_solver_second_order_update(
                [before, now], sample=x_t, noise=noise
            )
        before = now
    return x_t


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("spacing", ["chain", "karras"])
def test_dpm_solver_is_that_of_diffusers(spacing, algorithm, exact):
    """Catches a wrong coefficient, history or noise; and a wrong order of the first or last step.

    Their `step` chooses the order, but computes in float32; their formulas do not.
    """
    sigmas = SIGMAS if spacing == "chain" else karras_sigmas(PAPER, 12)
    noise = draws if algorithm.startswith("sde") else None
    ours = dpm_solver_sample(toy(), normal(2, 5), sigmas=sigmas, noise=noise, clip_x_0=False)
    theirs = theirs_of(algorithm, sigmas, exact=exact)
    tolerance = 1e-8 if exact else 1e-4
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def error_of(num_steps, noise=None):
    """Return how far the state at the smallest sigma is from the exact flow of normal images.

    Beyond, there is one step of first order to sigma = 0, of no length in lambda.
    """
    sigmas, x_T, states = karras_sigmas(PAPER, num_steps), normal(64)[:, None], []
    dpm_solver_sample(
        gaussian(),
        x_T,
        sigmas=sigmas,
        clip_x_0=False,
        on_step=lambda remaining, x_t, x_0_hat: states.append(x_t),
    )
    exact = flow(state(x_T, sigmas[0]), sigmas[0], sigmas[-1])
    return float((state(states[-2], sigmas[-1]) - exact).abs().max())


@pytest.mark.usefixtures("shapes_unchecked")
def test_2m_converges_with_order_2():
    """Catches a history that is not weighed by the lengths of the steps: order 1."""
    errors = [error_of(20 * 2**k) for k in range(4)]
    assert errors[-1] < 2e-3
    assert all(1.7 < order < 2.4 for order in orders(errors)), orders(errors)


def responses(denoiser, num_steps, x_T_scale):
    """Return (mean, variance) of x_0, where x_T is normal of mean 0: the sampler is linear.

    Row 0 sees no noise, row k only that of step k, the last row only x_T.
    """
    rows, sigmas = num_steps + 1, karras_sigmas(PAPER, num_steps)
    x_T = torch.zeros(rows, 1, dtype=torch.float64)
    x_T[num_steps] = x_T_scale
    x_0 = dpm_solver_sample(
        denoiser,
        x_T,
        sigmas=sigmas,
        noise=lambda step: (torch.arange(rows) == step).double()[:, None],
        clip_x_0=False,
    )
    return float(x_0[0]), float((x_0[1:] - x_0[0]).square().sum())


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_sde_ends_with_the_spread_of_the_images():
    """Catches too much or too little noise: the variance must tend to that of normal images."""
    errors = []
    for number in (20, 40, 80, 160):
        mean, variance = responses(gaussian(), number, 1.0)
        errors.append(abs(variance - SPREAD**2))
        assert mean == pytest.approx(0.3, abs=0.02)
    assert errors[-1] < 1e-3
    assert all(order > 0.9 for order in orders(errors)), orders(errors)


def test_the_sde_keeps_the_noise_of_a_single_image():
    """Catches noise that is not what was taken away; there each step is exact, however long."""
    x_0, sigmas, seen = torch.full((11, 1), 0.4).double(), karras_sigmas(PAPER, 10), {}
    x_T = torch.full((11, 1), 0.4 / math.hypot(1, sigmas[0])).double()
    x_T[10] += sigmas[0] / math.hypot(1, sigmas[0])
    dpm_solver_sample(
        oracle(PAPER, x_0),
        x_T,
        sigmas=sigmas,
        noise=lambda step: (torch.arange(11) == step).double()[:, None],
        clip_x_0=False,
        on_step=lambda remaining, x_t, _: seen.update({remaining: x_t.flatten()}),
    )
    for remaining, sigma in zip(range(9, 0, -1), sigmas[1:], strict=True):
        x = state(seen[remaining], sigma)
        torch.testing.assert_close(x[0], torch.tensor(0.4).double(), rtol=1e-6, atol=1e-6)
        variance = (x[1:] - x[0]).square().sum()
        torch.testing.assert_close(variance, torch.tensor(sigma**2).double())
    torch.testing.assert_close(seen[0], x_0.flatten())


def test_noise_is_drawn_for_each_step_but_the_last():
    """Catches noise in the finished image; names of the steps are those that remain."""
    drawn = []

    def noise(step):
        drawn.append(step)
        return draws(step)

    dpm_solver_sample(toy(), normal(2, 5), sigmas=SIGMAS, noise=noise)
    assert drawn == list(range(9, 0, -1))
