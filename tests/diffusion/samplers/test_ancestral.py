"""Ancestral sampling against closed forms and against diffusers."""

import diffusers
import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample, descend, draw_previous
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, SHORT, every_t, normal, oracle

VARIANCES = ("fixed_small", "fixed_large")


def ddpm_step(schedule, variance, x_t, t, eps_hat, noise, clip):
    """Return x_{t-1} (its mean, if there is no noise) and x_0_hat for a predicted noise."""
    step = Prediction(schedule, x_t, t, eps_hat, "eps", variance).reverse(clip_x_0=clip)
    return (step.mean if noise is None else draw_previous(step, t, noise)), step.x_0_hat


def diffusers_scheduler(variance, clip):
    return diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        variance_type=variance,
        clip_sample=clip,
    )


def steps_of_both(scheduler, variance, clip, t):
    """Return (x_prev, x_0_hat) of ours and of diffusers, with the same noise."""
    x_t, eps_hat = normal(2, 3, 4, 4, seed=1), normal(2, 3, 4, 4, seed=2)
    noise = normal(2, 3, 4, 4, seed=3)
    theirs = scheduler.step(eps_hat, t, x_t, generator=torch.Generator().manual_seed(3))
    times = torch.full((2,), t)
    ours = ddpm_step(PAPER, variance, x_t, times, eps_hat, noise, clip)
    return ours, (theirs.prev_sample, theirs.pred_original_sample)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("t", [0, 1, 2, 50, 500, 998, 999])
def test_ddpm_step_agrees_with_diffusers_given_exact_tables(t, variance, clip):
    """Catches any wrong coefficient, variance, clip or noise at t = 0; float64 throughout."""
    scheduler = diffusers_scheduler(variance, clip)
    scheduler.betas, scheduler.alphas = PAPER.betas, PAPER.alphas
    scheduler.alphas_cumprod = PAPER.alphas_cumprod
    scheduler.one = torch.ones((), dtype=torch.float64)
    ours, theirs = steps_of_both(scheduler, variance, clip, t)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("t", [0, 1, 50, 999])
def test_ddpm_step_agrees_with_diffusers_as_it_is(t, variance):
    """Catches a different default of the library. Its float32 tables are off by up to 2e-4."""
    ours, theirs = steps_of_both(diffusers_scheduler(variance, True), variance, True, t)
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


def test_clipping_happens_before_the_posterior_mean():
    """Catches a clip after the mean was computed (dead code) and a clip of the mean itself."""
    t = torch.tensor([300, 600, 999])
    x_t, eps_hat = normal(3, 50, seed=1), 10 * normal(3, 50, seed=2)
    mean, x_0_hat = ddpm_step(PAPER, "fixed_large", x_t, t, eps_hat, None, True)
    abar = PAPER.alphas_cumprod[t, None]
    clipped = ((x_t - (1 - abar).sqrt() * eps_hat) / abar.sqrt()).clamp(-1, 1)
    expected = PAPER.coef_x_0[t, None] * clipped + PAPER.coef_x_t[t, None] * x_t
    torch.testing.assert_close(x_0_hat, clipped)
    torch.testing.assert_close(mean, expected)
    assert float(mean.abs().max()) > 1
    free, _ = ddpm_step(PAPER, "fixed_large", x_t, t, eps_hat, None, False)
    assert float((free - mean).abs().max()) > 1e-2


def test_without_clipping_the_mean_is_that_of_algorithm_2():
    """Catches a mean that is not (x_t - beta/sqrt(1 - abar) eps)/sqrt(alpha)."""
    t = every_t(PAPER)
    x_t, eps_hat = normal(1000, 3, seed=1), normal(1000, 3, seed=2)
    mean, _ = ddpm_step(PAPER, "fixed_small", x_t, t, eps_hat, None, False)
    drift = PAPER.betas / (1 - PAPER.alphas_cumprod).sqrt()
    expected = (x_t - drift[:, None] * eps_hat) / PAPER.alphas.sqrt()[:, None]
    # x_0_hat is up to 157 times larger than what is left of it in the mean.
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-10)


def test_fixed_small_follows_the_marginals_of_a_single_image():
    """Catches wrong variances: for one known x_0, x_{t-1} must have q's mean and variance."""
    t, one = every_t(PAPER)[1:], torch.ones(999, dtype=torch.float64)
    abar, abar_prev = PAPER.alphas_cumprod[1:], PAPER.alphas_cumprod_prev[1:]
    variance = "fixed_small"
    for signal, noise, expected in (
        (abar.sqrt(), 0 * one, abar_prev.sqrt()),
        (abar.sqrt() + (1 - abar).sqrt(), one, None),
    ):
        mean, _ = ddpm_step(PAPER, variance, signal, t, noise, 0 * one, False)
        if expected is not None:
            torch.testing.assert_close(mean, expected)
            continue
        # x_t = mean + 1 standard deviation, of which the oracle knows; it keeps x_0 = 1.
        slope = mean - abar_prev.sqrt()
        moved, _ = ddpm_step(PAPER, variance, signal, t, noise, one, False)
        torch.testing.assert_close(slope**2 + (moved - mean) ** 2, 1 - abar_prev)


def test_fixed_large_leaves_standard_normal_data_standard_normal():
    """Catches wrong variances: for x_0 ~ N(0, 1), eps_hat = sqrt(1 - abar) x_t keeps N(0, 1)."""
    t, one = every_t(PAPER)[1:], torch.ones(999, dtype=torch.float64)
    eps_hat = (1 - PAPER.alphas_cumprod[1:]).sqrt()
    variance = "fixed_large"
    mean, _ = ddpm_step(PAPER, variance, one, t, eps_hat, 0 * one, False)
    moved, _ = ddpm_step(PAPER, variance, one, t, eps_hat, one, False)
    torch.testing.assert_close(mean**2 + (moved - mean) ** 2, one)


def test_no_noise_is_added_where_t_is_0():
    """Catches noise in the finished image; within one batch, only rows with t = 0 are spared."""
    t, x_t = torch.tensor([0, 1, 0, 5]), normal(4, 6)
    variance, zero = "fixed_large", torch.zeros(4, 6, dtype=torch.float64)
    mean, x_0_hat = ddpm_step(PAPER, variance, x_t, t, zero, None, False)
    moved, _ = ddpm_step(PAPER, variance, x_t, t, zero, zero + 1, False)
    expected = PAPER.betas[t].sqrt() * torch.tensor([0.0, 1.0, 0.0, 1.0])
    torch.testing.assert_close(moved - mean, expected[:, None].expand(4, 6))
    torch.testing.assert_close(moved[[0, 2]], x_0_hat[[0, 2]])


@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm_sample_calls_everything_once_and_in_order(variance):
    """Catches a skipped or repeated step, and a draw of noise for the last one."""
    network, drawn, seen = [], [], []

    def denoiser(x_t, t):
        assert t.dtype == torch.int64
        assert t.unique().numel() == 1
        network.append(int(t[0]))
        return torch.zeros_like(x_t)

    def noise(step):
        drawn.append(step)
        return normal(3, 2, seed=step)

    def on_step(step, x_prev, x_0_hat):
        seen.append((step, x_prev, x_0_hat))

    x_T = normal(3, 2, seed=99)
    x_0 = ddpm_sample(
        NetworkDenoiser(denoiser, SHORT, variance=variance), x_T, noise=noise, on_step=on_step
    )
    assert network == list(range(49, -1, -1))
    assert drawn == list(range(49, 0, -1))
    assert [step for step, _, _ in seen] == network
    assert torch.equal(x_0, seen[-1][1])
    torch.testing.assert_close(x_0, seen[-1][2])
    t, zero = torch.full((3,), 49), torch.zeros(3, 2, dtype=torch.float64)
    first, _ = ddpm_step(SHORT, variance, x_T, t, zero, normal(3, 2, seed=49), True)
    assert torch.equal(seen[0][1], first)


def test_ddpm_sample_with_the_exact_denoiser_returns_the_image():
    """Catches a loop that ends one step early."""
    x_0 = normal(2, 3, 4, 4).clamp(-1, 1)
    x_T = q_sample(SHORT, x_0, torch.tensor([49, 49]), normal(2, 3, 4, 4, seed=1))
    sample = ddpm_sample(
        oracle(SHORT, x_0),
        x_T,
        noise=lambda step: normal(2, 3, 4, 4, seed=step),
    )
    torch.testing.assert_close(sample, x_0)


def test_ddpm_sample_clips_to_the_range_of_images():
    """Catches clipping off by default: a denoiser that is wrong must not leave [-1, 1]."""
    sample = ddpm_sample(
        NetworkDenoiser(lambda x_t, _: 3 * x_t, SHORT, variance="fixed_small"),
        normal(2, 9),
        noise=lambda step: normal(2, 9, seed=step),
    )
    assert float(sample.abs().max()) <= 1


def test_ddpm_sample_keeps_float32_and_builds_no_graph():
    """Catches promotion to float64 or to the network's bfloat16, and a graph over 1000 steps."""
    weight = torch.ones((), requires_grad=True)
    sample = ddpm_sample(
        NetworkDenoiser(lambda x_t, _: (weight * x_t).bfloat16(), SHORT, variance="fixed_small"),
        normal(2, 9, dtype=torch.float32),
        noise=lambda step: normal(2, 9, seed=step, dtype=torch.float32),
    )
    assert sample.dtype == torch.float32
    assert not sample.requires_grad


def test_ddpm_sample_never_waits_for_its_device():
    """Catches `.item()` in the loop: on the meta device there is no value to wait for."""
    x_T = torch.empty(2, 3, 4, 4, device="meta")
    sample = ddpm_sample(
        NetworkDenoiser(lambda x_t, _: torch.zeros_like(x_t), SHORT),
        x_T,
        noise=lambda _: torch.empty_like(x_T),
    )
    assert sample.device.type == "meta"


def test_a_chain_walked_in_parts_is_the_chain():
    """Catches: a part that repeats or skips the step at its border."""
    free = NetworkDenoiser(lambda x_t, t: x_t.sin() + 0.01 * t[:, None], SHORT)
    x_T, noise = normal(3, 2, seed=99), lambda step: normal(3, 2, seed=step)
    x_t = descend(free, x_T, first=49, last=20, noise=noise)
    assert torch.equal(descend(free, x_t, first=19, last=20, noise=noise), x_t)
    x_0 = descend(free, x_t, first=19, noise=noise)
    assert torch.equal(x_0, ddpm_sample(free, x_T, noise=noise))


@pytest.mark.parametrize(("first", "last"), [(50, 0), (10, 12), (10, -1), (-2, 0)])
def test_a_part_that_is_not_on_the_chain_is_refused(first, last):
    """Catches: an index from the table's other end, and a silent walk of no steps."""
    with pytest.raises(ConfigError, match=f"steps {first} down to {last} are not on a chain of 50"):
        descend(oracle(SHORT, normal(1, 2)), normal(1, 2), first=first, last=last, noise=normal)
