"""The bound of bits by enumeration, heartbeats by their exact numbers, and draws of both."""

import itertools
import math

import pytest
import torch

from ddpm_core.diffusion.binomial.chain import BinomialChain, q_sample
from ddpm_core.diffusion.binomial.denoiser import (
    BinomialObjective,
    BitDenoiser,
    bits_per_dim,
    ddpm_sample,
    vlb_term,
)
from tests.diffusion.binomial.heartbeat import BEATS, NUM_BITS, exact_bound, knowing
from tests.diffusion.binomial.test_chain import BOTH, CHAIN, T, marginal, transition
from tests.diffusion.chains import normal

PAIRS = torch.tensor(list(itertools.product(BOTH, repeat=2)), dtype=torch.float64)
SAID = normal(T, 4, 2, seed=5)
"""what a network might answer at t to each of the four pairs of bits"""


def network(x_t, t):
    number = ((x_t > 0).long() * torch.tensor([2, 1])).sum(1)
    return SAID[t, number]


def test_the_terms_add_up_to_the_bound_of_all_trajectories():
    """Catches a term too few, at another index, or of the wrong posterior: the bound is
    E log q(x_1..x_T | x_0) / p(x_0..x_T), summed over all 4**T trajectories of two bits.
    """
    x_0 = PAIRS[1]
    denoiser = BitDenoiser(network, CHAIN)
    steps = [denoiser.reverse(PAIRS, torch.full((4,), t)).bits for t in range(T)]
    log_p = [
        [[float(step.log_probability(y.expand(4, 2))[i].sum()) for y in PAIRS] for i in range(4)]
        for step in steps
    ]  # of x_{t-1} = y given x_t = pair i
    whole = 0.0
    for way in itertools.product(range(4), repeat=T):
        log_q, log_joint, before = 0.0, -2 * math.log(2), x_0.tolist()
        start = 1
        for t, number in enumerate(way):
            after = PAIRS[number].tolist()
            log_q += sum(
                math.log(max(transition(t, a, b), 1e-300))
                for a, b in zip(before, after, strict=True)
            )
            log_joint += log_p[t][number][start]
            before, start = after, number
        whole += math.exp(log_q) * (log_q - log_joint)
    terms = 0.0
    for t, pair in itertools.product(range(T), PAIRS):
        probability = math.prod(
            marginal(t, a, b) for a, b in zip(x_0.tolist(), pair.tolist(), strict=True)
        )
        step = denoiser.reverse(pair[None], torch.tensor([t])).bits
        terms += probability * float(
            vlb_term(CHAIN, step, x_0[None], pair[None], torch.tensor([t]))
        )
    assert 2 * terms * math.log(2) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(
    ("num_timesteps", "expected"), [(50, 2.4221), (200, 2.3466), (2000, 2.3244)]
)
def test_heartbeats_cost_what_independent_bits_can_reach(num_timesteps, expected):
    """Catches a schedule, posterior or reverse step of another form: the bound is above log2 5 =
    2.3219 by 4.9/T and no more, for the best reverse step of independent bits.

    The numbers are sums over all x_t, checked by draws: 2.435 ± .012, 2.360 ± .006, 2.3225 ± .002.
    """
    found = exact_bound(BinomialChain(num_timesteps))
    assert found == pytest.approx(expected, abs=1e-4)
    assert num_timesteps * (found - math.log2(5)) == pytest.approx(4.95, abs=0.07)


def test_the_bound_by_draws_is_that_by_enumeration():
    """Catches columns in the order of the calls, sums for means over bits, a prior that costs."""
    chain, x_0 = BinomialChain(50), BEATS.repeat(60, 1)
    found = bits_per_dim(knowing(chain), x_0, noise=lambda t: normal(300, 20, seed=t).float())
    assert NUM_BITS * float(found.total.mean()) == pytest.approx(exact_bound(chain), abs=0.15)
    assert torch.equal(found.prior, torch.zeros(300))
    torch.testing.assert_close(found.total, found.terms.sum(1))
    assert float(found.mse[:, -1].mean()) == pytest.approx(
        4 * 0.2 * 0.8, abs=0.05
    )  # at the end all is noise
    assert float(found.mse[:, 0].mean()) < 1e-3


def test_the_network_that_knows_draws_heartbeats_alone():
    """Catches a last step that is not drawn, noise of the same step twice, and values between."""
    seen = []
    drawn = ddpm_sample(
        knowing(BinomialChain(50)),
        normal(500, 20).float(),
        noise=lambda t: normal(500, 20, seed=t + 1).float(),
        on_step=lambda t, x_t, x_0_hat: seen.append((t, x_t, x_0_hat)),
    )
    legal = (drawn[:, None] == BEATS).all(2)
    assert float(legal.any(1).double().mean()) > 0.98
    assert float((legal.double().mean(0) - 0.2).abs().max()) < 0.06
    assert [t for t, _, _ in seen] == list(range(49, -1, -1))
    assert torch.equal(seen[-1][1], drawn)
    assert float(seen[-1][2].abs().max()) <= 1


def test_the_loss_is_the_term_of_the_bound_and_has_a_gradient_at_every_step():
    """Catches an infinite log odds of t = 0 that turns a gradient into NaN."""
    t, x_0 = torch.arange(T), PAIRS
    x_t = q_sample(CHAIN, x_0, t, normal(4, 2))
    output = normal(4, 2, seed=1).requires_grad_()
    losses = BinomialObjective(CHAIN).losses(output, x_0, x_t, t, x_0)
    said = BitDenoiser(lambda x, _: output, CHAIN).reverse(x_t, t)
    torch.testing.assert_close(losses, vlb_term(CHAIN, said.bits, x_0, x_t, t))
    losses.sum().backward()
    assert bool(output.grad.isfinite().all())
    assert bool((output.grad[:-1] != 0).all())
