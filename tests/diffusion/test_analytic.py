"""The analytic model against what defines it: a fixture that is wrong would hold nothing."""

import itertools

import pytest
import torch

from tests.diffusion.analytic import Gaussian, Mixture, row, signal_and_sigma
from tests.diffusion.chains import PAPER, SHORT, normal

TWO = Mixture(
    row(0.3, 0.7),
    torch.stack([row(-0.5, 0.2), row(0.4, -0.1)]),
    torch.stack([row(0.1, 0.3), row(0.2, 0.05)]),
)
ONE = Mixture(row(0.4, 0.6), row(-0.5, 0.3)[:, None], row(0.05, 0.2)[:, None])
TIMES = [torch.tensor([0, 100, 500, 999]), row(0.0, 0.4, 333.3, 998.7)]


@pytest.mark.parametrize("t", TIMES)
def test_the_density_is_that_of_the_noised_data(t):
    """Catches a wrong variance of x_t and a lost factor of volume: torch's own mixture of them."""
    x_t = normal(4, 2)
    signal, sigma = signal_and_sigma(PAPER, t)
    for index in range(4):
        a, b = signal[index], signal[index] * sigma[index]
        parts = torch.distributions.Independent(
            torch.distributions.Normal(a * TWO.means, (a**2 * TWO.stds**2 + b**2).sqrt()), 1
        )
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(TWO.weights), parts
        )
        got = TWO.log_density(PAPER, x_t, t)[index]
        torch.testing.assert_close(got, mixture.log_prob(x_t[index]))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_the_score_is_the_gradient_of_the_log_density(t, prediction):
    """Catches a wrong sign, root or share, also between steps: eps <-> grad log q by autograd."""
    x_t = normal(4, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(TWO.log_density(PAPER, x_t, t).sum(), x_t)
    score = TWO.denoiser(PAPER, prediction=prediction).predict(x_t.detach(), t).score
    torch.testing.assert_close(score, gradient, rtol=1e-8, atol=1e-8)
    assert float(gradient.abs().max()) > 1


@pytest.mark.parametrize("t", [0, 20, 200, 999])
def test_the_predicted_image_is_the_mean_of_the_images_that_it_may_be(t):
    """Catches any error of eps, by Bayes' rule summed over a fine grid of images."""
    times, x_t = torch.full((3,), t), row(-0.6, 0.1, 0.5)[:, None]
    signal, sigma = signal_and_sigma(PAPER, times)
    grid = torch.linspace(-2, 2, 40001, dtype=torch.float64)
    prior = ONE.log_density_at_sigma(grid[:, None], torch.zeros_like(grid)).exp()
    noise = (x_t - signal[:, None] * grid) / (signal * sigma)[:, None]
    weight = prior * (-0.5 * noise.square()).exp()
    expected = (weight * grid).sum(1) / weight.sum(1)
    got = ONE.denoiser(PAPER).predict(x_t, times).x_0[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "x_prev"])
def test_the_exact_network_says_the_same_in_every_prediction(prediction):
    """Catches a prediction of the fixture that means another image."""
    t, x_t = torch.tensor([0, 20, 49]), normal(3, 1, 2, 1)
    expected = TWO.denoiser(SHORT).predict(x_t, t).reverse(clip_x_0=False)
    got = TWO.denoiser(SHORT, prediction=prediction).predict(x_t, t).reverse(clip_x_0=False)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert got.mean.shape == x_t.shape


def test_the_closed_forms_of_one_gaussian_are_those_of_its_mixture():
    """Catches a gain that is not that of the network, and a distortion that is not its error."""
    data = Gaussian(row(0.3, -0.2), row(0.5, 0.1), SHORT)
    t, x_t = torch.arange(50), normal(50, 2)
    signal = SHORT.alphas_cumprod.sqrt()[:, None]
    expected = data.mean + data.gain() * (x_t - signal * data.mean)
    torch.testing.assert_close(data.denoiser().predict(x_t, t).x_0, expected)
    # One standard deviation up and down, in image and noise: a cubature exact for squares.
    total = torch.zeros(50, 2, dtype=torch.float64)
    for image, eps in itertools.product((-1, 1), (-1, 1)):
        x_0 = data.mean + image * data.std
        x_t = signal * x_0 + (1 - signal.square()).sqrt() * eps
        total += (data.denoiser().predict(x_t, t).x_0 - x_0).square() / 4
    torch.testing.assert_close(data.mse(), total)
    precision = 1 / data.std.square() + (signal.square() / (1 - signal.square()))
    torch.testing.assert_close(data.mse(), 1 / precision)


def test_draws_have_the_moments_of_the_mixture():
    """Catches draws from one component, or with a variance for a standard deviation; 5 errors."""
    x_0, mean = TWO.draw(40_000), (TWO.weights[:, None] * TWO.means).sum(0)
    square = (TWO.weights[:, None] * (TWO.means.square() + TWO.stds.square())).sum(0)
    std = (square - mean.square()).sqrt()
    assert bool(((x_0.mean(0) - mean).abs() < 5 * std / 200).all())
    assert bool(((x_0.std(0) / std - 1).abs() < 5 / 200 / 2**0.5).all())
