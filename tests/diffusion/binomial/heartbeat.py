"""Heartbeats, and the network that knows them: the exact p(x_0 | x_t), bit by bit."""

import itertools
import math

import torch
from torch import Tensor

from ddpm_core.diffusion.binomial.chain import BinomialChain
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser, vlb_term

NUM_BITS, PERIOD = 20, 5
BEATS = torch.where(torch.arange(NUM_BITS) % PERIOD == torch.arange(PERIOD)[:, None], 1.0, -1.0)
"""the five sequences: a pulse at every fifth bit"""
_STEPS_AT_ONCE = 50


def knowing(chain: BinomialChain, data: Tensor = BEATS) -> BitDenoiser:
    """Return the denoiser whose network knows that x_0 is a row of `data`, each as probable."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        rows, flat = data.to(x_t.dtype), x_t.flatten(1)
        abar = chain.alphas_cumprod.to(x_t.dtype)[t][:, None]
        weights = ((flat @ rows.T) * ((1 + abar) / (1 - abar)).log() / 2).softmax(1)
        one = weights @ (rows > 0).to(x_t.dtype)
        return one.clamp(1e-12, 1 - 1e-7).logit().reshape(x_t.shape)

    return BitDenoiser(network, chain)


def exact_bound(chain: BinomialChain) -> float:
    """Return the bound of a heartbeat in bits per sequence, of the network that knows them.

    An expectation over all 2**20 x_t: what counts of one is how many bits are 1 at the places of
    each phase, and the four phases that x_0 does not have are alike, so that 350 are enough.
    """
    states = [
        (own, *others)
        for own in range(5)
        for others in itertools.combinations_with_replacement(range(5), 4)
    ]
    counts = torch.tensor(states)
    x_t = torch.full((len(states), 4, PERIOD), -1.0, dtype=torch.float64)
    x_t[torch.arange(4)[:, None] < counts[:, None, :]] = 1.0
    alike = [
        math.prod(math.comb(4, count) for count in state) * len(set(itertools.permutations(rest)))
        for state in states
        for rest in [state[1:]]
    ]
    x_t, weight = x_t.reshape(-1, NUM_BITS), torch.tensor(alike, dtype=torch.float64)
    x_0, denoiser, total = BEATS[:1].double(), knowing(chain), 0.0
    for first in range(0, chain.num_timesteps, _STEPS_AT_ONCE):
        t = torch.arange(first, min(first + _STEPS_AT_ONCE, chain.num_timesteps))
        moved = chain.alphas_cumprod[t][:, None, None] * (x_t * x_0)
        probability = (weight * ((1 + moved) / 2).prod(2)).flatten()
        times, places = t.repeat_interleave(len(x_t)), x_t.repeat(len(t), 1)
        step = denoiser.reverse(places, times).bits
        bits = vlb_term(chain, step, x_0.expand_as(places), places, times)
        total += NUM_BITS * float((probability * bits).sum())
    return total
