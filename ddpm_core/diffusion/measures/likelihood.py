"""The variational bound in bits per dimension, and its parts.

-log p(x_0) <= L_T + sum_{t>1} L_{t-1} + L_0 (eq. 5): the prior, a Kullback-Leibler divergence per
step, and the decoder, which turns the last step into probabilities of the levels of a pixel.

Source: Ho et al. 2020, arXiv:2006.11239, sections 3.1 to 3.3.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm_core.diffusion.choices import DecoderCdf
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.prediction import Reverse
from ddpm_core.diffusion.process import q_posterior, q_sample
from ddpm_core.diffusion.shapes import Images, PerImage, Timesteps, mean_per_image

_MIN_PROBABILITY = 1e-12


class LikelihoodTerms(NamedTuple):
    """The bound of each image, in bits/dim, and its parts; column t belongs to code index t."""

    total: PerImage
    """prior + sum of the terms: an upper bound of -log2 p(x_0) per dimension"""
    prior: PerImage
    """L_T, from q(x_T | x_0) to the standard normal"""
    terms: Float[Tensor, "b T"]
    """column 0 is the decoder's L_0 (the distortion), the others are divergences (the rate)"""
    mse: Float[Tensor, "b T"]
    """mean squared error of the predicted x_0, in units where images span [-1, 1]"""


def discretized_gaussian_log_likelihood(
    x_0: Images,
    mean: Images,
    log_scale: Images,
    *,
    cdf: DecoderCdf = "tanh",
    num_levels: int = 256,
) -> Images:
    """Return the natural log of the probability of each level under a Gaussian.

    The probability is the Gaussian's mass within 1/(num_levels - 1) of the level; the outermost
    levels get the tails.

    Args:
        x_0: images whose values are 2 k / (num_levels - 1) - 1 for levels k = 0, 1, ...
        mean: of the Gaussian.
        log_scale: natural log of its standard deviation.
        cdf: the Gaussian's distribution function: the original's approximation by tanh, with which
            its published numbers were made, or the exact one, which gives 2.9e-4 bits/dim less at
            the paper's last step.
        num_levels: of a sample, 256 or 65536.

    Source: Ho et al. 2020, eq. 13.
    """
    dtype = x_0.dtype
    if num_levels > 256:  # a difference of two numbers a three-hundredth of a deviation apart
        x_0, mean, log_scale = x_0.double(), mean.double(), log_scale.double()
    half_bin = 1 / (num_levels - 1)
    edge = 1 - half_bin  # between the outermost level and its neighbour
    precision = (-log_scale).exp()
    upper = (x_0 - mean + half_bin) * precision
    lower = (x_0 - mean - half_bin) * precision
    lowest, highest = x_0 < -edge, x_0 > edge
    match cdf:
        case "tanh":
            below_upper = torch.where(highest, 1.0, _normal_cdf(upper))
            below_lower = torch.where(lowest, 0.0, _normal_cdf(lower))
            mass = below_upper - below_lower
        case "exact":
            upper = torch.where(highest, math.inf, upper)
            lower = torch.where(lowest, -math.inf, lower)
            mass = _normal_mass(lower, upper)
        case _:
            assert_never(cdf)
    return mass.clamp(min=_MIN_PROBABILITY).log().to(dtype)


def vlb_term(
    schedule: NoiseSchedule,
    step: Reverse,
    x_0: Images,
    x_t: Images,
    t: Timesteps,
    *,
    cdf: DecoderCdf = "tanh",
    num_levels: int = 256,
) -> PerImage:
    """Return the term of the bound at t of each image, in bits/dim.

    The decoder's L_0 where t = 0, and elsewhere the divergence of the reverse step from
    q(x_{t-1} | x_t, x_0).

    Args:
        schedule: the chain.
        step: the reverse step of the network at x_t.
        x_0: images on the levels, in [-1, 1].
        x_t: the same images at step t.
        t: code index of the step, 0..T-1.
        cdf: the decoder's distribution function.
        num_levels: of a sample.

    Source: Ho et al. 2020, eqs. 5 and 8.
    """
    mean, _ = q_posterior(schedule, x_0, x_t, t)
    log_q = schedule.gather("posterior_log_variance_clipped", t, x_0)
    log_p = step.log_variance
    divergence = 0.5 * (
        -1 + log_p - log_q + (log_q - log_p).exp() + (mean - step.mean).square() * (-log_p).exp()
    )
    log_scale = (0.5 * log_p).expand_as(x_0)
    decoder = -discretized_gaussian_log_likelihood(
        x_0, step.mean, log_scale, cdf=cdf, num_levels=num_levels
    )
    return mean_per_image(torch.where(expand(t == 0, mean), decoder, divergence)) / math.log(2)


def prior_bits(schedule: NoiseSchedule, x_0: Images) -> PerImage:
    """Return L_T in bits/dim: the divergence of q(x_T | x_0) from the standard normal.

    The network has no part in it; for the paper's chain it is about 1e-5.
    """
    abar = float(schedule.alphas_cumprod[-1])
    # -1 - log(1 - abar) + (1 - abar), in float64: all but 1e-9 of it cancels.
    constant = -math.log1p(-abar) - abar
    return mean_per_image(0.5 * (constant + abar * x_0.square())) / math.log(2)


@torch.no_grad()
def bits_per_dim(
    denoiser: Denoiser,
    x_0: Images,
    *,
    noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
    cdf: DecoderCdf = "tanh",
    num_levels: int = 256,
) -> LikelihoodTerms:
    """Estimate the bound for each image with one draw of x_t for each t: T calls of the network.

    Each x_t is drawn from q(x_t | x_0) afresh, not along one trajectory; the expectation is the
    same.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode.
        x_0: images on the levels, in [-1, 1], not dequantised.
        noise: gives the standard normal of step t, shaped like `x_0`; called once for each t from
            T-1 down to 0.
        clip_x_0: whether the predicted x_0 is clipped, as the original does in evaluation.
        cdf: the decoder's distribution function.
        num_levels: of a sample: bits/dim are those of 256 levels, or of 65536.

    Source: Ho et al. 2020, section 3.1 and appendix A.
    """
    schedule, columns = chain_of(denoiser.path), []
    for number in range(schedule.num_timesteps - 1, -1, -1):
        t = torch.full((len(x_0),), number, dtype=torch.int64, device=x_0.device)
        x_t = q_sample(schedule, x_0, t, noise(number))
        step = denoiser.predict(x_t, t).reverse(clip_x_0=clip_x_0)
        error = mean_per_image((step.x_0_hat - x_0).square())
        bits = vlb_term(schedule, step, x_0, x_t, t, cdf=cdf, num_levels=num_levels)
        columns.append((bits, error))
    terms = torch.stack([bits for bits, _ in reversed(columns)], dim=1)
    mse = torch.stack([error for _, error in reversed(columns)], dim=1)
    prior = prior_bits(schedule, x_0)
    return LikelihoodTerms(total=prior + terms.sum(dim=1), prior=prior, terms=terms, mse=mse)


def _normal_cdf(x: Images) -> Images:
    """Approximate the standard normal distribution function, error < 2e-4."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


def _normal_mass(lower: Images, upper: Images) -> Images:
    """Return the standard normal's mass between two numbers, of which the first is the smaller.

    On the side where both tails are small: near 1 there is nothing left of their difference.
    """
    right = lower > 0
    lower, upper = torch.where(right, -upper, lower), torch.where(right, -lower, upper)
    return 0.5 * (torch.erfc(-upper / math.sqrt(2)) - torch.erfc(-lower / math.sqrt(2)))
