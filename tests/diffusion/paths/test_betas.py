"""The schedules against closed forms, published numbers, and diffusers."""

import math
from typing import get_args

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

from ddpm_core.diffusion.choices import BetaSchedule
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.errors import ConfigError

NAMES = get_args(BetaSchedule)
START, END = 1e-4, 0.02


def abar(betas):
    return (1 - betas).cumprod(0)


def by_hand(name, num_timesteps):
    """Return the betas one by one in Python's floats, from what each name stands for."""
    scale, last = 1000 / num_timesteps, num_timesteps - 1
    start, end = scale * START, scale * END

    def cosine(t):
        return math.cos((t / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    def rising(t, num):
        return start + (end - start) * t / (num - 1) if t < num else end

    def one(t):
        share = t / last
        match name:
            case "linear":
                return start + (end - start) * share
            case "quad" | "scaled_linear":
                return (start**0.5 + (end**0.5 - start**0.5) * share) ** 2
            case "const":
                return end
            case "warmup10":
                return rising(t, num_timesteps // 10)
            case "warmup50":
                return rising(t, num_timesteps // 2)
            case "erasure":
                least = 1e-6 + (1e-3 if t == 0 else 0)
                baseline = 1 / (num_timesteps + (2 - num_timesteps) * share)
                return least + baseline * (1 - least - 1e-5)
            case "jsd":
                return 1 / (num_timesteps - t)
            case "cosine":
                return min(1 - cosine(t + 1) / cosine(t), 0.999)
            case "sigmoid":
                return start + (end - start) / (1 + math.exp(6 - 12 * share))

    return torch.tensor([one(t) for t in range(num_timesteps)], dtype=torch.float64)


@pytest.mark.parametrize("num_timesteps", [1000, 100, 250, 4000])
@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_is_its_closed_form(name, num_timesteps):
    """Catches a wrong end, a square too many, a share of T - 1 for T, a scale that is missing or
    applied to cosine and jsd too, a warm-up of another length, float32 inside.
    """
    betas = make_betas(name, num_timesteps)
    assert (betas.dtype, betas.shape) == (torch.float64, (num_timesteps,))
    torch.testing.assert_close(betas, by_hand(name, num_timesteps), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [
        ("cosine", 0, 4.1284e-5),
        ("cosine", 998, 0.75),
        ("cosine", 999, 0.999),
        ("linear", 0, 1e-4),
        ("linear", 999, 0.02),
        ("quad", 0, 1e-4),
        ("quad", 999, 0.02),
        ("const", 0, 0.02),
        ("const", 999, 0.02),
        ("erasure", 0, 1.999989e-3),
        ("erasure", 999, 0.4999955),
        ("jsd", 0, 1e-3),
        ("jsd", 998, 0.5),
        ("jsd", 999, 1.0),
        ("warmup10", 0, 1e-4),
        ("warmup10", 98, 0.0197989899),
        ("warmup10", 99, 0.02),
        ("warmup10", 100, 0.02),
        ("warmup50", 0, 1e-4),
        ("warmup50", 498, 0.0199601202),
        ("warmup50", 499, 0.02),
        ("sigmoid", 0, 0.000149205),
        ("sigmoid", 999, 0.019950795),
    ],
)
def test_golden_numbers(name, index, expected):
    """Catches a formula that the test above shares a mistake with; five digits are published."""
    assert float(make_betas(name, 1000)[index]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "theirs", "start", "end"),
    [
        ("linear", "linear", START, END),
        ("scaled_linear", "scaled_linear", 0.00085, 0.012),  # as of Stable Diffusion
        ("quad", "scaled_linear", START, END),
        ("cosine", "squaredcos_cap_v2", START, END),
        ("sigmoid", "sigmoid", START, END),
    ],
)
def test_schedules_agree_with_diffusers(name, theirs, start, end):
    """Catches another meaning of a name; diffusers computes in float32, about 1e-6 relative, and
    loses more in 1 - a small number.
    """
    scheduler = diffusers.DDPMScheduler(beta_schedule=theirs, beta_start=start, beta_end=end)
    ours = make_betas(name, 1000, start, end)
    torch.testing.assert_close(ours, scheduler.betas.double(), rtol=1e-6, atol=0)


def test_linear_betas_are_the_paper_s():
    """Catches a second linear schedule beside the first."""
    assert torch.equal(make_betas("linear", 500), make_betas("linear", 500))
    assert torch.equal(make_betas("linear", 500, 1e-3, 0.1), make_betas("linear", 500, 1e-3, 0.1))


@pytest.mark.parametrize("num_timesteps", [100, 250, 1000, 4000])
@pytest.mark.parametrize("name", NAMES)
def test_every_chain_ends_in_noise_whatever_its_length(name, num_timesteps):
    """Catches betas that are not scaled by 1000/T: with T = 100, half of the signal would stay."""
    betas = make_betas(name, num_timesteps)
    assert bool((betas > 0).all())
    assert bool((betas[:-1] < 1).all())
    assert bool((abar(betas).diff() < 0).all())
    # quad ends highest, with the mean beta (start + sqrt(start end) + end)/3 = 0.0072; but erasure
    # leaves 1/T, as its source says.
    assert float(abar(betas)[-1]) < (1 / num_timesteps if name == "erasure" else 1e-3)
    make_schedule(betas)


def test_only_jsd_ends_in_pure_noise_by_itself():
    """Catches 1/(T + 1), ..., 1/2, and a cosine whose cap is 1."""
    pure = {name for name in NAMES if make_schedule(make_betas(name, 100)).ends_in_pure_noise}
    assert pure == {"jsd"}


def test_jsd_leaves_equal_shares_of_the_signal():
    """Catches a sequence that only looks alike: abar_t of jsd is 1 - (t + 1)/T."""
    expected = 1 - torch.arange(1, 101, dtype=torch.float64) / 100
    torch.testing.assert_close(abar(make_betas("jsd", 100)), expected)


def test_cosine_is_the_squared_cosine_up_to_its_cap():
    """Catches an offset that is not divided out, so that abar does not begin at 1."""
    t = torch.arange(1, 1000, dtype=torch.float64)
    angle = (t / 1000 + 0.008) / 1.008 * math.pi / 2
    expected = (angle.cos() / math.cos(0.008 / 1.008 * math.pi / 2)).square()
    torch.testing.assert_close(abar(make_betas("cosine", 1000))[:-1], expected)


@pytest.mark.parametrize("num_timesteps", [2, 3, 9])
@pytest.mark.parametrize("name", NAMES)
def test_the_shortest_chains_are_chains(name, num_timesteps):
    """Catches a division by 0 in a warm-up of no steps, or an index beyond the end."""
    end = 1e-3  # scaled by 500 for T = 2
    schedule = make_schedule(make_betas(name, num_timesteps, 1e-5, end))
    assert schedule.num_timesteps == num_timesteps


# -- zero terminal SNR ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_timesteps", [50, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_keeps_the_beginning_and_ends_in_pure_noise(name, num_timesteps):
    """Catches a shift without the scale, a scale without the shift, an end that is only nearly 0,
    and abar rescaled where sqrt(abar) must be.
    """
    before, betas = make_betas(name, num_timesteps), None
    betas = zero_terminal_snr(before)
    root, root_before = abar(betas).sqrt(), abar(before).sqrt()
    assert float(betas[-1]) == 1
    assert float(root[-1]) == 0
    assert make_schedule(betas).ends_in_pure_noise
    torch.testing.assert_close(betas[0], before[0], rtol=1e-9, atol=1e-15)
    # A straight line maps the old sqrt(abar) to the new.
    slope = root[0] / (root_before[0] - root_before[-1])
    torch.testing.assert_close(root, slope * (root_before - root_before[-1]))


def test_zero_terminal_snr_agrees_with_diffusers():
    """Catches a wrong order of shift and scale; theirs is given the same float64 betas."""
    betas = make_betas("scaled_linear", 1000, 0.00085, 0.012)
    torch.testing.assert_close(zero_terminal_snr(betas), rescale_zero_terminal_snr(betas.clone()))


def test_zero_terminal_snr_leaves_alone_what_ends_in_pure_noise():
    """Catches a rescaling that is not done once and for all, and one in place."""
    betas = make_betas("linear", 100)
    kept = betas.clone()
    once = zero_terminal_snr(betas)
    torch.testing.assert_close(zero_terminal_snr(once), once)
    assert torch.equal(betas, kept)
    torch.testing.assert_close(zero_terminal_snr(make_betas("jsd", 100)), make_betas("jsd", 100))


# -- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_timesteps", [-1, 0, 1])
def test_a_chain_of_less_than_two_steps_is_refused(name, num_timesteps):
    """Catches an empty table, and 0/0 in the shares of a chain of one."""
    with pytest.raises(ConfigError, match="must be at least 2"):
        make_betas(name, num_timesteps)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("jsd", "cosine", "erasure")]
)
@pytest.mark.parametrize(
    ("num_timesteps", "start", "end"),
    [
        (20, 1e-4, 0.02),
        (1000, 1e-4, 1.0),
        (1000, 1e-4, 0.0),
        (1000, 1e-4, -0.1),
        (1000, 1e-4, math.nan),
        (1000, 1e-4, math.inf),
    ],
)
def test_betas_that_are_no_variances_are_refused(name, num_timesteps, start, end):
    """Catches variances of 1 and more, which make the square roots nan."""
    with pytest.raises(ConfigError, match=r"must be 0 < start <= end < .*change them or num_time"):
        make_betas(name, num_timesteps, start, end)


@pytest.mark.parametrize("name", ["linear", "quad", "warmup10", "sigmoid"])
@pytest.mark.parametrize("start", [0.03, 0.0, -1e-4, math.nan])
def test_a_start_that_is_none_is_refused(name, start):
    """Catches a schedule that falls, and a square root of a negative number."""
    with pytest.raises(ConfigError, match="must be 0 < start <= end"):
        make_betas(name, 1000, start, 0.02)


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [("const", 7.0, 0.02), ("jsd", 7.0, -1.0), ("cosine", 7.0, -1.0), ("erasure", 7.0, -1.0)],
)
def test_a_number_that_a_schedule_does_not_use_is_not_judged(name, start, end):
    """Catches a refusal for a key that has no part in it: jsd and cosine take none, const one."""
    assert torch.equal(make_betas(name, 30, start, end), make_betas(name, 30))
