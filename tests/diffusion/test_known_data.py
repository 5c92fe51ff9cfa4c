"""The bound, its rate and its distortion, for data of which everything is known."""

import math

import pytest
import torch

from ddpm_core.diffusion.measures.likelihood import bits_per_dim, prior_bits
from tests.diffusion.analytic import BITS, Gaussian, Mixture, quadrature, row
from tests.diffusion.chains import SHORT, normal

DATA = Gaussian(row(0.2, -0.5), row(0.3, 0.05), SHORT)
VARIANCES = ("fixed_small", "fixed_large")
X_0 = torch.tensor([[-1.0, 0.4], [9.0, -0.6], [47.0, 20.0]], dtype=torch.float64) / 127.5


def over_noise(denoiser, x_0):
    """Return terms and errors expected over x_t, exactly where they are squares of the noise.

    Noise of +1 and of -1 has the mean and the variance of the standard normal.
    """
    both = [
        bits_per_dim(
            denoiser,
            x_0,
            noise=lambda _, sign=sign: torch.full_like(x_0, sign),
            clip_x_0=False,
        )
        for sign in (-1.0, 1.0)
    ]
    terms = (both[0].terms + both[1].terms) / 2
    return terms[:, 1:], (both[0].mse + both[1].mse) / 2


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "x_prev"])
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_divergences_of_given_images_are_those_of_the_closed_form(variance, prediction):
    """Catches any wrong weight, mean or variance in any term but the decoder, to 1e-9 bits."""
    divergences, mse = over_noise(DATA.denoiser(variance, prediction), X_0)
    torch.testing.assert_close(divergences, DATA.divergences(variance, X_0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mse, DATA.mse(X_0).mean(-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", VARIANCES)
def test_rate_and_distortion_of_the_data_are_those_of_the_closed_form(variance):
    """Catches a rate that lacks a part or counts it twice, and a distortion at another step.

    Images one standard deviation up and down have the mean and variance of the data.
    """
    pair = torch.stack([DATA.mean - DATA.std, DATA.mean + DATA.std])
    divergences, mse = over_noise(DATA.denoiser(variance), pair)
    divergences, mse, prior = divergences.mean(0), mse.mean(0), prior_bits(SHORT, pair).mean()
    later = [divergences[t:].sum() for t in range(SHORT.num_timesteps)]
    torch.testing.assert_close(prior + torch.stack(later), DATA.rate(variance), rtol=1e-9, atol=0)
    torch.testing.assert_close(mse, DATA.mse().mean(-1), rtol=1e-9, atol=0)
    assert bool((DATA.rate(variance).diff() < 0).all())
    assert bool((mse.diff() > 0).all())
    torch.testing.assert_close(
        mse[-1], DATA.std.square().mean(), rtol=1e-2, atol=0
    )  # nothing has come yet: the error of the best guess


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
def test_the_decoder_costs_what_quadrature_says(cdf):
    """Catches a decoder of another mean, width or distribution; 4e-3 bits are tanh's own error."""
    data = Gaussian(row(0.2), row(0.3), SHORT)
    nodes, weights = quadrature(30)
    x_0 = torch.full((30, 1), 40 / 127.5 - 1, dtype=torch.float64)
    result = bits_per_dim(
        data.denoiser(), x_0, noise=lambda _: nodes[:, None], clip_x_0=False, cdf=cdf
    )
    got = (weights * result.terms[:, 0]).sum()
    abar, std = SHORT.alphas_cumprod[0], SHORT.posterior_variance[1].sqrt()
    x_1 = abar.sqrt() * x_0[:, 0] + (1 - abar).sqrt() * nodes
    decoder = torch.distributions.Normal(
        data.mean + data.gain()[0] * (x_1 - abar.sqrt() * data.mean), std
    )
    upper, lower = decoder.cdf(x_0[:, 0] + 1 / 255), decoder.cdf(x_0[:, 0] - 1 / 255)
    exact = -(weights * (upper - lower).clamp(min=1e-12).log()).sum() / BITS
    atol = 1e-9 if cdf == "exact" else 4e-3
    torch.testing.assert_close(got, exact, rtol=0, atol=atol)
    if cdf == "tanh":
        assert abs(float(got - exact)) > 1e-5


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_bound_of_a_mixture_is_that_of_quadrature(variance):
    """Catches terms that are right for one Gaussian only: 5 standard errors of 3000 draws."""
    data = Mixture(row(0.4, 0.6), row(-0.5, 0.3)[:, None], row(0.05, 0.2)[:, None])
    num, level = 3000, 100 / 127.5 - 1
    result = bits_per_dim(
        data.denoiser(SHORT, variance),
        torch.full((num, 1), level, dtype=torch.float64),
        noise=lambda t: normal(num, 1, seed=t),
        clip_x_0=False,
    )
    nodes, weights = quadrature(100)
    p_variance = Gaussian(row(0.0), row(1.0), SHORT).reverse_variance(variance)
    for t in (1, 5, 20, 49):
        abar = SHORT.alphas_cumprod[t]
        x_t = abar.sqrt() * level + (1 - abar).sqrt() * nodes
        eps = data.eps(SHORT, x_t[:, None], torch.full((100,), t))[:, 0]
        x_0_hat = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
        q_std = SHORT.posterior_variance[t].sqrt()
        difference = SHORT.coef_x_0[t] * (level - x_0_hat)
        divergence = torch.distributions.kl_divergence(
            torch.distributions.Normal(difference, q_std),
            torch.distributions.Normal(torch.zeros(100).double(), p_variance[t].sqrt()),
        )
        expected = float((weights * divergence).sum()) / BITS
        drawn = result.terms[:, t]
        error = float(drawn.std()) / math.sqrt(num)
        assert float(drawn.mean()) == pytest.approx(expected, abs=5 * error + 1e-9)
