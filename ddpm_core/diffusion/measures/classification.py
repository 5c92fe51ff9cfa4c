"""The diffusion classifier: by which class noise is predicted best, and what a label is worth.

It needs neither a sampler nor a classifier, and so measures how much of its condition a network
uses. In units of information that is what the label is worth: how many bits an image costs less
once its class is known, of which there are no more than the label has.

Source: Li et al. 2023, arXiv:2303.16203, section 3, eqs. 5 to 7 (classes by the error of eps, with
the same noise for all of them); Clark and Jaini 2023, arXiv:2303.15233 (by the bound).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.measures.likelihood import prior_bits, vlb_term
from ddpm_core.diffusion.paths.path import chain_of, require_same_path
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.shapes import Images, PerImage, mean_per_image
from ddpm_core.errors import ConfigError


class ClassErrors(NamedTuple):
    """How badly each class explains each image; column k belongs to denoiser k."""

    eps: Float[Tensor, "b k"]
    """mean squared error of the predicted noise, over all draws and dimensions"""
    bits: Float[Tensor, "b k"]
    """the variational bound in bits/dim, estimated by the same draws"""

    @property
    def classes(self) -> Int[Tensor, " b"]:
        """Return the class with the least error of eps: that of Li et al., eq. 7."""
        return self.eps.argmin(dim=1)


@torch.no_grad()
def class_errors(
    denoisers: Sequence[Denoiser],
    x_0: Images,
    *,
    times: Sequence[int],
    noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
) -> ClassErrors:
    """Return the error of each denoiser on the same noised images: a call of each for each time.

    Args:
        denoisers: one for each class, on one chain.
        x_0: images on the 256 levels, in [-1, 1].
        times: code indices, spread evenly over the chain, so that their mean stands for that over
            the chain; all of them give the bound as `bits_per_dim` does.
        noise: gives the standard normal of draw i = 0, 1, ... at times[i], shaped like `x_0`.
        clip_x_0: as of `bits_per_dim`; the error of eps is that before clipping.

    Raises:
        ConfigError: if there is no denoiser or no time, a time is not on the chain, or the
            denoisers are on different paths.

    Source: Li et al. 2023, algorithm 1.
    """
    if not denoisers or not times:
        raise ConfigError("a diffusion classifier needs at least one class and one time")
    schedule = chain_of(denoisers[0].path)
    for one in denoisers[1:]:
        require_same_path(schedule, one.path)
    if not all(0 <= time < schedule.num_timesteps for time in times):
        raise ConfigError(
            f"times from {min(times)} to {max(times)} must lie in 0...{schedule.num_timesteps - 1}"
        )
    eps_sum = x_0.new_zeros(len(x_0), len(denoisers))
    bits_sum = torch.zeros_like(eps_sum)
    for draw, time in enumerate(times):
        eps = noise(draw)
        t = torch.full((len(x_0),), time, dtype=torch.int64, device=x_0.device)
        x_t = q_sample(schedule, x_0, t, eps)
        for column, one in enumerate(denoisers):
            said = one.predict(x_t, t)
            eps_sum[:, column] += mean_per_image((said.eps - eps).square())
            step = said.reverse(clip_x_0=clip_x_0)
            bits_sum[:, column] += vlb_term(schedule, step, x_0, x_t, t)
    bits = prior_bits(schedule, x_0)[:, None] + schedule.num_timesteps / len(times) * bits_sum
    return ClassErrors(eps_sum / len(times), bits)


def class_log_probabilities(
    bits: Float[Tensor, "b k"], num_dims: int, log_prior: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "b k"]:
    """Return log p(class | image), natural, where `bits` stand for the images' likelihoods.

    Args:
        bits: of each image given each class, in bits/dim: `ClassErrors.bits`, or any other
            likelihood of the same images.
        num_dims: values of one image.
        log_prior: natural logarithm of the classes' shares; None: all alike.

    Source: Li et al. 2023, eq. 4.
    """
    log_likelihood = -bits * (num_dims * math.log(2))
    joint = log_likelihood if log_prior is None else log_likelihood + log_prior.to(bits)
    return joint.log_softmax(dim=1)


class LabelWorth(NamedTuple):
    """What knowing the label saves, in bits an image."""

    bits: float
    """bits(x) - bits(x | c): the mean over the images; under perfect denoisers the mutual
    information, which is at most `entropy`"""
    standard_error: float
    """of that mean"""
    entropy: float
    """bits of a label, by the labels' own frequencies"""


def label_worth(
    bits: PerImage, bits_given_label: PerImage, num_dims: int, labels: Int[Tensor, " b"]
) -> LabelWorth:
    """Return what the label is worth.

    Both likelihoods are bounds: the worth is exact as far as they are equally far from the truth,
    which helps if both were estimated with the same noise.

    Args:
        bits: of each image, in bits/dim, by the denoiser that is given nothing.
        bits_given_label: of the same images by the denoiser that is given their labels.
        num_dims: values of one image.
        labels: of the images.

    Raises:
        ConfigError: if there are fewer than two images, of which no error can be told.
    """
    if len(bits) < 2:
        raise ConfigError(f"the worth of a label needs at least two images; there are {len(bits)}")
    saved = (bits - bits_given_label).double() * num_dims
    shares = labels.bincount().double() / len(labels)
    shares = shares[shares > 0]
    return LabelWorth(
        bits=float(saved.mean()),
        standard_error=float(saved.std()) / math.sqrt(len(saved)),
        entropy=float(-(shares * shares.log2()).sum()),
    )
