"""Nearest neighbours, exactly, and what they say of memorised training images.

Works on rows of numbers: levels of pixels, or features. Everything is computed in float64, where
squared distances of levels are whole numbers without any rounding.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError

_QUERY_ROWS = 256
_REFERENCE_ROWS = 4096
MEMORY_QUANTILE = 0.01
"""a sample nearer to a training image than so large a part of the held-out images counts"""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of the references for each query, nearest first."""

    index: Tensor
    """(n, k) int64, rows of the references; of equally near ones the first"""
    distance: Tensor
    """(n, k) float64, Euclidean"""


@torch.inference_mode()
def nearest(queries: Tensor, references: Tensor, *, k: int = 1) -> Neighbours:
    """Return the k nearest references of each query by Euclidean distance.

    |a - b|^2 = |a|^2 + |b|^2 - 2 a.b finds them, in chunks: no more than 256 x 4096 distances are
    held at a time. The distances of those found are computed again from the differences, so that
    equal rows are 0 apart and no digit depends on the chunks.

    Args:
        queries: (n, ...) numbers of any dtype, e.g. uint8 images; the device of the work.
        references: (m, ...), rows of the same shape, on the same device.
        k: neighbours of each, 1 ... m.

    Returns:
        On the CPU.

    Raises:
        ConfigError: if the shapes differ, or there are fewer references than k.
    """
    if queries.shape[1:] != references.shape[1:] or not 1 <= k <= len(references):
        raise ConfigError(
            f"k={k} neighbours of {tuple(queries.shape)} among {tuple(references.shape)}: rows "
            "must have one shape, and there must be at least k references"
        )
    found = [_nearest(part, references, k) for part in torch.split(queries, _QUERY_ROWS)]
    return Neighbours(
        index=torch.cat([index for _, index in found]).cpu(),
        distance=torch.cat([distance for distance, _ in found]).cpu(),
    )


def _nearest(queries: Tensor, references: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and rows of the k nearest, both (n, k)."""
    a = queries.flatten(1).double()
    a_square = a.square().sum(1, keepdim=True)
    square = torch.empty(len(a), 0, dtype=torch.float64, device=a.device)
    index = torch.empty(len(a), 0, dtype=torch.int64, device=a.device)
    for first in range(0, len(references), _REFERENCE_ROWS):
        b = references[first : first + _REFERENCE_ROWS].flatten(1).double()
        squares = a_square + b.square().sum(1) - 2 * a @ b.T
        rows = torch.arange(first, first + len(b), device=a.device).expand(len(a), -1)
        square, index = _smallest(torch.cat([square, squares], 1), torch.cat([index, rows], 1), k)
    chosen = references[index.flatten()].flatten(1).double().view(*index.shape, -1)
    return _smallest((chosen - a[:, None]).square().sum(-1).sqrt(), index, k)


def _smallest(values: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # Stable: of equal values the one that stood first, which is that of the smaller index.
    values, order = values.sort(dim=1, stable=True)
    return values[:, :k], index.gather(1, order[:, :k])


@dataclass(frozen=True)
class Memorisation:
    """How near samples lie to training images, beside images that no one can have memorised."""

    samples: Tensor
    """(n,) distance of each sample to its nearest training image"""
    held_out: Tensor
    """(m,) distance of each held-out image to its nearest training image"""
    threshold: float
    """distance below which a sample counts as near: a quantile of `held_out`"""

    @property
    def share(self) -> float:
        """Part of the samples below the threshold, 0 ... 1."""
        return float((self.samples < self.threshold).double().mean())

    @property
    def expected(self) -> float:
        """The same part of the held-out images: what a model that only generalises would have."""
        return float((self.held_out < self.threshold).double().mean())

    @property
    def standard_error(self) -> float:
        """Of `share`, from its number of samples, were it the expected one."""
        return math.sqrt(self.expected * (1 - self.expected) / len(self.samples))

    def scaled(self, factor: float) -> "Memorisation":
        """Return the same in another unit of distance."""
        return Memorisation(factor * self.samples, factor * self.held_out, factor * self.threshold)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, without the distances of single images, as JSON values."""
        return {
            "share": self.share,
            "expected": self.expected,
            "standard_error": self.standard_error,
            "threshold": self.threshold,
            "median_samples": float(self.samples.quantile(0.5)),
            "median_held_out": float(self.held_out.quantile(0.5)),
            "num_samples": len(self.samples),
            "num_held_out": len(self.held_out),
        }


def memorisation(
    samples: Tensor, held_out: Tensor, train: Tensor, *, quantile: float = MEMORY_QUANTILE
) -> Memorisation:
    """Compare the distances of samples and of held-out images to their nearest training image.

    Copies of training images are nearer to them than held-out images are. A share near the
    expected one says that there are no more near-copies than chance has in the data, in the space
    that is looked at; a copy that is shifted or brightened is far away in pixels.

    Args:
        samples: (n, ...), images or features.
        held_out: (m, ...).
        train: (l, ...).
        quantile: part of the held-out images that are to count as near, between 0 and 1.

    Raises:
        ConfigError: if the quantile is not, or the shapes differ.
    """
    if not 0 < quantile < 1:
        raise ConfigError(f"quantile={quantile} must be between 0 and 1, e.g. {MEMORY_QUANTILE}")
    of_samples, of_held_out = (
        nearest(images, train).distance[:, 0] for images in (samples, held_out)
    )
    return Memorisation(of_samples, of_held_out, float(of_held_out.quantile(quantile)))
