"""The chain of bits against the enumeration of all its trajectories, of few bits and steps."""

import itertools
import math

import pytest
import torch

from ddpm_core.diffusion.binomial.chain import (
    BinomialChain,
    Bits,
    kl,
    q_posterior,
    q_sample,
    reverse,
)
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import normal

T = 4
CHAIN = BinomialChain(T)
BOTH = (-1.0, 1.0)


def transition(t, before, after):
    """Return q(x_t | x_{t-1}) of one bit by its definition: B(x (1 - beta) + beta/2)."""
    beta = 1 / (T - t)
    return 1 - beta / 2 if before == after else beta / 2


def marginal(t, x_0, x_t):
    """Return q(x_t | x_0) of one bit, as the sum over all that lies between; t = -1 is x_0."""
    if t < 0:
        return float(x_0 == x_t)
    return sum(marginal(t - 1, x_0, x) * transition(t, x, x_t) for x in BOTH)


def test_the_marginals_are_those_of_the_steps_one_after_the_other():
    """Catches abar of another index, (1 + abar)/2 for abar, and a chain that does not end in coins.

    Every quantile is drawn once: the noise of 10,000 values is on a grid.
    """
    eps = torch.special.ndtri((torch.arange(10_000).double() + 0.5) / 10_000)
    for t, x_0 in itertools.product(range(T), BOTH):
        ones = torch.full((1, 10_000), x_0, dtype=torch.float64)
        drawn = q_sample(CHAIN, ones, torch.tensor([t]), eps[None])
        assert set(drawn.unique().tolist()) <= set(BOTH)
        assert float((drawn > 0).double().mean()) == pytest.approx(marginal(t, x_0, 1.0), abs=1e-4)
    assert float(CHAIN.alphas_cumprod[-1]) == 0
    torch.testing.assert_close((1 - CHAIN.betas).cumprod(0), CHAIN.alphas_cumprod)


def test_the_posterior_is_bayes_rule():
    """Catches abar_t for abar_{t-1}, an odds ratio without its square, and signs exchanged."""
    for t, x_0, x_t in itertools.product(range(T), BOTH, BOTH):
        joint = [marginal(t - 1, x_0, x) * transition(t, x, x_t) for x in BOTH]
        given = [torch.tensor([[x]], dtype=torch.float64) for x in (x_0, x_t)]
        found = q_posterior(CHAIN, *given, torch.tensor([t])).sigmoid()
        assert float(found) == pytest.approx(joint[1] / sum(joint), abs=1e-12)


def test_the_reverse_step_of_the_exact_prediction_is_each_bit_s_own_distribution():
    """Catches a mix of log odds for one of probabilities, and the posterior of the most probable
    x_0: of three bits that depend on each other, by the sum over all x_0."""
    images = list(itertools.product(BOTH, repeat=3))
    weights = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t, x_t in itertools.product(range(T), images):
        joint = [
            w * math.prod(marginal(t, a, b) for a, b in zip(x_0, x_t, strict=True))
            for w, x_0 in zip(weights.tolist(), images, strict=True)
        ]
        one = [sum(p for p, x in zip(joint, images, strict=True) if x[i] > 0) for i in range(3)]
        log_odds = torch.tensor([[math.log(p / (sum(joint) - p)) for p in one]])
        found = reverse(CHAIN, log_odds.double(), torch.tensor([x_t]).double(), torch.tensor([t]))
        for i in range(3):
            expected = sum(
                p
                / sum(joint)
                * marginal(t - 1, x[i], 1.0)
                * transition(t, 1.0, x_t[i])
                / marginal(t, x[i], x_t[i])
                for p, x in zip(joint, images, strict=True)
            )
            assert float(found.log_one[0, i].exp()) == pytest.approx(expected, abs=1e-6)
            assert float(found.log_other[0, i].exp()) == pytest.approx(1 - expected, abs=1e-6)


def test_divergence_and_draws_are_of_the_distribution():
    """Catches natural logarithms and bits, the other direction of the divergence, and draws of
    p(-1); of a point the divergence is the log probability, and nothing is NaN."""
    q, p = normal(2, 3, seed=1), normal(2, 3, seed=2)
    ones, others = q.sigmoid(), p.sigmoid()
    expected = ones * (ones / others).log() + (1 - ones) * ((1 - ones) / (1 - others)).log()
    torch.testing.assert_close(kl(q, Bits.of(p)), expected)
    x = torch.where(normal(2, 3, seed=3) > 0, 1.0, -1.0).double()
    torch.testing.assert_close(kl(x * math.inf, Bits.of(p)), -Bits.of(p).log_probability(x))
    torch.testing.assert_close(Bits.of(p).log_probability(x), (x * p).sigmoid().log())
    eps = torch.special.ndtri((torch.arange(1000).double() + 0.5) / 1000)
    drawn = Bits.of(torch.full((1000,), 1.3, dtype=torch.float64)).draw(eps)
    assert float((drawn > 0).double().mean()) == pytest.approx(1 / (1 + math.exp(-1.3)), abs=1e-3)


def test_a_chain_of_one_step_is_refused():
    with pytest.raises(ConfigError, match=r"num_timesteps=1 must be at least 2"):
        BinomialChain(1)
