"""A split of a data set in memory."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.images import pixels
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.mixture import mixed_order
from ddpm_core.permutation import FullOrder, Order
from ddpm_core.shards.caption_rows import CaptionRows
from ddpm_core.shards.lineage import Ancestor, is_mixture
from ddpm_core.shards.members import CAPTION


def _nothing(_numbers: NDArray[np.int64]) -> None:
    """Images that were made in memory are what they are."""


@dataclass(frozen=True)
class ImageSet:
    """A split of a data set in memory."""

    pixels: Tensor
    """(N, channels, height, width), uint8 or uint16; `take` and `images` make sure of them"""
    others: Mapping[str, Tensor]
    """the other members by name: `label` (N,) int64"""
    num_classes: int
    """classes of the data set, whether they occur or not"""
    counts: tuple[int, ...]
    """images of each shard"""
    eight_bits: bool = False
    """give images of more bits as uint8: each when it is taken, and what is mapped stays shared"""
    require: Callable[[NDArray[np.int64]], None] = _nothing
    """makes sure of the images of these numbers in `pixels`, before they are looked at"""
    made_of: tuple[Ancestor, ...] = ()
    """the data sets that it is made of, if it is made of others"""
    caption_rows: CaptionRows | None = None
    """the captions; None: the images have none"""

    def __len__(self) -> int:
        return sum(self.counts)

    def order(self, seed: int) -> Order:
        """Return the order of training."""
        return order_in_memory(seed, self.counts, self.made_of)

    def windows(self, seed: int) -> BlockOrder:
        """Return the order that it would have, were it read from its shards."""
        return BlockOrder(seed, self.counts)

    def num_ahead(self, batch_size: int) -> int:  # noqa: ARG002 - as of StreamedImages
        """Return how many batches to prefetch: few, since they are copies of memory."""
        return 2

    def expect(self, position: int) -> None:
        """Nothing has to be fetched."""

    def take(self, numbers: NDArray[np.int64], *, pinned: bool = False) -> Tensor:
        """Return the images of these numbers, (b, channels, height, width)."""
        images = batch(self, numbers)
        return images.pin_memory() if pinned else images

    def images(self, start: int, stop: int) -> Tensor:
        """Return images `start` to `stop` - 1."""
        self.require(np.arange(start, min(stop, len(self)), dtype=np.int64))
        return self.shown(self.pixels[start:stop])

    def shown(self, images: Tensor) -> Tensor:
        """Return images out of `pixels` as they are given."""
        return torch.from_numpy(pixels.eight_bits(images.numpy())) if self.eight_bits else images

    @property
    def members(self) -> Collection[str]:
        """What the images come with."""
        return {*self.others, *(() if self.caption_rows is None else (CAPTION,))}

    def member(self, name: str, numbers: NDArray[np.int64]) -> Tensor:
        """Return a member of the images of these numbers, e.g. of `label` (b,) int64."""
        return self.others[name][torch.from_numpy(numbers)]

    def captions(self, numbers: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return the captions of the images of these numbers; () of one that has none."""
        rows = self.caption_rows
        return [() if rows is None else rows[number] for number in numbers.tolist()]

    def close(self) -> None:
        """Nothing is open."""


def order_in_memory(seed: int, counts: Sequence[int], ancestors: Sequence[Ancestor]) -> Order:
    """Return the order of training: all images permuted, of a mixture those of each set.

    Args:
        seed: chooses it.
        counts: images of each shard.
        ancestors: the data sets that they are of, if they are of others.
    """
    if is_mixture(ancestors):
        return mixed_order(seed, ancestors, np.array(counts, np.int64), _full_order)
    return FullOrder(seed, sum(counts))


def _full_order(seed: int, counts: NDArray[np.int64]) -> FullOrder:
    return FullOrder(seed, int(counts.sum()))


def batch(image_set: ImageSet, indices: NDArray[np.int64]) -> Tensor:
    """Return the images at `indices`, (b, channels, height, width)."""
    image_set.require(indices)
    where = torch.from_numpy(indices).to(image_set.pixels.device)
    return image_set.shown(image_set.pixels.index_select(0, where))
