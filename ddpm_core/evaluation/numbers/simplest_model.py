"""The bound beside the simplest model: how many bits better than an isotropic Gaussian it is.

The paper of 2015 reports K - L_null: bits of the model less those of a Gaussian that has one mean
and one variance for all values, and of bits those of coins that fall alike (heartbeats: 14.44 bits
a sequence of 20, of which the paper's chain saves 12.024).

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, table 1; its code, `model.py`, get_negL_bound.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.diffusion.measures.likelihood import discretized_gaussian_log_likelihood
from ddpm_core.diffusion.shapes import mean_per_image
from ddpm_core.loading.loader import num_levels_of, to_unit_range
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.shards.members import ImageMember

_LEAST_DEVIATION = 0.5
"""of the Gaussian, in levels: of images of one level alone there is none"""


def reference_bits(images: Tensor, train: ImageMember, *, is_binary: bool) -> Tensor:
    """Return the bits/dim of images under the simplest model of the training images, (n,) float64.

    Args:
        images: (n, c, h, w), uint8 or uint16.
        train: of the data set, with the moments of its training images.
        is_binary: whether all values are 0 or 255: then the model is a coin for each.
    """
    mean, deviation = _pooled(train)
    half = (num_levels_of(images) - 1) / 2
    x = to_unit_range(images, torch.device("cpu")).double()
    if is_binary:
        one = mean / (2 * half)
        log_p = torch.where(x > 0, math.log(one), math.log1p(-one))
    else:
        scale = torch.full_like(x, math.log(max(deviation, _LEAST_DEVIATION) / half))
        centre = torch.full_like(x, mean / half - 1)
        levels = num_levels_of(images)
        log_p = discretized_gaussian_log_likelihood(
            x, centre, scale, cdf="exact", num_levels=levels
        )
    return -mean_per_image(log_p) / math.log(2)


def relative_metric(
    bits: NDArray[np.float64],
    reference: NDArray[np.float64],
    config: RunConfig,
    weights: dict[str, Any],
) -> dict[str, Any]:
    """Return how many bits/dim less the bound takes than the simplest model, and the protocol.

    Args:
        bits: (n,) the bound of each held-out image.
        reference: (n,) `reference_bits` of the same images.
        config: the run.
        weights: which weights these are.
    """
    saved, dims = reference - bits, math.prod(config.data.shape)
    count = len(saved)
    binary = config.data.is_binary
    return {
        "value": float(saved.mean()),
        "standard_error": float(saved.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        "reference_bits_per_dim": float(reference.mean()),
        "per_image": float(saved.mean() * dims),
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "reference": "independent bits, with the share of ones of the training images"
            if binary
            else "one Gaussian for all values, with mean and variance of the training images, "
            "its mass on each level",
            "bound": "as of bits_per_dim, of the same images",
            "num_images": count,
            "dims": dims,
        },
    }


def _pooled(train: ImageMember) -> tuple[float, float]:
    """Return mean and standard deviation of all values, in levels; channels have as many each."""
    mean = sum(train.mean) / len(train.mean)
    square = sum(m * m + s * s for m, s in zip(train.mean, train.std, strict=True))
    return mean, math.sqrt(max(square / len(train.mean) - mean * mean, 0.0))
