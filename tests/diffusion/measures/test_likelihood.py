"""The bound against numbers that any correct implementation gives, whatever the data."""

import functools
import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.likelihood import (
    bits_per_dim,
    discretized_gaussian_log_likelihood,
    prior_bits,
    vlb_term,
)
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.prediction import Prediction, Reverse
from ddpm_core.diffusion.process import q_posterior, q_sample
from ddpm_core.diffusion.shapes import mean_per_image
from tests.diffusion.chains import PAPER, SHORT, normal, oracle

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def interior_images(*shape, seed=0):
    """Images without the outermost levels, whose bins are wider."""
    generator = torch.Generator().manual_seed(seed)
    return LEVELS[torch.randint(1, 255, shape, generator=generator)]


def signs(*shape, seed=0):
    """Noise of +1 and -1: its square is exactly 1, so that sums over t have no sampling error."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.float64) * 2 - 1


def term(schedule, variance, x_0, x_t, t, eps_hat, clip):
    """Return the term of the bound for a predicted noise, and the error of x_0_hat."""
    step = Prediction(schedule, x_t, t, eps_hat, "eps", variance).reverse(clip_x_0=clip)
    return vlb_term(schedule, step, x_0, x_t, t), mean_per_image((step.x_0_hat - x_0).square())


@functools.cache
def with_exact_noise(variance):
    """Return the bound of four images under the denoiser that knows them."""
    x_0 = interior_images(4, 3, 8, 8)
    return bits_per_dim(
        oracle(PAPER, x_0, variance),
        x_0,
        noise=lambda t: normal(4, 3, 8, 8, seed=t),
    )


@pytest.mark.parametrize(
    ("variance", "expected"), [("fixed_large", 1.79210), ("fixed_small", 1.30568)]
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_exact_noise_costs_the_known_bits_whatever_the_images(variance, expected):
    """Catches beta_1 as the decoder's variance (+0.407), nats for bits, a lost or doubled term.

    The published totals include the prior, 1e-5 for such images, and have five decimals.
    """
    result = with_exact_noise(variance)
    four = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(result.total, expected * four, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.total, result.prior + result.terms.sum(1))
    assert float(result.mse.max()) < 1e-20


@pytest.mark.usefixtures("shapes_unchecked")
def test_exact_noise_splits_into_the_known_parts():
    """Catches compensating errors between decoder and divergences, and shifted columns."""
    terms, four = with_exact_noise("fixed_large").terms, torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(terms[:, 0], 1.305665 * four, rtol=0, atol=6e-7)
    torch.testing.assert_close(terms[:, 1:].sum(1), 0.48642 * four, rtol=0, atol=6e-6)
    torch.testing.assert_close(terms[:, 1], 0.175125 * four, rtol=0, atol=6e-7)
    torch.testing.assert_close(terms[:, 2], 0.074620 * four, rtol=0, atol=6e-7)


@pytest.mark.parametrize(("variance", "expected"), [("fixed_large", 13.99), ("fixed_small", 14.67)])
@pytest.mark.usefixtures("shapes_unchecked")
def test_predicting_no_noise_costs_the_known_bits(variance, expected):
    """Catches a wrong weight of the squared error, which the exact noise cannot see."""
    x_0 = interior_images(2, 10)
    result = bits_per_dim(
        NetworkDenoiser(lambda x_t, _: torch.zeros_like(x_t), PAPER, variance=variance),
        x_0,
        noise=lambda t: signs(2, 10, seed=t),
        clip_x_0=False,
    )
    rate = result.terms[:, 1:].sum(1)
    assert rate.tolist() == pytest.approx([expected, expected], abs=5e-3)


def test_the_first_divergence_weighs_the_squared_error_as_published():
    """Catches the weight of fixed_large at t = 1 (0.3934 bits per unit of squared error)."""
    x_0, t = interior_images(1, 8), torch.tensor([1])
    eps = signs(1, 8)
    x_t = q_sample(PAPER, x_0, t, eps)
    wrong, _ = term(PAPER, "fixed_large", x_0, x_t, t, 0 * eps, False)
    right, _ = term(PAPER, "fixed_large", x_0, x_t, t, eps, False)
    assert float(wrong - right) == pytest.approx(0.3934, abs=5e-5)


def test_divergence_is_that_of_two_gaussians():
    """Catches exchanged arguments of the divergence and a variance for a standard deviation."""
    t, x_0, eps = torch.tensor([3, 700]), interior_images(2, 50), normal(2, 50)
    x_t, eps_hat = q_sample(PAPER, x_0, t, eps), normal(2, 50, seed=1)
    bits, mse = term(PAPER, "fixed_large", x_0, x_t, t, eps_hat, True)
    abar = PAPER.alphas_cumprod[t, None]
    x_0_hat = ((x_t - (1 - abar).sqrt() * eps_hat) / abar.sqrt()).clamp(-1, 1)
    mean, variance = q_posterior(PAPER, x_0, x_t, t)
    mean_hat, _ = q_posterior(PAPER, x_0_hat, x_t, t)
    q = torch.distributions.Normal(mean, variance.sqrt())
    p = torch.distributions.Normal(mean_hat, expand(PAPER.betas[t], mean).sqrt())
    expected = torch.distributions.kl_divergence(q, p).mean(1) / math.log(2)
    torch.testing.assert_close(bits, expected)
    torch.testing.assert_close(mse, (x_0_hat - x_0).square().mean(1))


def test_the_decoder_charges_for_the_prediction():
    """Catches a decoder around the true mean, which costs the floor whatever the network says."""
    t, x_0, eps = torch.tensor([0]), interior_images(1, 50), normal(1, 50)
    x_1, eps_hat = q_sample(PAPER, x_0, t, eps), normal(1, 50, seed=1)
    bits, mse = term(PAPER, "fixed_large", x_0, x_1, t, eps_hat, False)
    x_0_hat = (x_1 - 0.01 * eps_hat) / 0.9999**0.5
    log_std = 0.5 * PAPER.posterior_variance[1].log()
    log_probability = discretized_gaussian_log_likelihood(x_0, x_0_hat, log_std.expand(1, 50))
    torch.testing.assert_close(bits, -log_probability.mean(1) / math.log(2))
    torch.testing.assert_close(mse, (x_0_hat - x_0).square().mean(1))
    assert float(bits) > 1.5


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
@pytest.mark.parametrize("std", [1e-3, 0.0073846, 0.1, 3.0])
@pytest.mark.parametrize("mean", [-1.5, -1.0, -0.3, 0.0031, 0.999, 1.2])
def test_the_probabilities_of_all_levels_sum_to_1(mean, std, cdf):
    """Catches bins of the wrong width, and tails that no level gets."""
    log_scale = torch.full_like(LEVELS, math.log(std))
    log_probability = discretized_gaussian_log_likelihood(
        LEVELS, torch.full_like(LEVELS, mean), log_scale, cdf=cdf
    )
    # Each of 256 is clamped from below at 1e-12.
    assert float(log_probability.exp().sum()) == pytest.approx(1, abs=3e-10)


@pytest.mark.parametrize(("cdf", "atol"), [("tanh", 4e-4), ("exact", 2e-12)])
def test_decoder_agrees_with_the_normal_distribution(cdf, atol):
    """Catches a wrong constant in the approximation by tanh, and an erf that is none."""
    mean = torch.full_like(LEVELS, 0.1)
    log_probability = discretized_gaussian_log_likelihood(
        LEVELS, mean, torch.full_like(LEVELS, math.log(0.05)), cdf=cdf
    )
    # Numbers would become float32, and 0.1 another one by 1.5e-9.
    loc, scale = torch.tensor([0.1, 0.05], dtype=torch.float64)
    normal_distribution = torch.distributions.Normal(loc, scale)
    edges = (torch.arange(255, dtype=torch.float64) + 0.5) / 127.5 - 1
    below = torch.cat([edges.new_zeros(1), normal_distribution.cdf(edges), edges.new_ones(1)])
    # Each is clamped from below at 1e-12.
    torch.testing.assert_close(log_probability.exp(), below.diff(), rtol=0, atol=atol)


def test_of_65536_levels_each_gets_the_density_over_its_own_bin():
    """Catches bins of 256 levels for finer ones, and float32, which keeps four of their digits.

    The bins' masses are the integral of the density, by Simpson's rule.
    """
    levels = 2 * torch.arange(2**16, dtype=torch.float64) / 65535 - 1
    mean, std = 0.1, 0.0074
    for dtype in (torch.float64, torch.float32):
        x_0 = levels.to(dtype)
        log_probability = discretized_gaussian_log_likelihood(
            x_0,
            torch.full_like(x_0, mean),
            torch.full_like(x_0, math.log(std)),
            cdf="exact",
            num_levels=2**16,
        )
        assert log_probability.dtype == dtype
        near = (levels - mean).abs() < 4 * std
        places = levels[near, None] + torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / 65535
        density = torch.distributions.Normal(torch.tensor(mean).to(dtype).double(), std)
        weights = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6
        mass = (density.log_prob(places).exp() @ weights) * 2 / 65535
        rtol = 1e-6 if dtype == torch.float64 else 1e-3
        torch.testing.assert_close(log_probability[near].double().exp(), mass, rtol=rtol, atol=0)
        assert float(log_probability.double().exp().sum()) == pytest.approx(1, abs=2e-7 + rtol / 99)


def test_the_decoder_of_65536_levels_needs_more_than_float32():
    """Catches: a difference of numbers near 1, a three-hundredth of a deviation apart."""
    std = 0.0074
    x_0 = (std * torch.linspace(-5, 5, 41, dtype=torch.float64)).float()
    exact, found = (
        discretized_gaussian_log_likelihood(
            one, torch.zeros_like(one), torch.full_like(one, math.log(std)), num_levels=2**16
        )
        for one in (x_0.double(), x_0)
    )
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


def test_finer_levels_cost_the_bits_of_their_bins():
    """Catches a bound, or an objective, that does not pass the number of levels on."""
    x_0 = torch.zeros(2, 6, dtype=torch.float64)
    coarse, fine = (
        bits_per_dim(
            oracle(SHORT, x_0), x_0, noise=lambda t: normal(2, 6, seed=t), num_levels=num_levels
        ).terms
        for num_levels in (2**8, 2**16)
    )
    assert torch.equal(coarse[:, 1:], fine[:, 1:])
    difference = fine[:, 0] - coarse[:, 0]
    assert difference.tolist() == pytest.approx([math.log2(65535 / 255)] * 2, abs=0.1)


def test_decoder_uses_the_tanh_of_the_original():
    """Catches an exact distribution function: the published floor is that of tanh, 1.305665."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    log_scale = torch.full_like(x, math.log(0.0073846))
    upper = 0.5 * (
        1 + math.tanh(math.sqrt(2 / math.pi) * (z := 1 / 255 / 0.0073846) * (1 + 0.044715 * z * z))
    )
    expected = math.log(upper - (1 - upper))
    got = float(discretized_gaussian_log_likelihood(x, x, log_scale))
    assert got == pytest.approx(expected, rel=1e-12)


def test_the_exact_decoder_has_the_published_floor():
    """Catches tanh under the name of erf: 1.305378 bits/dim, where tanh charges 1.305665."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    step = Reverse(x, PAPER.posterior_variance[1].log().reshape(1, 1), x)
    for cdf, expected in (("exact", 1.305378), ("tanh", 1.305665)):
        bits = vlb_term(PAPER, step, x, x, torch.tensor([0]), cdf=cdf)
        assert float(bits) == pytest.approx(expected, abs=6e-7)


def test_the_bound_passes_the_decoder_on():
    """Catches an option that stops halfway: only the decoder's column may change."""
    x_0, terms = interior_images(2, 6), {}
    for cdf in ("tanh", "exact"):
        terms[cdf] = bits_per_dim(
            oracle(SHORT, x_0), x_0, noise=lambda t: normal(2, 6, seed=t), cdf=cdf
        ).terms
    assert torch.equal(terms["tanh"][:, 1:], terms["exact"][:, 1:])
    assert bool((terms["tanh"][:, 0] != terms["exact"][:, 0]).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_exact_decoder_is_exact_far_from_the_mean(side, dtype):
    """Catches a difference of two numbers near 1: 5 standard deviations to either side."""
    std = 0.02
    x_0 = torch.tensor([[side * 5 * std]], dtype=torch.float64)
    tail = torch.erfc((torch.tensor([-1.0, 1.0]).double() / 255 + 5 * std) / std / math.sqrt(2))
    expected = float((0.5 * (tail[0] - tail[1])).log())
    log_scale = torch.full_like(x_0, math.log(std)).to(dtype)
    got = discretized_gaussian_log_likelihood(
        x_0.to(dtype), torch.zeros_like(log_scale), log_scale, cdf="exact"
    )
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_the_exact_decoder_can_be_trained():
    """Catches a gradient of nan through the infinite edges of the outermost levels."""
    mean = LEVELS.clone().requires_grad_()
    log_scale = torch.full_like(LEVELS, math.log(0.01)).requires_grad_()
    log_probability = discretized_gaussian_log_likelihood(
        LEVELS + 0.003, mean, log_scale, cdf="exact"
    )
    for gradient in torch.autograd.grad(log_probability.sum(), (mean, log_scale)):
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().min()) > 0


def test_the_outermost_levels_get_the_tails():
    """Catches edges treated as inner levels: black pixels would cost bits for being black."""
    edges = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    log_scale = torch.full_like(edges, math.log(0.0073846))
    beyond = discretized_gaussian_log_likelihood(edges, 1.1 * edges, log_scale)
    torch.testing.assert_close(beyond, torch.zeros_like(beyond), rtol=0, atol=1e-12)
    bits = -discretized_gaussian_log_likelihood(edges, edges, log_scale) / math.log(2)
    assert bits.flatten().tolist() == pytest.approx([0.5099, 0.5099], abs=5e-5)


def test_impossible_pixels_cost_a_finite_price():
    """Catches log 0 where the decoder is sure and wrong."""
    x_0 = torch.tensor([[1.0, -1.0, 0.5]])
    log_probability = discretized_gaussian_log_likelihood(x_0, -x_0, torch.full_like(x_0, -5.0))
    torch.testing.assert_close(log_probability, torch.full_like(x_0, math.log(1e-12)))


@pytest.mark.parametrize(("value", "expected"), [(1.0, 2.91e-5), (0.5, 7.28e-6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_prior_bits_are_those_published(value, expected, dtype):
    """Catches index T-2, nats, and the cancellation that leaves nothing of it in float32."""
    x_0 = signs(3, 2, 4, 4).to(dtype) * value
    bits = prior_bits(PAPER, x_0)
    assert bits.dtype == dtype
    assert bits.tolist() == pytest.approx([expected] * 3, rel=2e-3)
    mean, std = PAPER.alphas_cumprod[-1].sqrt() * value, (1 - PAPER.alphas_cumprod[-1]).sqrt()
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0 * mean, 1 + 0 * std)
    )
    assert bits.tolist() == pytest.approx([float(divergence) / math.log(2)] * 3, rel=1e-6)


def test_bits_per_dim_calls_everything_once_for_each_t():
    """Catches a trajectory instead of a fresh x_t for each t, and columns in reverse."""
    x_0, network, drawn = interior_images(2, 6), [], []

    def noise(step):
        drawn.append(step)
        return normal(2, 6, seed=step)

    def denoiser(x_t, t):
        network.append(int(t[0]))
        eps = normal(2, 6, seed=int(t[0]))
        torch.testing.assert_close(x_t, q_sample(SHORT, x_0, t, eps))
        return eps + 0.01 * t[:, None]

    result = bits_per_dim(
        NetworkDenoiser(denoiser, SHORT, variance="fixed_small"), x_0, noise=noise
    )
    assert network == drawn == list(range(49, -1, -1))
    assert result.terms.shape == result.mse.shape == (2, 50)
    for step in (0, 7):
        t, eps = torch.tensor([step, step]), normal(2, 6, seed=step)
        x_t = q_sample(SHORT, x_0, t, eps)
        bits, mse = term(SHORT, "fixed_small", x_0, x_t, t, eps + 0.01 * step, True)
        torch.testing.assert_close(result.terms[:, step], bits)
        torch.testing.assert_close(result.mse[:, step], mse)


def test_bits_per_dim_clips_by_default():
    """Catches the evaluation without clipping, which charges for impossible images."""
    x_0 = interior_images(2, 6)

    def run(**clip):
        return bits_per_dim(
            NetworkDenoiser(lambda x_t, _: -x_t, SHORT, variance="fixed_small"),
            x_0,
            noise=lambda t: normal(2, 6, seed=t),
            **clip,
        )

    assert torch.equal(run().total, run(clip_x_0=True).total)
    assert bool((run().total < run(clip_x_0=False).total).all())
    assert float(run().mse.max()) <= 4


def test_bits_are_the_same_for_every_shape_and_in_float32():
    """Catches a sum over dimensions, an axis left out, and a loss of precision in float32."""
    x_0 = interior_images(2, 24)

    def run(shape, dtype):
        images = x_0.reshape(2, *shape).to(dtype)
        return bits_per_dim(
            NetworkDenoiser(lambda x_t, _: 0.1 * x_t, SHORT),
            images,
            noise=lambda t: normal(2, 24, seed=t).reshape(2, *shape).to(dtype),
        )

    flat = run((24,), torch.float64)
    torch.testing.assert_close(run((2, 3, 4), torch.float64).total, flat.total)
    single = run((1, 2, 3, 4), torch.float32)
    assert single.total.dtype == torch.float32
    torch.testing.assert_close(single.total.double(), flat.total, rtol=1e-4, atol=0)


def test_vlb_term_never_waits_for_its_device():
    """Catches `if t == 0` on a tensor: on the meta device there is no value to wait for."""
    x_0, t = torch.empty(2, 3, device="meta"), torch.empty(2, dtype=torch.int64, device="meta")
    bits, _ = term(SHORT, "fixed_small", x_0, x_0, t, x_0, True)
    assert bits.shape == (2,)


@pytest.mark.gpu
@pytest.mark.parametrize("cdf", ["tanh", "exact"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_a_gpu_finds_the_bound_of_a_cpu(dtype, tolerance, cdf, gpu):
    """Catches tables on another device, and a tail of erfc or tanh that is lost there.

    In float32 the decoder is a difference of two numbers near 1/2, good to a few thousandths.
    """
    x_0 = interior_images(4, 3, 8, 8).to(dtype)

    def run(images):
        return bits_per_dim(
            NetworkDenoiser(lambda x_t, t: 0.1 * x_t.sin(), SHORT),
            images,
            noise=lambda t: normal(4, 3, 8, 8, seed=t).to(images.device, images.dtype),
            cdf=cdf,
        )

    for found, expected in zip(run(x_0.to(gpu)), run(x_0), strict=True):
        assert found.device.type == gpu.type
        torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)
