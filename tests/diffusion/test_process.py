"""The forward process against closed forms."""

import pytest
import torch

from ddpm_core.diffusion.process import (
    eps_from_score,
    eps_from_v,
    predict_eps,
    predict_v,
    predict_x_0,
    q_posterior,
    q_sample,
    score_from_eps,
    x_0_from_v,
)
from tests.diffusion.chains import PAPER, every_t, normal


def test_q_sample_after_one_more_step_gives_the_marginal_of_that_step():
    """Catches a wrong cumulative product: noising x_{t-1} by one step must give x_t's marginal."""
    t, one = every_t(PAPER)[1:], torch.ones(999, dtype=torch.float64)
    step_signal = PAPER.alphas[1:].sqrt()
    signal, noise = q_sample(PAPER, one, t - 1, 0 * one), q_sample(PAPER, 0 * one, t - 1, one)
    torch.testing.assert_close(q_sample(PAPER, one, t, 0 * one), step_signal * signal)
    torch.testing.assert_close(
        q_sample(PAPER, 0 * one, t, one) ** 2, (step_signal * noise) ** 2 + PAPER.betas[1:]
    )


def test_q_sample_at_0_is_one_step_of_noise():
    """Catches an index shifted by one, where t = 0 would leave the image clean."""
    eps = normal(1, 3, 4, 4)
    x_1 = q_sample(PAPER, torch.zeros_like(eps), torch.tensor([0]), eps)
    torch.testing.assert_close(x_1, 0.01 * eps)


def test_q_posterior_after_q_sample_gives_the_marginal_of_the_previous_step():
    """Catches swapped or wrong coefficients, also those that sampling with an oracle erases."""
    t, one = every_t(PAPER), torch.ones(1000, dtype=torch.float64)
    abar_t, abar_prev = PAPER.alphas_cumprod, PAPER.alphas_cumprod_prev
    mean, variance = q_posterior(PAPER, one, abar_t.sqrt() * one, t)
    torch.testing.assert_close(mean, abar_prev.sqrt())
    slope, _ = q_posterior(PAPER, 0 * one, one, t)
    torch.testing.assert_close(slope**2 * (1 - abar_t) + variance, 1 - abar_prev)


def test_q_posterior_is_the_product_of_two_gaussians():
    """Catches a wrong posterior by Bayes' rule: precisions add, means weigh by precision."""
    t = torch.tensor([1, 2, 10, 500, 999])
    x_0, x_t = normal(5, 7, seed=1), normal(5, 7, seed=2)
    beta, alpha, abar_prev = (
        table[t, None] for table in (PAPER.betas, PAPER.alphas, PAPER.alphas_cumprod_prev)
    )
    precision = alpha / beta + 1 / (1 - abar_prev)
    expected = (alpha.sqrt() / beta * x_t + abar_prev.sqrt() / (1 - abar_prev) * x_0) / precision
    mean, variance = q_posterior(PAPER, x_0, x_t, t)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, (1 / precision).expand(5, 7))


def test_q_posterior_at_0_is_the_point_x_0():
    """Catches noise or a trace of x_1 in the last step."""
    x_0, x_t = normal(2, 5, seed=1), normal(2, 5, seed=2)
    mean, variance = q_posterior(PAPER, x_0, x_t, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(mean, x_0)
    assert float(variance.abs().max()) == 0


@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 6), (2, 3, 4, 5)])
def test_predictions_invert_q_sample_at_every_t_for_every_shape(shape):
    """Catches a sign or root in any conversion, and code that knows four axes only."""
    t = every_t(PAPER)
    x_0, eps = normal(1000, *shape, seed=1), normal(1000, *shape, seed=2)
    x_t = q_sample(PAPER, x_0, t, eps)
    v = predict_v(PAPER, x_0, t, eps)
    assert x_t.shape == (1000, *shape)
    close = torch.testing.assert_close
    # 157 = 1/sqrt(abar_T) times the rounding of float64 in x_t.
    close(predict_x_0(PAPER, x_t, t, eps), x_0, rtol=1e-9, atol=1e-9)
    close(predict_eps(PAPER, x_t, t, x_0), eps, rtol=1e-9, atol=1e-9)
    close(x_0_from_v(PAPER, x_t, t, v), x_0)
    close(eps_from_v(PAPER, x_t, t, v), eps)
    close(eps_from_score(PAPER, score_from_eps(PAPER, eps, t), t), eps)


def test_v_is_the_velocity_of_the_rotation():
    """Catches v = x_0 - eps and the opposite sign: v is d x_t / d angle at cos = sqrt(abar)."""
    t, x_0, eps = every_t(PAPER), normal(1000, seed=1), normal(1000, seed=2)
    angle = PAPER.alphas_cumprod.sqrt().acos().requires_grad_()
    x_t = angle.cos() * x_0 + angle.sin() * eps
    (expected,) = torch.autograd.grad(x_t.sum(), angle)
    # acos loses half of the digits near 1.
    torch.testing.assert_close(predict_v(PAPER, x_0, t, eps), expected, rtol=1e-6, atol=1e-9)


def test_score_is_the_gradient_of_the_log_density():
    """Catches a missing sign or division by the variance instead of the standard deviation."""
    t, x_0, eps = every_t(PAPER), normal(1000, seed=1), normal(1000, seed=2)
    x_t = q_sample(PAPER, x_0, t, eps).requires_grad_()
    mean = PAPER.alphas_cumprod.sqrt() * x_0
    density = torch.distributions.Normal(mean, (1 - PAPER.alphas_cumprod).sqrt())
    (expected,) = torch.autograd.grad(density.log_prob(x_t).sum(), x_t)
    torch.testing.assert_close(score_from_eps(PAPER, eps, t), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_results_have_the_dtype_of_the_images_but_at_least_float32(given, expected):
    """Catches silent promotion to float64, and noising in bfloat16."""
    x_0, eps = normal(2, 3, dtype=torch.float32).to(given), torch.zeros(2, 3).to(given)
    t = torch.tensor([0, 999])
    assert q_sample(PAPER, x_0, t, eps).dtype == expected
    assert q_posterior(PAPER, x_0, eps, t)[0].dtype == expected
    assert predict_x_0(PAPER, x_0, t, eps).dtype == expected
