"""What the solvers in sigma coordinates share: x = x_t / signal = x_0 + sigma eps, of any path.

There the probability flow is dx/dsigma = (x - D(x; sigma)) / sigma, where D is the image that the
network predicts. Were D constant, a step from sigma to sigma' would be exactly r x + (1 - r) D
with r = sigma'/sigma: solvers differ in how they let D change over lambda = -log sigma.

Source: Karras et al. 2022, arXiv:2206.00364, eqs. 1 and 3; Lu et al. 2022, arXiv:2211.01095,
section 4.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from ddpm_core.diffusion.denoiser import Denoiser, at_sigma
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError


class SigmaStep(NamedTuple):
    """One step of a solver."""

    remaining: int
    """how many steps come after this one: S - 1 ... 0"""
    sigma: float
    after: float
    """the sigma it leads to; 0 in the last step"""

    @property
    def ratio(self) -> float:
        """Return r = sigma'/sigma, in [0, 1)."""
        return self.after / self.sigma

    @property
    def length(self) -> float:
        """Return h = log(sigma/sigma'), the length in lambda; infinite in the last step."""
        return -math.log(self.ratio) if self.after > 0 else math.inf


def sigma_steps(sigmas: Sequence[float]) -> list[SigmaStep]:
    """Return the steps from the first sigma through all others to 0.

    Raises:
        ConfigError: if the sigmas do not descend, or are not positive and finite.
    """
    way = [*sigmas, 0.0]
    if len(way) < 2 or math.isinf(way[0]) or not all(a > b for a, b in pairwise(way)):
        raise ConfigError(
            f"sigmas {way[:4]}... must be finite, above 0 and descend; make them with "
            "spacing.karras_sigmas or spacing.chain_sigmas (0 is added here)"
        )
    last = len(way) - 2
    return [SigmaStep(last - i, a, b) for i, (a, b) in enumerate(pairwise(way))]


def predict(denoiser: Denoiser, x: Images, sigma: float, *, clip_x_0: bool) -> Images:
    """Return D(x; sigma), clipped to [-1, 1] with `clip_x_0`: one call of the network."""
    levels = torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
    x_0_hat = at_sigma(denoiser, x, levels)
    return x_0_hat.clamp(-1, 1) if clip_x_0 else x_0_hat


def from_chain(x_t: Images, sigma: float) -> Images:
    """Return x = x_t / sqrt(abar_t) of a chain's x_t, whose variance is about 1."""
    return math.hypot(1, sigma) * x_t


def to_chain(x: Images, sigma: float) -> Images:
    """Return the x_t = sqrt(abar_t) x of a chain, as which solvers show states on every path."""
    return x / math.hypot(1, sigma)
