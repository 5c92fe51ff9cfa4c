"""How far a Frechet distance may be off: by what each single image does to it."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from ddpm_core.evaluation.distances.estimate import Estimate, normal_interval
from ddpm_core.evaluation.distances.moments import Moments, frechet_distance


@dataclass(frozen=True)
class Influence:
    """What an image x of one set adds to the distance: x' linear + x' quadratic x, x centred."""

    mean: Tensor
    linear: Tensor
    quadratic: Tensor

    def of(self, features: Tensor) -> Tensor:
        """Return (n,): what each image of a set adds, but for a constant; features (n, d)."""
        centred = features.double() - self.mean
        return centred @ self.linear + ((centred @ self.quadratic) * centred).sum(dim=1)


def influence(a: Moments, b: Moments) -> Influence | None:
    """Return the influence of an image of `a` on the Frechet distance of a and b.

    The derivative by the mean is 2 (mean_a - mean_b); by the covariance I - T, with the optimal map
    from a to b T = S_a^(-1/2) (S_a^(1/2) S_b S_a^(1/2))^(1/2) S_a^(-1/2). None where the covariance
    of a is singular: there is no derivative.

    Source: Hampel 1974, the influence curve; Takatsu 2011, Wasserstein geometry of Gaussian
    measures, section 2.
    """
    if a.count <= a.dim:
        return None
    values, vectors = torch.linalg.eigh(a.covariance)
    if float(values[0]) <= 1e-12 * float(values[-1]):
        return None
    root, inverse = ((vectors * values.sqrt() ** sign) @ vectors.T for sign in (1, -1))
    inner, basis = torch.linalg.eigh(root @ b.covariance @ root)
    map_to_b = inverse @ ((basis * inner.clamp_min(0).sqrt()) @ basis.T) @ inverse
    identity = torch.eye(a.dim, dtype=torch.float64)
    return Influence(a.mean, 2 * (a.mean - b.mean), identity - map_to_b)


def frechet_estimate(
    a: Moments, b: Moments, rows_a: Tensor | None = None, rows_b: Tensor | None = None
) -> Estimate:
    """Return the Frechet distance with its interval.

    The interval is of the estimate at these numbers of images, by the infinitesimal jackknife: the
    sum over the sets of the variance of the influence, divided by the number of images. A set
    without rows is taken as known exactly, as a published reference is. There is none where a
    covariance is singular: with no more images than features.

    Args:
        a: moments of one set.
        b: of the other.
        rows_a: the features that a is of, or enough of them; None: not there.
        rows_b: those that b is of.

    Source: Efron 1982, The jackknife, the bootstrap and other resampling plans, section 6.3.
    """
    value = frechet_distance(a, b)
    variance = 0.0
    for own, other, rows in ((a, b, rows_a), (b, a, rows_b)):
        if rows is None:
            continue
        found = influence(own, other)
        if found is None:
            return Estimate(value, None)
        variance += float(found.of(rows).var()) / own.count
    if rows_a is None and rows_b is None:
        return Estimate(value, None)
    return Estimate(value, normal_interval(value, sqrt(variance), at_least=0))
