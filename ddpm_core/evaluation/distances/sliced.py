"""Distances along lines: optimal transport of the projections, which only takes sorting.

It estimates no covariance, and so says something of few images already.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from ddpm_core import seeding
from ddpm_core.evaluation.distances.estimate import Estimate, normal_interval, over_halves

NUM_DIRECTIONS = 1000
_DIRECTIONS = 6  # the stream of seeding's purpose "features"
_ALPHA = 3.0
_AT_ONCE = 50


@dataclass(frozen=True)
class SlicedDistance:
    """Means over the same random directions."""

    mind: Estimate
    """the Monge inception distance: 3 d times the mean of the squared distances"""
    wasserstein: float
    """the sliced Wasserstein distance of order 2: the root of that mean"""
    num_directions: int


def sliced_distance(
    a: Tensor, b: Tensor, *, seed: int, num_directions: int = NUM_DIRECTIONS
) -> SlicedDistance:
    """Return the squared Wasserstein-2 distance of two sets along lines, averaged over directions.

    With Inception's pooled features it is MIND. The expectation is positive also of two sets of one
    distribution, and falls with the number of images: compare equal numbers.

    Args:
        a: features (n, d).
        b: features (m, d); m may differ from n.
        seed: of the directions.
        num_directions: uniform on the sphere.

    Source: Berthet et al. 2026, arXiv:2605.06797, with alpha = 3 d of its reference code; Bonneel
    et al. 2015, Sliced and Radon Wasserstein barycenters of measures.
    """
    dim = a.shape[1]
    directions = _directions(seed, num_directions, dim)
    # (directions, images): each row is sorted by itself.
    lines_a, lines_b = directions @ a.double().T, directions @ b.double().T

    def mean_square(rows_a: Tensor, rows_b: Tensor) -> float:
        some = zip(torch.split(lines_a, _AT_ONCE), torch.split(lines_b, _AT_ONCE), strict=True)
        return float(
            torch.cat([squared_wasserstein(x[:, rows_a], y[:, rows_b]) for x, y in some]).mean()
        )

    mean = mean_square(torch.arange(len(a)), torch.arange(len(b)))
    error = over_halves(mean_square, (len(a), len(b)), seed=seed)
    value = _ALPHA * dim * mean
    interval = None if error is None else normal_interval(value, _ALPHA * dim * error, at_least=0)
    return SlicedDistance(Estimate(value, interval), sqrt(mean), num_directions)


def squared_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Return (r,): the squared Wasserstein-2 distance of the values of each row of a and of b.

    Sorted, they are carried onto one another in order; of unequal numbers a value is divided. With
    quantile functions F and G that is the integral of (F - G)^2 over (0, 1).

    Args:
        a: (r, n), float64.
        b: (r, m), float64.

    Source: Peyre, Cuturi 2019, arXiv:1803.00567, remark 2.30.
    """
    n, m = a.shape[1], b.shape[1]
    # Whole numbers: where quantile functions step, in units of 1 / (n m).
    steps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n])
    steps = torch.unique(steps)
    begins = torch.cat([steps.new_zeros(1), steps[:-1]])
    weights = (steps - begins).double() / (n * m)
    difference = a.sort(dim=1).values[:, begins // m] - b.sort(dim=1).values[:, begins // n]
    squared: Tensor = difference.square() @ weights
    return squared


def _directions(seed: int, count: int, dim: int) -> Tensor:
    key = seeding.key(seed, "features", _DIRECTIONS)
    drawn = seeding.normal(key, 0, torch.arange(count), (dim,)).double()
    return functional.normalize(drawn, dim=1)
