"""Rate, distortion and progressive decoding, by hand and with the denoiser that knows the image."""

import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.likelihood import LikelihoodTerms, bits_per_dim
from ddpm_core.diffusion.measures.rate_distortion import (
    codelength,
    progressive_decoding,
    rate,
    rate_distortion,
)
from ddpm_core.diffusion.process import q_sample
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import SHORT, normal, oracle


def random_bound(num=5, num_timesteps=4):
    generator = torch.Generator().manual_seed(0)
    prior, terms, mse = (
        torch.rand(shape, generator=generator, dtype=torch.float64)
        for shape in ((num,), (num, num_timesteps), (num, num_timesteps))
    )
    return LikelihoodTerms(prior + terms.sum(1), prior, terms, mse)


def exact():
    """Return the bound of two images given the exact noise, and each divergence in closed form.

    The means of q and p agree then, and their variances are beta~ and beta, whatever the image.
    """
    x_0 = torch.arange(600).reshape(2, 300).remainder(200).double() / 127.5 - 0.8
    bound = bits_per_dim(oracle(SHORT, x_0), x_0, noise=lambda t: normal(2, 300, seed=t))
    share = SHORT.posterior_variance[1:] / SHORT.betas[1:]
    return bound, 0.5 * (share - 1 - share.log()) / math.log(2)


def test_rate_and_distortion_by_hand():
    """Catches: the decoder's term in the rate, x_t's own step counted, RMSE in other units."""
    bound = random_bound()
    found = rate_distortion(bound)
    for t in range(4):
        expected = sum(
            float(bound.prior[i]) + sum(float(bound.terms[i, s]) for s in range(t + 1, 4))
            for i in range(5)
        )
        assert float(found.rate[t]) == pytest.approx(expected / 5, rel=1e-12)
        errors = [float(bound.mse[i, t]) for i in range(5)]
        assert float(found.rmse[t]) == pytest.approx(
            127.5 * sum(error**0.5 for error in errors) / 5, rel=1e-12
        )
        assert float(found.rmse_of_mean[t]) == pytest.approx(
            127.5 * (sum(errors) / 5) ** 0.5, rel=1e-12
        )
        assert found.rmse[t] < found.rmse_of_mean[t]


def test_steps_are_numbered_as_in_the_paper():
    """Catches: a table that begins at 0, or with the image instead of the noise."""
    steps = rate_distortion(random_bound(num_timesteps=1000)).reverse_step
    assert (int(steps[0]), int(steps[999]), int(steps[900])) == (1000, 1, 100)


def test_exact_noise_has_no_distortion_and_the_known_rate():
    """Catches: a rate that ends with L_0 or without L_1, a distortion of another step."""
    bound, divergences = exact()
    found = rate_distortion(bound)
    for t in (0, 1, 30, 49):
        expected = float(bound.prior.mean() + divergences[t:].sum())
        assert float(found.rate[t]) == pytest.approx(expected, rel=1e-9)
    assert float(found.rmse_of_mean.max()) < 1e-8


def test_the_lossless_code_has_two_parts():
    """Catches: a share of the rate for that of the distortion, a prior lost between the two."""
    bound, divergences = exact()
    found = codelength(bound)
    assert found.rate == pytest.approx(float(bound.prior.mean() + divergences.sum()), rel=1e-9)
    assert found.distortion == pytest.approx(float(bound.terms[:, 0].mean()), rel=1e-12)
    assert found.total == pytest.approx(float(bound.total.mean()), rel=1e-12)
    assert found.distortion_share == pytest.approx(found.distortion / found.total, rel=1e-12)
    assert 0.5 < found.distortion_share < 1


def test_sums_over_many_steps_are_taken_in_float64():
    """Catches: a float32 sum of a thousand small terms after a large one."""
    terms = torch.full((1, 1000), 1e-7)
    terms[:, -1] = 1.0
    found = rate(torch.zeros(1), terms)
    assert found.dtype == torch.float64
    assert float(found[0]) == pytest.approx(1 + 998 * float(terms[0, 0]), rel=1e-13)


# -- progressive decoding --------------------------------------------------------------------------


def receive(denoiser, x_0, times, **other):
    options = {"noise": lambda t: normal(*x_0.shape, seed=50 + t), **other}
    return progressive_decoding(denoiser, x_0, times=times, **options)


def test_what_is_shown_is_x_0_hat_of_what_is_held():
    """Catches: a network called at the index of the sub-chain, rows in reverse, a lost clip."""
    free = NetworkDenoiser(lambda x_t, t: x_t.sin() + 0.01 * t[:, None], SHORT)
    x_0, times = normal(3, 5).clamp(-1, 1), [49, 20, 3, 0]
    found = receive(free, x_0, times, clip_x_0=False)
    clipped = receive(free, x_0, times)
    for place, t in enumerate(times):
        expected = free.predict(found.x_t[place], torch.full((3,), t)).x_0
        torch.testing.assert_close(found.x_0_hat[place], expected)
        assert torch.equal(clipped.x_0_hat[place], found.x_0_hat[place].clamp(-1, 1))
    first = q_sample(SHORT, x_0, torch.full((3,), 49), normal(3, 5, seed=99))
    assert torch.equal(found.x_t[0], first)


def test_the_exact_denoiser_shows_the_image_at_every_time():
    """Catches: latents of another image or of another time than the network gets."""
    x_0 = normal(2, 3, 4, 4).clamp(-1, 1)
    found = receive(oracle(SHORT, x_0), x_0, [49, 30, 7, 0])
    torch.testing.assert_close(found.x_0_hat, x_0.expand(4, 2, 3, 4, 4))


def test_latents_are_those_of_one_forward_chain():
    """Catches: a fresh x_t for each time, posterior coefficients of single steps, no variance.

    Along the forward chain x_t has mean sqrt(abar_t) x_0 and variance 1 - abar_t, and for s < t
    the covariance of x_s and x_t is sqrt(abar_t / abar_s) (1 - abar_s). With a unit vector for
    each draw, the products of the latents are the covariances, without sampling error.
    """
    times, units = [45, 30, 8], torch.eye(3, dtype=torch.float64)
    draws = {t: units[place : place + 1] for place, t in enumerate(times)}
    anything = NetworkDenoiser(lambda x_t, t: x_t, SHORT)
    held = receive(anything, 0 * draws[45], times, noise=draws.__getitem__).x_t[:, 0]
    abar = SHORT.alphas_cumprod[torch.tensor(times)]
    late, early = torch.minimum(abar[:, None], abar), torch.maximum(abar[:, None], abar)
    torch.testing.assert_close(held @ held.T, (late / early).sqrt() * (1 - early))
    x_0 = normal(1, 3)
    means = receive(anything, x_0, times, noise=lambda t: 0 * x_0).x_t[:, 0]
    torch.testing.assert_close(means, abar.sqrt()[:, None] * x_0)


def test_one_call_and_one_draw_for_each_time():
    """Catches: the whole chain walked for a strip of a few pictures."""
    calls, drawn = [], []

    def network(x_t, t):
        calls.append(int(t[0]))
        return 0 * x_t

    def noise(t):
        drawn.append(t)
        return normal(2, 4)

    receive(NetworkDenoiser(network, SHORT), normal(2, 4), [40, 12, 1], noise=noise)
    assert calls == drawn == [40, 12, 1]


@pytest.mark.parametrize("times", [[3, 10], [10, 10], [10], [], [50, 2], [4, -1]])
def test_times_that_cannot_be_sent_are_refused(times):
    """Catches: an index from the table's other end."""
    with pytest.raises(ConfigError, match="times"):
        receive(oracle(SHORT, normal(1, 4)), normal(1, 4), times)


def test_decoding_never_waits_for_its_device_and_builds_no_graph():
    """Catches: `.item()` between the steps, a graph over the network."""
    x_0 = torch.empty(2, 3, device="meta")
    weight = torch.ones((), requires_grad=True, device="meta")
    found = receive(
        NetworkDenoiser(lambda x_t, t: weight * x_t, SHORT), x_0, [30, 4], noise=lambda t: x_0
    )
    assert found.x_0_hat.device.type == "meta"
    assert not found.x_0_hat.requires_grad
