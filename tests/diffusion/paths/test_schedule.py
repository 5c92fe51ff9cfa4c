"""The schedule against numbers of the paper's chain, computed independently in float64."""

import diffusers
import pytest
import torch

from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("table", "index", "expected"),
    [
        ("betas", 0, 1e-4),
        ("betas", 999, 0.02),
        ("alphas", 0, 0.9999),
        ("alphas_cumprod", 0, 0.9999),
        ("alphas_cumprod", 1, 0.9997800920720721),
        ("alphas_cumprod", 499, 0.07858724288177824),
        ("alphas_cumprod", 999, 4.035829765375676e-05),
        ("alphas_cumprod_prev", 0, 1.0),
        ("alphas_cumprod_prev", 1, 0.9999),
        ("posterior_variance", 0, 0.0),
        ("posterior_variance", 1, 5.4531876613021935e-05),
        ("posterior_variance", 999, 0.01999998352656061),
        ("posterior_log_variance_clipped", 0, -9.81672513529567),
        ("posterior_log_variance_clipped", 1, -9.81672513529567),
        ("coef_x_0", 0, 1.0),
        ("coef_x_t", 0, 0.0),
        ("coef_x_0", 1, 0.5452914995),
        ("coef_x_t", 1, 0.4547084990),
        ("coef_x_0", 999, 1.2835148717e-4),
        ("coef_x_t", 999, 0.9899486783),
    ],
)
def test_tables_hold_the_golden_numbers(table, index, expected):
    """Catches float32 betas (error 8e-5 at t = 0), shifted indices and swapped coefficients."""
    assert float(getattr(PAPER, table)[index]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [
        ("sqrt_alphas_cumprod", 999, 1 / 157.410457),
        ("sqrt_one_minus_alphas_cumprod", 999, 157.407281 / 157.410457),
        ("sqrt_alphas_cumprod", 0, 0.9999**0.5),
        ("sqrt_one_minus_alphas_cumprod", 0, 0.01),
    ],
)
def test_derived_tables_hold_the_golden_numbers(name, index, expected):
    """Catches a root or reciprocal in the wrong place; six decimals are published."""
    table = PAPER.table(name, torch.device("cpu"), torch.float64)
    assert float(table[index]) == pytest.approx(expected, abs=5e-7)


def test_log_snr_falls_over_the_published_range():
    """Catches the inverse ratio and a logarithm to another base."""
    assert float(PAPER.log_snr[0]) == pytest.approx(9.21024, abs=5e-6)
    assert float(PAPER.log_snr[-1]) == pytest.approx(-10.11767, abs=5e-6)
    assert bool((PAPER.log_snr.diff() < 0).all())
    torch.testing.assert_close(PAPER.snr.log(), PAPER.log_snr)


def test_all_tables_are_finite_float64():
    """Catches log 0 at t = 0, and a table that fell to float32."""
    for name in ("betas", "alphas_cumprod", "posterior_log_variance_clipped", "coef_x_t"):
        table = getattr(PAPER, name)
        assert table.dtype == torch.float64
        assert table.shape == (1000,)
        assert bool(table.isfinite().all()), name


def test_fixed_small_is_the_clipped_posterior_variance():
    """Catches fixed_small and fixed_large exchanged, and 1e-20 at index 0."""
    log_variance = PAPER.table("posterior_log_variance_clipped", CPU, torch.float64)
    torch.testing.assert_close(log_variance[1:].exp(), PAPER.posterior_variance[1:])
    assert float(log_variance[0]) == pytest.approx(-9.81672513529567, abs=1e-9)


def test_fixed_large_is_beta_but_at_index_0():
    """Catches beta_1 at index 0: 0.407 bits/dim (first decoder std is 0.0073846, not 0.01)."""
    log_variance = PAPER.table("log_variance_large", CPU, torch.float64)
    torch.testing.assert_close(log_variance[1:].exp(), PAPER.betas[1:])
    assert float((0.5 * log_variance[0]).exp()) == pytest.approx(0.0073846, abs=5e-8)


def test_linear_betas_agree_with_diffusers():
    """Catches other end points or spacing; diffusers computes in float32, 6e-8 relative."""
    theirs = diffusers.DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(make_betas("linear", 1000), theirs.betas.double(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("num_timesteps", [100, 250, 1000, 4000])
def test_a_shorter_or_longer_chain_ends_in_noise_too(num_timesteps):
    """Catches betas that are not scaled by 1000/T: with T = 100, half of the signal would stay."""
    schedule = make_schedule(make_betas("linear", num_timesteps))
    assert schedule.num_timesteps == num_timesteps
    assert float(schedule.alphas_cumprod[-1]) < 1e-4


def test_linear_betas_scale_exactly():
    """Catches a scale of (1000 - 1)/(T - 1) and the like."""
    assert float(make_betas("linear", 500)[0]) == pytest.approx(2e-4, rel=1e-12)
    assert float(make_betas("linear", 500)[-1]) == pytest.approx(0.04, rel=1e-12)


@pytest.mark.parametrize(
    ("num_timesteps", "start", "end"), [(1, 1e-4, 0.02), (20, 1e-4, 0.02), (1000, 0.02, 1e-4)]
)
def test_impossible_betas_are_refused_with_the_rule(num_timesteps, start, end):
    """Catches variances of 1 and more, which make the square roots nan."""
    with pytest.raises(ConfigError, match="must be"):
        make_betas("linear", num_timesteps, start, end)


@pytest.mark.parametrize(
    "betas",
    [
        [],
        [0.1],
        [0.0, 0.1],
        [0.1, 0.0, 0.1],
        [0.1, 0.0],
        [0.1, -0.1],
        [0.1, 1.1],
        [1.0, 0.1],
        [0.1, float("nan")],
    ],
)
def test_make_schedule_refuses_what_is_no_chain(betas):
    """Catches a chain that would give nan in every image, and one with a step that adds no noise,
    the last among them: its reverse step has the variance 0."""
    with pytest.raises(ConfigError, match="a chain needs at least two betas"):
        make_schedule(torch.tensor(betas, dtype=torch.float64))


@pytest.mark.parametrize("betas", [[1e-17, 0.1], [0.1, 1e-17, 0.1], [0.1, 1e-17]])
def test_a_step_that_is_lost_in_rounding_is_refused(betas):
    """Catches a variance above 0 that is as good as 0: 0/0 at the first step, and two steps of one
    signal-to-noise ratio, between which no solver finds its time."""
    with pytest.raises(ConfigError, match=r"betas down to 1e-17 add no noise at all"):
        make_schedule(torch.tensor(betas, dtype=torch.float64))


@pytest.mark.parametrize("betas", [[1e-15, 0.1], [0.1, 1e-15], [0.1, 1.0]])
def test_the_smallest_and_the_largest_steps_are_taken(betas):
    """Catches a refusal of what can be computed: nothing of these chains is nan."""
    schedule = make_schedule(torch.tensor(betas, dtype=torch.float64))
    for name in ("posterior_log_variance_clipped", "coef_x_0", "coef_x_t"):
        assert bool(getattr(schedule, name).isfinite().all()), name


def test_a_chain_without_signal_before_its_end_is_refused():
    """Catches signal-to-noise ratios of 0 in the middle, whose logarithm no solver can use."""
    with pytest.raises(ConfigError, match=r"betas up to 0.95 over 1000 steps leave no signal"):
        make_schedule(make_betas("linear", 1000, 1e-4, 0.95))


def test_table_is_rounded_once_and_kept():
    """Catches a table computed in float32, or copied to the device at every step."""
    cpu = torch.device("cpu")
    table = PAPER.table("sqrt_alphas_cumprod", cpu, torch.float32)
    assert torch.equal(table, PAPER.alphas_cumprod.sqrt().float())
    assert PAPER.table("sqrt_alphas_cumprod", cpu, torch.float32) is table


def test_table_never_falls_below_float32():
    """Catches bfloat16 tables: sqrt(1 - abar_0) would be wrong in the third digit."""
    assert PAPER.table("coef_x_0", torch.device("cpu"), torch.bfloat16).dtype == torch.float32


def test_table_made_in_inference_mode_serves_training():
    """Catches cached inference tensors, which autograd refuses to save."""
    schedule = make_schedule(make_betas("linear", 30))
    with torch.inference_mode():
        schedule.table("coef_x_0", torch.device("cpu"), torch.float32)
    weight = torch.ones(30, requires_grad=True)
    table = schedule.table("coef_x_0", torch.device("cpu"), torch.float32)
    (table * weight).sum().backward()
    torch.testing.assert_close(weight.grad, table)
