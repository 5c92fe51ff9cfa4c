"""Numbers with their uncertainty: intervals of 95 %, and the subsets that some are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor

from ddpm_core import seeding

Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution"""
_SUBSETS = 5  # the stream of seeding's purpose "features" that subsets are drawn from


@dataclass(frozen=True)
class Estimate:
    """A number and how far it may be off, because there are only so many images."""

    value: float
    interval: tuple[float, float] | None
    """of 95 %, of the estimate at this number of images: no bias that they leave is in it; None:
    these images do not say"""

    def as_json(self) -> dict[str, Any]:
        """Return the number and its interval as JSON values."""
        return {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
        }


def normal_interval(
    value: float, standard_error: float, *, at_least: float = -inf
) -> tuple[float, float]:
    """Return value -+ 1.96 standard errors, not below what the number can be."""
    return max(at_least, value - Z * standard_error), value + Z * standard_error


def share_of(counted: Tensor) -> Estimate:
    """Return the share of True among n independent images, with Wilson's interval.

    It stays within [0, 1], and does not shrink to a point at 0 or 1.

    Source: Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4.
    """
    count = len(counted)
    share = float(counted.double().mean())
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    spread = sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return Estimate(share, (centre - Z * spread, centre + Z * spread))


def mean_of(values: Tensor) -> Estimate:
    """Return the mean of n independent values; its interval is that of the normal distribution."""
    count, mean = len(values), float(values.double().mean())
    if count < 2:
        return Estimate(mean, None)
    return Estimate(mean, normal_interval(mean, float(values.double().std()) / sqrt(count)))


def subset(seed: int, number: int, side: int, count: int, size: int) -> Tensor:
    """Return (size,) different numbers below `count`: those of subset `number` of one side.

    Args:
        seed: of the measurement.
        number: of the subset.
        side: 0 or 1: which of the two sets of images.
        count: images of that set.
        size: images of the subset.
    """
    key = seeding.key(seed, "features", _SUBSETS, side)
    words = seeding.random_words(key, number, torch.arange(count), 2)
    return (words[:, 0] * 2**31 + (words[:, 1] >> 1)).argsort(stable=True)[:size]


def jackknife_error(values: Tensor, *, size: int, count: int) -> float | None:
    """Return the standard error of a statistic of `count` images, by its values of subsets.

    The delete-d jackknife: sqrt(size / (count - size)) times the deviation of the values over
    random subsets of `size` images. Of two sets of images both are cut to that size, and `count` is
    the smaller one's: the error is then rather too large.

    Source: Shao, Wu 1989, A general theory for jackknife variance estimation, eq. 2.1.
    """
    if not 0 < size < count or len(values) < 2:
        return None
    return sqrt(size / (count - size)) * float(values.double().std(correction=0))


def over_halves(
    statistic: Callable[[Tensor, Tensor], float],
    counts: tuple[int, int],
    *,
    seed: int,
    num_halves: int = 20,
) -> float | None:
    """Return the standard error of a statistic of two sets by its values of halves of both.

    Args:
        statistic: called with the chosen rows of the two sets, (n // 2,) and (m // 2,) int64.
        counts: n and m.
        seed: of the choice.
        num_halves: how many halves are looked at.
    """
    if min(counts) < 4:
        return None
    sizes = [count // 2 for count in counts]
    values = [
        statistic(*(subset(seed, i, side, counts[side], sizes[side]) for side in (0, 1)))
        for i in range(num_halves)
    ]
    return jackknife_error(torch.tensor(values), size=min(sizes), count=min(counts))
