"""Nearest neighbours, exactly, and what they say of memorised training images.

Works on rows of numbers: levels of pixels, or features. Everything is computed in float64, where
squared distances of levels are whole numbers without any rounding. The rows that are searched need
not be in memory: they come in parts and are gone through once for as many queries as 1 GiB holds.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError

_QUERY_ROWS = 256
_REFERENCE_ROWS = 4096
_CHUNK_BYTES = 2**27
"""numbers of a chunk in float64: of rows longer than 4096 numbers there are fewer in one"""
_GROUP_BYTES = 2**30
"""queries for which the references are gone through once"""
MEMORY_QUANTILE = 0.01
"""a sample nearer to a training image than so large a part of the held-out images counts"""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of the references for each query, nearest first."""

    index: Tensor
    """(n, k) int64, rows of the references; of equally near ones the first"""
    distance: Tensor
    """(n, k) float64, Euclidean"""


def nearest(queries: Tensor, references: Iterable[Tensor], *, k: int = 1) -> Neighbours:
    """Return the k nearest references of each query by Euclidean distance.

    |a - b|^2 = |a|^2 + |b|^2 - 2 a.b finds them, in chunks: no more than 256 x 4096 distances are
    held at a time. The distances of those found are computed again from the differences, so that
    equal rows are 0 apart. Copies of an image are equal rows as levels; as features only where the
    network saw both in batches of one size, since another size may round otherwise (about 1e-6).
    Chunks are the same however the references come in parts, and so is every digit.

    Args:
        queries: (n, ...) numbers of any dtype, e.g. uint8 images; the device of the work.
        references: parts (l, ...) of rows of the same shape, in order, on any device.
        k: neighbours of each, at least 1.

    Returns:
        On the CPU.

    Raises:
        ConfigError: if the shapes differ, or there are fewer references than k.
    """
    (found,) = nearest_of_each([(queries, k)], references)
    return found


@torch.inference_mode()
def nearest_of_each(
    searches: Iterable[tuple[Tensor, int]], references: Iterable[Tensor]
) -> list[Neighbours]:
    """Return what `nearest` does for each (queries, k), having gone through the references once.

    More than once, if there are more than 1 GiB of queries; a pass takes no more of them at a time.
    """
    found: list[Neighbours] = []
    group: list[_Search] = []
    num_bytes = 0
    for queries, k in searches:
        if group and num_bytes + queries.nbytes > _GROUP_BYTES:
            found += _searched(group, references)
            group, num_bytes = [], 0
        group.append(_Search(queries, k))
        num_bytes += queries.nbytes
    return found + _searched(group, references)


def in_chunks(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the same rows again, as many at a time as there are references in a chunk."""
    pending: list[Tensor] = []
    room = 0
    for part in parts:
        while len(part):
            room = room or _num_rows(part, _REFERENCE_ROWS)
            pending.append(part[:room])
            room -= len(pending[-1])
            part = part[len(pending[-1]) :]
            if not room:
                yield torch.cat(pending)
                pending = []
    if pending:
        yield torch.cat(pending)


def _num_rows(rows: Tensor, at_most: int, copies: int = 1) -> int:
    """Return how many of such rows a chunk has."""
    row_bytes = 8 * copies * max(1, math.prod(rows.shape[1:]))
    return min(at_most, max(1, _CHUNK_BYTES // row_bytes))


def _searched(group: "list[_Search]", references: Iterable[Tensor]) -> list[Neighbours]:
    first = 0
    for chunk in in_chunks(references):
        for search in group:
            search.add(first, chunk)
        first += len(chunk)
    return [search.result(first) for search in group]


@final
class _Search:
    """The nearest so far of the queries of one search."""

    def __init__(self, queries: Tensor, k: int) -> None:
        self._shape, self._k = tuple(queries.shape), k
        size = _num_rows(queries, _QUERY_ROWS, copies=max(1, k))
        self._chunks = [_Nearest(chunk, k) for chunk in torch.split(queries, size)]

    def add(self, first: int, references: Tensor) -> None:
        """Look at references, of which the first has this index."""
        if self._shape[1:] != references.shape[1:] or self._k < 1:
            raise self._refusal(f"rows of {tuple(references.shape[1:])}")
        b = references.to(self._chunks[0].device).flatten(1).double()
        b_square = b.square().sum(1)
        for chunk in self._chunks:
            chunk.add(first, b, b_square)

    def result(self, num_references: int) -> Neighbours:
        """Return what was found among so many."""
        if num_references < self._k:
            raise self._refusal(f"{num_references} rows")
        parts = [chunk.result() for chunk in self._chunks]
        return Neighbours(
            index=torch.cat([index for _, index in parts]).cpu(),
            distance=torch.cat([distance for distance, _ in parts]).cpu(),
        )

    def _refusal(self, references: str) -> ConfigError:
        return ConfigError(
            f"k={self._k} neighbours of {self._shape} among {references}: rows must have one "
            "shape, and there must be at least k references, k at least 1"
        )


@final
class _Nearest:
    """The nearest so far of a chunk of queries, in the order of their squares."""

    def __init__(self, queries: Tensor, k: int) -> None:
        self._queries, self._k, self.device = queries, k, queries.device
        empty = torch.empty(len(queries), 0, dtype=torch.float64, device=self.device)
        self._square, self._distance, self._index = empty, empty, empty.long()

    def add(self, first: int, b: Tensor, b_square: Tensor) -> None:
        """Look at references `first`, `first` + 1, ...: b, and their squares."""
        a = self._queries.flatten(1).double()
        squares = a.square().sum(1, keepdim=True) + b_square - 2 * a @ b.T
        rows = torch.arange(first, first + len(b), device=self.device).expand(len(a), -1)
        square = torch.cat([self._square, squares], 1)
        index = torch.cat([self._index, rows], 1)
        # Only of those that stay the distance is wanted: now, while their rows are here.
        distance = torch.cat([self._distance, squares], 1)
        self._square, self._index, distance = _smallest(square, self._k, index, distance)
        chosen = b[(self._index - first).clamp(min=0).flatten()].view(*self._index.shape, -1)
        fresh = (chosen - a[:, None]).square().sum(-1).sqrt()
        self._distance = torch.where(self._index >= first, fresh, distance)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return distances and rows of the k nearest, both (n, k)."""
        # By index first: the squares of two copies may be rounded apart, their distances are not.
        index, distance = _smallest(self._index, self._k, self._distance)
        distance, index = _smallest(distance, self._k, index)
        return distance, index


def _smallest(values: Tensor, k: int, *others: Tensor) -> tuple[Tensor, ...]:
    # Stable: of equal values the one that stood first, which is that of the smaller index.
    values, order = values.sort(dim=1, stable=True)
    return values[:, :k], *(other.gather(1, order[:, :k]) for other in others)


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
    samples: Tensor, held_out: Tensor, *, quantile: float = MEMORY_QUANTILE
) -> Memorisation:
    """Compare the distances of samples and of held-out images to their nearest training image.

    Copies of training images are nearer to them than held-out images are. A share near the
    expected one says that there are no more near-copies than chance has in the data, in the space
    that is looked at; a copy that is shifted or brightened is far away in pixels.

    Args:
        samples: (n,) distance of each.
        held_out: (m,) distance of each.
        quantile: part of the held-out images that are to count as near, between 0 and 1.

    Raises:
        ConfigError: if the quantile is not.
    """
    if not 0 < quantile < 1:
        raise ConfigError(f"quantile={quantile} must be between 0 and 1, e.g. {MEMORY_QUANTILE}")
    return Memorisation(samples, held_out, float(held_out.quantile(quantile)))
