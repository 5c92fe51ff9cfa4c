"""The reverse step of a network, against q and against diffusers."""

import diffusers
import pytest
import torch

from ddpm_core.diffusion.prediction import Prediction, split_output
from ddpm_core.diffusion.process import q_posterior, q_sample
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample, draw_previous
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, SHORT, every_t, normal
from tests.diffusion.objectives import LEARNED, PREDICTIONS, VARIANCES, knowing, saying


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_the_mean_is_the_posterior_s_with_the_predicted_image(prediction, clip):
    """Catches a clip after the mean or none, and one mean for all predictions."""
    t = torch.tensor([0, 1, 300, 999])
    x_t, value = normal(4, 50, seed=1), 2 * normal(4, 50, seed=2)
    x_0 = saying(value, prediction=prediction).predict(x_t, t).x_0
    assert float(x_0.abs().max()) > 1
    expected = x_0.clamp(-1, 1) if clip else x_0
    step = saying(value, prediction=prediction).predict(x_t, t).reverse(clip_x_0=clip)
    torch.testing.assert_close(step.x_0_hat, expected)
    torch.testing.assert_close(step.mean, q_posterior(PAPER, expected, x_t, t)[0])


def test_a_predicted_mean_is_taken_at_its_word():
    """Catches a mean that goes by way of x_0_hat, where clipping would change it."""
    t = torch.tensor([0, 1, 300, 999])
    x_t, mean = normal(4, 50, seed=1), 2 * normal(4, 50, seed=2)
    denoiser = saying(mean, prediction="x_prev")
    clipped, free = (denoiser.predict(x_t, t).reverse(clip_x_0=clip) for clip in (True, False))
    assert torch.equal(clipped.mean, mean)
    assert torch.equal(free.mean, mean)
    torch.testing.assert_close(free.x_0_hat, denoiser.predict(x_t, t).x_0)
    torch.testing.assert_close(clipped.x_0_hat, free.x_0_hat.clamp(-1, 1))
    assert float(free.x_0_hat.abs().max()) > 1


def test_a_drift_is_in_units_of_the_noise_of_a_step():
    """Catches beta for its root, and abar for alpha: without drift, x_t decays as in a step of the
    forward process.
    """
    t = torch.tensor([0, 1, 300, 999])
    x_t, drift = normal(4, 50, seed=1), normal(4, 50, seed=2)
    beta = PAPER.betas[t][:, None]
    said = saying(drift, prediction="drift").predict(x_t, t)
    expected = (1 - beta).sqrt() * x_t + beta.sqrt() * drift
    torch.testing.assert_close(said.reverse(clip_x_0=True).mean, expected)
    torch.testing.assert_close(said.of_kind("x_prev"), expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_predictions_of_one_image_are_one_step(prediction):
    """Catches a reverse step that depends on how the network says what it knows."""
    t, x_0 = every_t(PAPER), normal(1000, 2, 3, seed=1)
    x_t = q_sample(PAPER, x_0, t, normal(1000, 2, 3, seed=2))
    step = knowing(PAPER, x_0, prediction).predict(x_t, t).reverse(clip_x_0=False)
    mean, _ = q_posterior(PAPER, x_0, x_t, t)
    torch.testing.assert_close(step.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(step.x_0_hat, x_0, rtol=1e-8, atol=1e-8)


def test_the_output_is_split_along_the_channels():
    """Catches a split along the batch or the width, and halves exchanged."""
    output = normal(2, 6, 4, 4)
    value, spread = split_output(output, "learned")
    assert torch.equal(value, output[:, :3])
    assert torch.equal(spread, output[:, 3:])
    whole, none = split_output(output, "fixed_large")
    assert whole is output
    assert none is None


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_variance_is_that_of_its_name(variance):
    """Catches learned and learned_range exchanged, T for its root in learned_beta, a standard
    deviation for a variance, and one number for an image where the network says one for each pixel.
    """
    t = every_t(PAPER)
    small = PAPER.posterior_log_variance_clipped[:, None, None]
    large = torch.cat([PAPER.posterior_variance[1:2], PAPER.betas[1:]]).log()[:, None, None]
    log_beta = PAPER.betas.log()[:, None, None]
    x_t, spread = normal(1000, 2, 3, seed=1), normal(1000, 2, 3, seed=2)
    step = knowing(PAPER, x_t, "x_0", variance, spread).predict(x_t, t).reverse(clip_x_0=False)
    expected = {
        "fixed_small": small,
        "fixed_large": large,
        "learned": spread,
        "learned_range": small + (spread + 1) / 2 * (log_beta - small),
        "learned_beta": (PAPER.betas.logit()[:, None, None] + spread / 1000**0.5).sigmoid().log(),
    }
    torch.testing.assert_close(step.log_variance, expected[variance])


def test_learned_range_reaches_both_ends_and_beyond():
    """Catches a share of out instead of (out + 1)/2, one that is clipped, and ends exchanged: -1 is
    the posterior variance, whose first is replaced by the second, and 1 is beta, the first too.
    """
    t = every_t(PAPER)
    x_t = normal(1000, 2, seed=1)
    small, log_beta = PAPER.posterior_log_variance_clipped, PAPER.betas.log()
    for out, expected in ((-1.0, small), (1.0, log_beta), (3.0, 2 * log_beta - small)):
        spread = torch.full_like(x_t, out)
        step = (
            knowing(PAPER, x_t, "x_0", "learned_range", spread)
            .predict(x_t, t)
            .reverse(clip_x_0=True)
        )
        torch.testing.assert_close(step.log_variance, expected[:, None].expand(1000, 2))
    assert float(log_beta[0] - small[0]) == pytest.approx(0.6064, abs=1e-4)


@pytest.mark.parametrize("variance", LEARNED)
def test_a_network_without_a_second_half_is_refused(variance):
    """Catches a variance that is made up where the network says none."""
    x_t, t = normal(1, 3), torch.tensor([1])
    said = Prediction(PAPER, x_t, t, x_t, "eps", variance)
    with pytest.raises(ConfigError, match=r"no second half; give the network twice the channels"):
        said.reverse(clip_x_0=True)


def exact(scheduler):
    """Give diffusers' scheduler our float64 tables: its own are float32."""
    scheduler.betas, scheduler.alphas = PAPER.betas, PAPER.alphas
    scheduler.alphas_cumprod = PAPER.alphas_cumprod
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


@pytest.mark.parametrize("t", [1, 2, 500, 999])
@pytest.mark.parametrize(
    ("prediction", "theirs"), [("eps", "epsilon"), ("x_0", "sample"), ("v", "v_prediction")]
)
@pytest.mark.parametrize("variance", [one for one in VARIANCES if one != "learned_beta"])
def test_a_step_agrees_with_diffusers(prediction, theirs, variance, t):
    """Catches another meaning of a name than the library's: mean, variance and noise at once.

    Its `learned` takes the variance itself, ours its logarithm. At t = 0 it adds no noise.
    """
    scheduler = exact(
        diffusers.DDPMScheduler(
            beta_schedule="linear",
            beta_start=1e-4,
            beta_end=0.02,
            variance_type=variance,
            prediction_type=theirs,
            clip_sample=True,
        )
    )
    x_t, value, spread = (normal(2, 3, 4, 4, seed=seed) for seed in (1, 2, 3))
    outputs = {
        "learned": (torch.cat([value, spread], 1), torch.cat([value, spread.exp()], 1)),
        "learned_range": (torch.cat([value, spread], 1),) * 2,
    }
    ours, given = outputs.get(variance, (value, value))
    expected = scheduler.step(given, t, x_t, generator=torch.Generator().manual_seed(4))
    times = torch.full((2,), t)
    step = (
        saying(ours, prediction=prediction, variance=variance)
        .predict(x_t, times)
        .reverse(clip_x_0=True)
    )
    x_prev = draw_previous(step, times, normal(2, 3, 4, 4, seed=4))
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(x_prev, expected.prev_sample, **close)
    torch.testing.assert_close(step.x_0_hat, expected.pred_original_sample, **close)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_network_can_be_sampled_from(prediction, variance):
    """Catches a sampler that only knows one kind of network: with the answer it finds the image."""
    x_0 = normal(3, 2, 4, 4, seed=1).clamp(-1, 1)
    spread = torch.zeros_like(x_0)
    denoiser = knowing(SHORT, x_0, prediction, variance, spread)
    drawn = ddpm_sample(
        denoiser, normal(3, 2, 4, 4, seed=2), noise=lambda t: normal(3, 2, 4, 4, seed=t)
    )
    torch.testing.assert_close(drawn, x_0, rtol=1e-9, atol=1e-9)
