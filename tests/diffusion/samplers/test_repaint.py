"""RePaint: where it goes up and down, and what it draws of a Gaussian of correlated parts."""

from itertools import pairwise

import diffusers
import pytest
import torch

from ddpm_core.conditioning import Known
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.repaint import repaint_sample, resampling_levels
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import correlated, row
from tests.diffusion.chains import normal
from tests.diffusion.samplers.toys import toy

CHAIN = make_schedule(make_betas("linear", 50))
MASK = torch.tensor([[True, False]])
pytestmark = pytest.mark.usefixtures("shapes_unchecked")


@pytest.mark.parametrize(("T", "j", "r"), [(250, 10, 10), (20, 3, 4), (10, 1, 2), (12, 5, 1)])
def test_the_walk_is_that_of_diffusers(T, j, r):
    """Catches a jump that begins or ends one level off, and one too many."""
    scheduler = diffusers.RePaintScheduler(num_train_timesteps=T)
    scheduler.set_timesteps(T, jump_length=j, jump_n_sample=r)
    levels = resampling_levels(T, jump_length=j, num_resamplings=r)
    assert levels == [*scheduler.timesteps.tolist(), -1]


def by_numbers(sample, num_noises):
    """Return mean and variance of an affine sampler's output, (2,): of each noise in each value."""
    rows = 3 + 2 * num_noises
    x_T = torch.zeros(rows, 2, dtype=torch.float64)
    x_T[1, 0] = x_T[2, 1] = 1

    def noise(number):
        value = torch.zeros_like(x_T)
        value[3 + 2 * number, 0] = value[4 + 2 * number, 1] = 1
        return value

    images = sample(x_T, noise)
    return images[0], (images[1:] - images[0]).square().sum(0)


def moments(denoiser, j, r):
    num_moves = len(resampling_levels(CHAIN.num_timesteps, jump_length=j, num_resamplings=r)) - 1
    known = Known(row(0.8, 0.0)[None], MASK)
    return by_numbers(
        lambda x_T, noise: repaint_sample(
            denoiser,
            x_T,
            known=known,
            noise=noise,
            jump_length=j,
            num_resamplings=r,
            clip_x_0=False,
        ),
        num_moves,
    )


def test_what_is_made_up_nears_what_is_true_given_the_known_part():
    """Catches resampling that does not help: one value known of two, of correlation 0.9.

    Truth, by conditioning: mean 0.72, standard deviation 0.218. Replacement alone, which sees what
    is known but never goes back, draws a mean of 0.468; 10 resamplings draw 0.677. The spread is
    that of fixed_small in 50 steps, whose variance is below the truth.
    """
    covariance = 0.25 * torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    denoiser = correlated(row(0.0, 0.0), covariance, CHAIN)
    truth, drawn = 0.9 * 0.8, {}
    for r in (1, 3, 10):
        mean, variance = moments(denoiser, 1, r)
        assert (float(mean[0]), float(variance[0])) == (0.8, 0)
        drawn[r] = float(mean[1]), float(variance[1].sqrt())
    assert truth - drawn[1][0] > 0.25
    assert truth - drawn[3][0] < 0.11
    assert 0 < truth - drawn[10][0] < 0.05
    for r, expected in {1: (0.4681, 0.2552), 3: (0.6191, 0.1996), 10: (0.6769, 0.1788)}.items():
        assert drawn[r] == pytest.approx(expected, abs=1e-4), r


@pytest.mark.parametrize(("j", "r"), [(1, 1), (1, 3), (4, 2)])
def test_the_network_sees_the_known_part_as_the_forward_process_makes_it(j, r):
    """Catches a beta or abar of another level, on the way down and up."""
    seen = []

    def network(x_t, t):
        rest = (x_t[1:, 0] - x_t[0, 0]).square().sum()
        seen.append((int(t[0]), float(x_t[0, 0]), float(rest)))
        return torch.zeros_like(x_t)

    moments(NetworkDenoiser(network, CHAIN, "x_0"), j, r)
    levels = resampling_levels(50, jump_length=j, num_resamplings=r)
    down = [a for a, b in pairwise(levels) if b < a]
    assert [t for t, _, _ in seen] == down
    for t, mean, variance in seen[1:]:
        abar = float(CHAIN.alphas_cumprod[t])
        assert mean == pytest.approx(0.8 * abar**0.5, abs=1e-9), t
        assert variance == pytest.approx(1 - abar, abs=1e-9), t


def test_where_nothing_is_known_it_is_ancestral_sampling():
    """Catches a step down that is another: without resampling, bit for bit; the noise by number."""
    x_T, nothing = normal(2, 3, seed=1), torch.zeros(1, dtype=torch.bool)
    found = repaint_sample(
        toy(CHAIN),
        x_T,
        known=Known(0 * x_T, nothing),
        noise=lambda number: normal(2, 3, seed=number),
        num_resamplings=1,
    )
    # Move i is the step at T - 1 - i.
    expected = ddpm_sample(toy(CHAIN), x_T, noise=lambda t: normal(2, 3, seed=49 - t))
    assert torch.equal(found, expected)


def test_known_values_come_back_exactly_and_steps_are_reported():
    """Catches a last step that rounds what is known, and steps up that are reported as down."""
    values, seen = normal(2, 3, seed=1, dtype=torch.float32).clamp(-1, 1), []
    mask = torch.tensor([True, False, True])
    found = repaint_sample(
        toy(CHAIN),
        normal(2, 3, seed=2, dtype=torch.float32),
        known=Known(values, mask),
        noise=lambda number: normal(2, 3, seed=number, dtype=torch.float32),
        jump_length=20,
        num_resamplings=2,
        on_step=lambda t, x, x_0_hat: seen.append(t),
    )
    assert torch.equal(found[:, mask], values[:, mask])
    assert found.dtype == torch.float32
    assert not torch.equal(found[:, 1], values[:, 1])
    assert len(seen) == 50 + 2 * 20
    assert seen[-1] == 0


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_walks_that_are_none_are_refused(numbers):
    """Catches a walk that never ends."""
    with pytest.raises(ConfigError, match="must both be at least 1"):
        resampling_levels(10, jump_length=numbers[0], num_resamplings=numbers[1])
