"""The order of a mixture: several sets in one stream, each with epochs and an order of its own.

Position p of the stream is of the set that `proportions` says, and the n-th image of that set,
where n is how many positions before p are of it: image n mod N of its epoch n // N. So a small set
begins its second epoch while a large one is in its first, no image comes twice within an epoch of
its set, and a step is a function of (index, seed, step): nothing is replayed to go on from it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.loading.proportions import Proportions
from ddpm_core.permutation import Order, images_at
from ddpm_core.shards.lineage import Ancestor

AnyOrder = TypeVar("AnyOrder", bound=Order, covariant=True)


@dataclass(frozen=True)
class Part(Generic[AnyOrder]):
    """One set of a mixture in the order of its own epochs."""

    order: AnyOrder
    first_image: int
    """number of its first image in the mixture"""
    first_shard: int
    """number of its first shard in the mixture"""


@final
class MixedOrder(Generic[AnyOrder]):
    """The order of a mixture: of one epoch, which does not end.

    Args:
        weights: whole numbers, one for each part.
        parts: the sets.
    """

    num_images = 2**62

    def __init__(self, weights: Sequence[int], parts: Sequence[Part[AnyOrder]]) -> None:
        self.parts = tuple(parts)
        self._proportions = Proportions(weights)

    def images(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:  # noqa: ARG002
        """Return the images at these positions of the stream, rising."""
        sets, own = self._proportions.at(positions)
        numbers = np.empty_like(positions)
        for number, part in enumerate(self.parts):
            rows = sets == number
            numbers[rows] = part.first_image + images_at(part.order, own[rows])
        return numbers

    def own_positions(self, position: int) -> list[int]:
        """Return where each set stands in its own stream at a position of this one."""
        return [int(count) for count in self._proportions.counts(position)]


def mixed_order(
    seed: int,
    ancestors: Sequence[Ancestor],
    counts: NDArray[np.int64],
    order_of: Callable[[int, NDArray[np.int64]], AnyOrder],
) -> MixedOrder[AnyOrder]:
    """Return the order of the training split of a mixture.

    Args:
        seed: chooses it.
        ancestors: the data sets that it is made of, with their weights.
        counts: images of each shard, those of one data set after those of the other.
        order_of: called with a seed and the counts of one data set, returns its own order.
    """
    parts, first_shard, first_image = [], 0, 0
    for one in ancestors:
        own = counts[first_shard : first_shard + one.num_shards["train"]]
        order = order_of(seed_of(seed, one.fingerprint), own)
        parts.append(Part(order, first_image, first_shard))
        first_shard, first_image = first_shard + len(own), first_image + int(own.sum())
    return MixedOrder([one.weight or 0 for one in ancestors], parts)


def seed_of(seed: int, fingerprint: str) -> int:
    """Return what chooses the order of one set: two of equal size are permuted otherwise.

    It follows from the set's fingerprint alone: beside which others it is given changes nothing.
    """
    digest = hashlib.sha256(f"mixture:{seed}:{fingerprint}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
