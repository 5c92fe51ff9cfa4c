"""Sampling as Langevin dynamics: the same images as ancestral sampling, by another formula."""

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.langevin import langevin_sample
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Gaussian, affine_moments, row
from tests.diffusion.chains import PAPER, SHORT, normal
from tests.diffusion.test_analytic import TWO


def noise(step):
    return normal(3, 2, seed=step)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "x_prev"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_it_is_ancestral_sampling_without_clipping(variance, prediction):
    """Catches a wrong step size, root or sign, noise at the end, and a step left out."""
    denoiser, x_T, seen = TWO.denoiser(SHORT, variance, prediction), normal(3, 2, seed=5000), []
    images = langevin_sample(denoiser, x_T, noise=noise, on_step=lambda *told: seen.append(told))
    expected = []
    ddpm_sample(
        denoiser,
        x_T,
        noise=noise,
        clip_x_0=False,
        on_step=lambda *told: expected.append(told),
    )
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-10)
    assert torch.equal(images, seen[-1][1])


def test_a_learned_variance_is_that_of_the_network():
    """Catches noise of a fixed variance where the network says another."""

    def network(x_t, t):
        return torch.cat([0.3 * x_t, 0.1 * x_t - 4], dim=1)

    denoiser = NetworkDenoiser(network, SHORT, variance="learned")
    x_T = normal(3, 2, seed=5000)
    got = langevin_sample(denoiser, x_T, noise=noise)
    expected = ddpm_sample(denoiser, x_T, noise=noise, clip_x_0=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_a_chain_that_ends_in_pure_noise_is_refused():
    """Catches a division by the root of 0, which makes images of nothing but nan."""
    chain = make_schedule(zero_terminal_snr(make_betas("linear", 50)))
    with pytest.raises(ConfigError, match="use ddpm_sample"):
        langevin_sample(TWO.denoiser(chain, prediction="v"), normal(3, 2), noise=noise)


def test_it_never_waits_for_its_device_and_keeps_float32():
    """Catches `.item()` in the loop, and promotion by the float64 of the schedule."""
    x_T = torch.empty(3, 2, device="meta")
    denoiser = NetworkDenoiser(lambda x_t, _: torch.zeros_like(x_t), SHORT)
    assert langevin_sample(denoiser, x_T, noise=lambda _: x_T).dtype == torch.float32


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.usefixtures("shapes_unchecked")
def test_ancestral_sampling_returns_what_the_recursion_says(variance):
    """Catches any wrong coefficient or variance, exactly and over 1000 steps.

    fixed_small returns too little variance and fixed_large too much: by how much is known.
    """
    data = Gaussian(row(0.2, -0.5), row(0.3, 0.05), PAPER)
    expected = data.ancestral(variance)
    got = affine_moments(
        lambda x_T, z: langevin_sample(data.denoiser(variance), x_T, noise=z), 1000, 2
    )
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(expected[0], data.mean, rtol=0, atol=1e-5)
    excess = expected[1] / data.std.square() - 1
    assert bool((excess.abs() < 0.2).all())
    assert bool((excess < 0).all() if variance == "fixed_small" else (excess > 0).all())


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_drawn_images_have_the_moments_of_the_recursion(variance):
    """Catches moments that are exact but not those of images: 5 standard errors of 20,000."""
    data, num = Gaussian(row(0.2, -0.5), row(0.3, 0.05), SHORT), 20_000
    images = ddpm_sample(
        data.denoiser(variance),
        normal(num, 2, seed=5000),
        noise=lambda t: normal(num, 2, seed=t),
        clip_x_0=False,
    )
    mean, expected = data.ancestral(variance)
    assert bool(((images.mean(0) - mean).abs() < 5 * (expected / num).sqrt()).all())
    assert bool(((images.var(0) / expected - 1).abs() < 5 * (2 / num) ** 0.5).all())
