"""A chain of some steps: against the formulas of both papers, and against diffusers."""

import diffusers
import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, normal, oracle
from tests.diffusion.samplers.toys import Toy, toy

FEW = choose_timesteps("leading", 1000, 10)


def draws(step):
    return normal(2, 5, seed=100 + step)


def small(denoiser, variance):
    return NetworkDenoiser(denoiser.network, denoiser.schedule, denoiser.prediction, variance)


def test_betas_are_worked_out_anew_from_abar():
    """Catches the old chain's betas, whose steps are far too short (improved DDPM, eq. 19)."""
    schedule = respaced(toy(), FEW).path
    abar = PAPER.alphas_cumprod[FEW]
    torch.testing.assert_close(schedule.alphas_cumprod, abar)
    torch.testing.assert_close(schedule.betas[1:], 1 - abar[1:] / abar[:-1])
    torch.testing.assert_close(schedule.betas[0], 1 - abar[0])
    posterior = (1 - abar[:-1]) / (1 - abar[1:]) * schedule.betas[1:]
    torch.testing.assert_close(schedule.posterior_variance[1:], posterior)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_sampling_in_few_steps_is_that_of_diffusers(variance, clip):
    """Catches a variance, mean or time of the whole chain in the short one; the whole way."""
    scheduler = diffusers.DDPMScheduler(
        trained_betas=PAPER.betas.numpy(), variance_type=variance, clip_sample=clip
    )
    scheduler.betas, scheduler.alphas = PAPER.betas, PAPER.alphas
    scheduler.alphas_cumprod = PAPER.alphas_cumprod
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(10)
    network, x_t = Toy(PAPER), normal(2, 5)
    for number, t in zip(range(9, -1, -1), scheduler.timesteps.tolist(), strict=True):
        generator = torch.Generator().manual_seed(100 + number)
        eps = network(x_t, torch.full((2,), t))
        x_t = scheduler.step(eps, t, x_t, generator=generator).prev_sample
    few = respaced(small(toy(), variance), FEW)
    ours = ddpm_sample(few, normal(2, 5), noise=draws, clip_x_0=clip)
    torch.testing.assert_close(ours, x_t, rtol=1e-8, atol=1e-8)
    assert few.denoiser.network.called_at == list(reversed(FEW))


def test_few_steps_with_the_large_variance_are_sigma_hat_of_ddim():
    """Catches another variance than the row of sigma-hat has in DDIM's table 1.

    x_prev = sqrt(abar_prev) x_0 + sqrt(1 - abar_prev - sigma_1**2) eps + sigma_hat z, where
    sigma_1 is that of eta = 1, and sigma_hat**2 = 1 - abar / abar_prev.
    """
    network, x_t = Toy(PAPER), normal(2, 5)
    for number in range(9, -1, -1):
        t = FEW[number]
        abar = PAPER.alphas_cumprod[t]
        before = PAPER.alphas_cumprod[FEW[number - 1]] if number > 0 else torch.tensor(1.0).double()
        eps = network(x_t, torch.full((2,), t))
        x_0 = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
        sigma_1 = ((1 - before) / (1 - abar)).sqrt() * (1 - abar / before).sqrt()
        x_t = before.sqrt() * x_0 + (1 - before - sigma_1**2).clamp(min=0).sqrt() * eps
        if number > 0:
            x_t = x_t + (1 - abar / before).sqrt() * draws(number)
    few = respaced(small(toy(), "fixed_large"), FEW)
    ours = ddpm_sample(few, normal(2, 5), noise=draws, clip_x_0=False)
    torch.testing.assert_close(ours, x_t, rtol=1e-8, atol=1e-8)


def test_an_oracle_finds_the_image_in_any_steps():
    """Catches a network that is called at the short chain's index: with 9 in place of 900."""
    x_0 = normal(2, 5).clamp(-1, 1)
    x_T = q_sample(PAPER, x_0, torch.tensor([900, 900]), normal(2, 5, seed=1))
    few = respaced(oracle(PAPER, x_0), FEW)
    torch.testing.assert_close(ddpm_sample(few, x_T, noise=draws), x_0)


@pytest.mark.parametrize("steps", [[5], [], [3, 3], [4, 3], [-1, 5], [5, 1000]])
def test_steps_that_are_no_chain_are_refused(steps):
    """Catches a negative beta, and t = -1 read as the last step."""
    with pytest.raises(ConfigError, match="must"):
        respaced(toy(), steps)


def test_a_network_of_single_steps_cannot_leave_any_out():
    """Catches the mean of x_{t-1} taken for the mean of a step a hundred times as long."""
    few = respaced(toy(prediction="x_prev"), FEW)
    with pytest.raises(ConfigError, match="prediction=x_prev is trained for steps of one"):
        few.predict(normal(2, 5), torch.tensor([9, 9]))
