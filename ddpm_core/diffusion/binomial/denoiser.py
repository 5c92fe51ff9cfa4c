"""Predicting, sampling and measuring bits: a network gives the log odds of each bit of x_0.

The names are those of the Gaussian chain (`denoiser`, `objective`, `samplers.ancestral` and
`measures.likelihood`), and so is what training, sampling and evaluation give and are given.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, sections 2.2 and 2.3, eqs. 13 and 14. There a
network gives the probability of x_{t-1}; that of x_0 says the same, and is bits as they are at both
ends of the chain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.diffusion.binomial.chain import BinomialChain, Bits, kl, q_posterior, q_sample
from ddpm_core.diffusion.binomial.chain import reverse as reverse_of
from ddpm_core.diffusion.denoiser import Network
from ddpm_core.diffusion.measures.likelihood import LikelihoodTerms
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.shapes import Images, PerImage, Timesteps, mean_per_image


class Reverse(NamedTuple):
    """The step p(x_{t-1} | x_t) as a network predicts it: independent bits."""

    bits: Bits
    x_0_hat: Images
    """the mean of x_0, in [-1, 1]"""


@dataclass(frozen=True)
class BitDenoiser:
    """A network, the chain it was trained on, and what x_t are of; as `NetworkDenoiser`."""

    network: Network
    chain: BinomialChain
    conditioning: Conditioning = NOTHING
    """of each x_t, or one row for all of them"""
    null: Conditioning = NOTHING
    """one row: the conditioning that says nothing, as the network was trained with it"""

    def given(self, conditioning: Conditioning) -> "BitDenoiser":
        """As `NetworkDenoiser.given`."""
        return replace(self, conditioning=conditioning)

    def given_nothing(self) -> "BitDenoiser":
        """As `NetworkDenoiser.given_nothing`."""
        return self.given(self.null)

    def reverse(self, x_t: Images, t: Timesteps) -> Reverse:
        """Return p(x_{t-1} | x_t): one call of the network.

        Raises:
            DataError: the conditioning is of another number of images, or not what the network
                takes.
        """
        if self.conditioning.parts:
            output = self.network(x_t, t, self.conditioning.repeated(len(x_t)))
        else:
            output = self.network(x_t, t)
        log_odds = output.to(torch.promote_types(x_t.dtype, torch.float32))
        return Reverse(reverse_of(self.chain, log_odds, x_t, t), (log_odds / 2).tanh())


@dataclass(frozen=True)
class BinomialObjective:
    """The bound of a chain of bits: what a network that gives the log odds of x_0 is trained on."""

    schedule: BinomialChain

    def noised(self, x_0: Images, t: Timesteps, eps: Images) -> Images:
        """As `Objective.noised`."""
        return q_sample(self.schedule, x_0, t, eps)

    def losses(
        self,
        output: Tensor,
        x_0: Images,
        x_t: Images,
        t: Timesteps,
        eps: Images,  # noqa: ARG002 - as of `Objective`
    ) -> PerImage:
        """Return the term of the bound at each image's own t, in bits/dim."""
        log_odds = output.to(torch.promote_types(x_t.dtype, torch.float32))
        return vlb_term(self.schedule, reverse_of(self.schedule, log_odds, x_t, t), x_0, x_t, t)


def vlb_term(chain: BinomialChain, step: Bits, x_0: Images, x_t: Images, t: Timesteps) -> PerImage:
    """Return the term of the bound at t of each image, in bits/dim; arguments as of `likelihood`.

    The divergence of the reverse step from q(x_{t-1} | x_t, x_0); where t = 0 that is -log2 p(x_0).
    """
    return mean_per_image(kl(q_posterior(chain, x_0, x_t, t), step)) / math.log(2)


@torch.no_grad()
def bits_per_dim(
    denoiser: BitDenoiser, x_0: Images, *, noise: Callable[[int], Tensor]
) -> LikelihoodTerms:
    """Estimate the bound for each image with one draw of x_t for each t: T calls of the network.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode.
        x_0: bits, -1 or 1.
        noise: gives the standard normal of step t, shaped like `x_0`; called once for each t from
            T-1 down to 0.
    """
    chain, columns = denoiser.chain, []
    for number in range(chain.num_timesteps - 1, -1, -1):
        t = torch.full((len(x_0),), number, dtype=torch.int64, device=x_0.device)
        x_t = q_sample(chain, x_0, t, noise(number))
        step = denoiser.reverse(x_t, t)
        error = mean_per_image((step.x_0_hat - x_0).square())
        columns.append((vlb_term(chain, step.bits, x_0, x_t, t), error))
    terms = torch.stack([bits for bits, _ in reversed(columns)], dim=1)
    mse = torch.stack([error for _, error in reversed(columns)], dim=1)
    # The chain ends in coins exactly: the prior costs nothing.
    prior = torch.zeros_like(terms[:, 0])
    return LikelihoodTerms(total=terms.sum(dim=1), prior=prior, terms=terms, mse=mse)


@torch.no_grad()
def ddpm_sample(
    denoiser: BitDenoiser,
    x_T: Images,
    *,
    noise: Callable[[int], Tensor],
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by ancestral sampling: T calls of the network, from t = T-1 down to 0.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode.
        x_T: standard normal, whose signs are the coins that the chain ends in; shape, device and
            dtype of the result.
        noise: gives the standard normal of step t, shaped like `x_T`; called once for each t from
            T-1 down to 0, for x_0 is drawn too.
        on_step: called after each step, see `OnStep`.

    Returns:
        x_0, bits.
    """
    x_t = torch.where(x_T > 0, 1.0, -1.0).to(x_T.dtype)
    for number in range(denoiser.chain.num_timesteps - 1, -1, -1):
        t = torch.full((len(x_t),), number, dtype=torch.int64, device=x_t.device)
        step = denoiser.reverse(x_t, t)
        x_t = step.bits.draw(noise(number)).to(x_T.dtype)
        if on_step is not None:
            on_step(number, x_t, step.x_0_hat)
    return x_t
