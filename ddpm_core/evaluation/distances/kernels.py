"""Distances by kernels: the maximum mean discrepancy of two sets of features.

Unlike a Frechet distance it assumes no Gaussian, and its unbiased estimate means the same whatever
the number of images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot, sqrt

import torch
from torch import Tensor

from ddpm_core.errors import DataError
from ddpm_core.evaluation.distances.estimate import (
    Estimate,
    jackknife_error,
    normal_interval,
    subset,
)

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SIGMA, SCALE = 10.0, 1000.0
_BLOCK = 512


@dataclass(frozen=True)
class KernelDistance:
    """The mean over subsets, as it is published, with an interval."""

    estimate: Estimate
    standard_deviation: float
    """over the subsets, divided by their number: what is published beside the mean"""
    num_subsets: int
    subset_size: int


def kernel_distance(
    a: Tensor,
    b: Tensor,
    *,
    seed: int,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int | None = None,
) -> KernelDistance:
    """Return the squared maximum mean discrepancy for the kernel (x.y / d + 1)^3.

    With Inception's pooled features it is the KID. Its expectation is 0 if both sets are of one
    distribution, and so it may be negative.

    Args:
        a: features (n, d), n >= 2.
        b: features (m, d), m >= 2.
        seed: which subsets.
        num_subsets: over which the mean is taken.
        subset_size: images of a subset, of each set; None: 1000, and half of the smaller set where
            that is less, so that there are subsets to tell the interval by.

    Raises:
        DataError: a set has fewer than 2 images, or fewer than a subset.

    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4; Gretton et al. 2012, eq. 3.
    """
    count = min(len(a), len(b))
    size = max(2, min(SUBSET_SIZE, count // 2)) if subset_size is None else subset_size
    if not 2 <= size <= count:
        raise DataError(
            f"a kernel distance of {len(a)} and {len(b)} images in subsets of {size}: each set "
            "needs at least as many, and a subset 2"
        )
    values = torch.tensor(
        [
            _polynomial_discrepancy(
                a[subset(seed, i, 0, len(a), size)], b[subset(seed, i, 1, len(b), size)]
            )
            for i in range(num_subsets)
        ],
        dtype=torch.float64,
    )
    mean = float(values.mean())
    deviation = float(values.std(correction=0))
    error = jackknife_error(values, size=size, count=count)
    # What is jackknifed is the mean over all subsets; that over so many is off from it besides.
    drawn = deviation / sqrt(num_subsets)
    interval = None if error is None else normal_interval(mean, hypot(error, drawn))
    return KernelDistance(Estimate(mean, interval), deviation, num_subsets, size)


def _polynomial_discrepancy(a: Tensor, b: Tensor) -> float:
    """Return the unbiased estimate of two sets of equally many images."""
    x, y = a.double(), b.double()
    count, dim = x.shape

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        return (left @ right.T / dim + 1) ** 3

    def without_itself(own: Tensor) -> Tensor:
        return (own.sum() - own.trace()) / (count * (count - 1))

    within = without_itself(kernel(x, x)) + without_itself(kernel(y, y))
    return float(within - 2 * kernel(x, y).mean())


def gaussian_distance(
    a: Tensor, b: Tensor, *, sigma: float = SIGMA, scale: float = SCALE
) -> Estimate:
    """Return `scale` times the squared maximum mean discrepancy for exp(-|x - y|^2 / (2 sigma^2)).

    With CLIP's embeddings of length 1 it is the CMMD. As published it is the estimate of least
    variance, in which each image is compared with itself too: never negative, and of n images of
    one distribution about 2 scale (1 - mean kernel) / n.

    Args:
        a: features (n, d).
        b: features (m, d).
        sigma: width of the kernel.
        scale: factor of the result.

    Source: Jayasumana et al. 2024, arXiv:2401.09603, section 4; Gretton et al. 2012, eq. 5. The
    interval: the projection of the statistic on single images, Serfling 1980, section 5.3.
    """
    x, y = a.double(), b.double()
    of_x = _mean_kernels(x, x, sigma) - _mean_kernels(x, y, sigma)
    of_y = _mean_kernels(y, y, sigma) - _mean_kernels(y, x, sigma)
    value = float(of_x.mean() + of_y.mean())
    if min(len(x), len(y)) < 2:
        return Estimate(scale * value, None)
    error = 2 * sqrt(float(of_x.var()) / len(x) + float(of_y.var()) / len(y))
    return Estimate(scale * value, normal_interval(scale * value, scale * error, at_least=0))


def _mean_kernels(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """Return (n,): the mean over y of the kernel of each x."""
    return torch.cat(
        [torch.exp(block / (-2 * sigma**2)).mean(dim=1) for block in squared_distances(x, y)]
    )


def squared_distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Yield |x - y|^2 of some rows of x, (r, m), and all of y: float64, never below 0."""
    centre = y.mean(dim=0)  # far from the origin the squares would drown the differences
    x, y = x - centre, y - centre
    squares = y.square().sum(dim=1)
    for rows in torch.split(x, _BLOCK):
        yield (rows.square().sum(dim=1)[:, None] + squares - 2 * rows @ y.T).clamp_min(0)
