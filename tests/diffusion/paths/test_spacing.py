"""Which steps few steps are: against the rules of the papers, and against diffusers."""

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_core.diffusion.choices import require_enough_steps
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.spacing import chain_sigmas, choose_timesteps, karras_sigmas
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, SHORT
from tests.diffusion.samplers.oracles import scheduler_of

SPACINGS = ("leading", "trailing", "linspace", "quadratic")


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [2, 3, 7, 10, 16, 50, 250, 333, 999, 1000])
def test_spacings_are_those_of_diffusers(spacing, num_steps):
    """Catches a stride that is rounded elsewhere, and an index shifted by one."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(num_steps)
    # Where steps do not divide the chain, their sum of strides may add a step below 0.
    theirs = scheduler.timesteps.flip(0).tolist()[-num_steps:]
    assert choose_timesteps(spacing, 1000, num_steps) == theirs


def test_spacings_of_ten_steps():
    """Catches two names exchanged: the four rules written out, from a chain of 1000 steps."""
    assert choose_timesteps("leading", 1000, 10) == list(range(0, 1000, 100))
    assert choose_timesteps("trailing", 1000, 10) == list(range(99, 1000, 100))
    assert choose_timesteps("linspace", 1000, 10) == list(range(0, 1000, 111))
    squares = [0, 12, 49, 111, 197, 308, 444, 604, 789, 999]
    assert choose_timesteps("quadratic", 1000, 10) == squares


@pytest.mark.parametrize("spacing", SPACINGS)
@given(st.data())
@settings(deadline=None)  # a busy machine is no failure
def test_steps_are_as_many_as_given_and_each_once(spacing, data):
    """Catches a step taken twice (quadratic: 0, 0, 1), left out, or beyond the chain's ends."""
    num_timesteps = data.draw(st.integers(2, 1200))
    num_steps = data.draw(st.integers(2, num_timesteps))
    steps = choose_timesteps(spacing, num_timesteps, num_steps)
    assert len(steps) == num_steps
    assert steps == sorted(set(steps))
    assert steps[0] >= 0
    assert steps[-1] < num_timesteps
    if spacing != "leading":
        assert steps[-1] == num_timesteps - 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_are_the_chain(spacing):
    """Catches a rule that leaves out a step of a whole chain."""
    assert choose_timesteps(spacing, 50, 50) == list(range(50))


@pytest.mark.parametrize("num_steps", [-1, 0, 1, 51])
def test_steps_that_the_chain_does_not_have_are_refused(num_steps):
    """Catches steps taken twice, quietly, where the chain has fewer than num_steps."""
    with pytest.raises(ConfigError, match=f"num_steps={num_steps} must be from 2 to the 50"):
        choose_timesteps("trailing", 50, num_steps)


def test_sigmas_of_the_chain_descend_to_its_steps():
    """Catches the order of the timesteps kept, and sqrt(1 - abar) taken for sigma."""
    steps = [0, 7, 500, 999]
    expected = [(1 / float(PAPER.alphas_cumprod[t]) - 1) ** 0.5 for t in reversed(steps)]
    assert chain_sigmas(PAPER, steps) == pytest.approx(expected, rel=1e-12)
    assert expected[0] == pytest.approx(157.407281)


@pytest.mark.parametrize("steps", [[3, 2], [3, 3], [-1, 3], [3, 50]])
def test_sigmas_of_steps_that_do_not_ascend_in_the_chain_are_refused(steps):
    """Catches t = -1 read as the chain's last step."""
    with pytest.raises(ConfigError, match="must ascend, from 0 at the least to 49"):
        chain_sigmas(SHORT, steps)


def test_karras_sigmas_are_those_of_diffusers():
    """Catches wrong ends, and roots and powers exchanged."""
    scheduler = scheduler_of("HeunDiscreteScheduler", PAPER)
    ends = torch.tensor(chain_sigmas(PAPER, range(1000)), dtype=torch.float64)
    theirs = scheduler._convert_to_karras(ends, 18)
    assert karras_sigmas(PAPER, 18) == pytest.approx(theirs.tolist(), rel=1e-12)


@pytest.mark.parametrize("rho", [1.0, 3.0])
def test_karras_sigmas_have_roots_equally_spaced_between_the_ends_of_the_chain(rho):
    """Catches a rho that is not used everywhere: the default's 7 is not the only one."""
    sigmas = torch.tensor(karras_sigmas(PAPER, 5, rho=rho), dtype=torch.float64)
    torch.testing.assert_close(sigmas[[0, 4]].tolist(), chain_sigmas(PAPER, [0, 999]))
    strides = (sigmas ** (1 / rho)).diff()
    torch.testing.assert_close(strides, strides[:1].expand(4))


@pytest.mark.parametrize(("num_steps", "rho"), [(1, 7.0), (10, 0.0), (10, -1.0)])
def test_karras_sigmas_without_a_meaning_are_refused(num_steps, rho):
    """Catches a division by zero instead of an answer."""
    with pytest.raises(ConfigError, match="must be at least 2 and rho"):
        karras_sigmas(PAPER, num_steps, rho)


def test_sigmas_of_a_chain_that_ends_in_pure_noise_are_refused():
    """Catches an infinite sigma, from which every solver makes nan."""
    schedule = make_schedule(zero_terminal_snr(make_betas("linear", 50)))
    with pytest.raises(ConfigError, match="ends in pure noise"):
        karras_sigmas(schedule, 10)


def test_few_steps_with_the_large_variance_are_refused_and_nothing_else():
    """Catches a guard that is off by one, or that refuses the variances that do well."""
    with pytest.raises(ConfigError, match=r"249 ancestral steps.*at least 250.*ddim"):
        require_enough_steps("fixed_large", 249)
    require_enough_steps("fixed_large", 250)
    for variance in ("fixed_small", "learned", "learned_range"):
        require_enough_steps(variance, 2)
