"""Mean and covariance of features, merged exactly in parts, and the Frechet distance of two."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean (d,) and scatter (d, d) = sum of (x - mean)(x - mean)^T; float64, on the CPU."""

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def dim(self) -> int:
        return self.mean.numel()

    @property
    def covariance(self) -> Tensor:
        """The unbiased estimate, divided by count - 1; 0 for a single image."""
        return self.scatter / max(self.count - 1, 1)


def moments_of(features: Tensor) -> Moments:
    """Return the moments of features (n, d), n >= 1."""
    values = features.to("cpu", torch.float64)
    mean = values.mean(dim=0)
    deviations = values - mean
    return Moments(values.shape[0], mean, deviations.T @ deviations)


def merge(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all images together, from left to right.

    Associative up to rounding; the caller keeps the order fixed so that the last bit is, too.

    Source: Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance.
    """
    return reduce(_merge_two, parts)


def _merge_two(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    delta = b.mean - a.mean
    return Moments(
        count,
        a.mean + delta * (b.count / count),
        a.scatter + b.scatter + torch.outer(delta, delta) * (a.count * b.count / count),
    )


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)), S the covariances.

    The squared Wasserstein-2 distance of the two Gaussians; with Inception features it is the FID.
    Tr (S_a S_b)^(1/2) = Tr (S_a^(1/2) S_b S_a^(1/2))^(1/2), whose matrix is symmetric and positive:
    no complex square roots, no small constant on the diagonal, also when S is singular.

    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6; Dowson, Landau 1982.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root_a = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root_a @ b.covariance @ root_a
    # Rounding leaves eigenvalues that are 0 slightly below it.
    trace_of_root = torch.linalg.eigvalsh(product).clamp_min(0).sqrt().sum()
    distance = (
        (a.mean - b.mean).square().sum()
        + a.covariance.trace()
        + b.covariance.trace()
        - 2 * trace_of_root
    )
    return max(float(distance), 0.0)
