"""Fidelity and diversity apart: by balls around features, as far as their nearest neighbours.

Precision and density say how much of what was made looks like the real images, recall and coverage
how much of the real images was made.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_core.errors import DataError
from ddpm_core.evaluation.distances.estimate import Estimate, mean_of, share_of
from ddpm_core.evaluation.distances.kernels import squared_distances

PRECISION_K, DENSITY_K = 3, 5
"""neighbours of precision and recall, and of density and coverage, as published"""


@dataclass(frozen=True)
class Neighbours:
    """The four numbers; their intervals hold the balls fixed."""

    precision: Estimate
    """share of the made images within the ball of a real one"""
    recall: Estimate
    """share of the real images within the ball of a made one"""
    density: Estimate
    """balls of real images around a made one, divided by k; above 1 where real images crowd"""
    coverage: Estimate
    """share of the real images whose ball holds a made one"""


def neighbours(
    made: Tensor, real: Tensor, *, precision_k: int = PRECISION_K, density_k: int = DENSITY_K
) -> Neighbours:
    """Return precision, recall, density and coverage of `made` against `real`.

    A ball reaches to the k-th nearest other image of its own set, and includes its surface.

    Args:
        made: features (m, d).
        real: features (n, d).
        precision_k: of precision and recall.
        density_k: of density and coverage.

    Raises:
        DataError: a set has no k-th neighbour.

    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, eqs. 1 and 2; Naeem et al. 2020,
    arXiv:2002.09797, eqs. 3 and 5.
    """
    made, real = made.double(), real.double()
    needed = max(precision_k, density_k)
    if min(len(made), len(real)) <= needed:
        raise DataError(
            f"neighbours of {len(made)} made and {len(real)} real images: each set needs at least "
            f"{needed + 1}"
        )
    of_real = _squared_radii(real, (precision_k, density_k))
    (of_made,) = _squared_radii(made, (precision_k,))
    inside, num_balls = [], []
    reached = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    start = 0
    for block in squared_distances(made, real):  # rows: made, columns: real
        stop = start + len(block)
        inside.append((block <= of_real[0]).any(dim=1))
        within = block <= of_real[1]
        num_balls.append(within.sum(dim=1))
        covered |= within.any(dim=0).cpu()
        reached |= (block <= of_made[start:stop, None]).any(dim=0).cpu()
        start = stop
    return Neighbours(
        precision=share_of(torch.cat(inside)),
        recall=share_of(reached),
        density=mean_of(torch.cat(num_balls).double() / density_k),
        coverage=share_of(covered),
    )


def _squared_radii(x: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """Return for each k the squared distance (n,) of each row to its k-th nearest other."""
    found: list[list[Tensor]] = [[] for _ in ks]
    start = 0
    for block in squared_distances(x, x):
        rows = torch.arange(len(block))
        block[rows, start + rows] = torch.inf  # itself is no neighbour
        nearest = block.topk(max(ks), largest=False, sorted=True).values
        for radii, k in zip(found, ks, strict=True):
            radii.append(nearest[:, k - 1])
        start += len(block)
    return [torch.cat(radii) for radii in found]
