"""What training and measuring see of a data set: images by their number.

A split of at most 4 GiB of pixels is decoded once and mapped into memory, a larger one is read from
its shards while it is used: see `decoded` and `stream`. Which of the two follows from the index
alone, and so does the order of training, which differs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.images import pixels
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.decoded import decoded_bytes, open_decoded
from ddpm_core.loading.mixture import mixed_order
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.permutation import FullOrder, Order
from ddpm_core.shards.index import Index, Split
from ddpm_core.shards.lineage import Ancestor, is_mixture, made_of
from ddpm_core.store.storage import Store

MAX_DECODED_BYTES = 4 * 2**30
"""pixels of a split that is held in memory; more are read from the shards"""


@dataclass(frozen=True)
class ImageSet:
    """A split of a data set in memory."""

    pixels: Tensor
    """(N, channels, height, width), uint8 or uint16"""
    others: Mapping[str, Tensor]
    """the other members by name: `label` (N,) int64"""
    num_classes: int
    """classes of the data set, whether they occur or not"""
    counts: tuple[int, ...]
    """images of each shard"""
    eight_bits: bool = False
    """give images of more bits as uint8: each when it is taken, and what is mapped stays shared"""
    made_of: tuple[Ancestor, ...] = ()
    """the data sets that it is made of, if it is made of others"""

    def __len__(self) -> int:
        return sum(self.counts)

    def order(self, seed: int) -> Order:
        """Return the order of training: all images permuted, of a mixture those of each set."""
        if is_mixture(self.made_of):
            return mixed_order(seed, self.made_of, np.array(self.counts), _full_order)
        return FullOrder(seed, len(self))

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
        return self.shown(self.pixels[start:stop])

    def shown(self, images: Tensor) -> Tensor:
        """Return images out of `pixels` as they are given."""
        return torch.from_numpy(pixels.eight_bits(images.numpy())) if self.eight_bits else images

    @property
    def members(self) -> Collection[str]:
        """What the images come with."""
        return self.others.keys()

    def member(self, name: str, numbers: NDArray[np.int64]) -> Tensor:
        """Return a member of the images of these numbers, e.g. of `label` (b,) int64."""
        return self.others[name][torch.from_numpy(numbers)]

    def close(self) -> None:
        """Nothing is open."""


Images = ImageSet | StreamedImages
"""the images of a split by their number, wherever they are"""


def load_split(
    store: Store,
    index: Index,
    split: Split,
    *,
    num_decoders: int = 1,
    eight_bits: bool = False,
) -> Images:
    """Return the images of a split; `close` them in the end.

    Args:
        store: where the data set is.
        index: what it is.
        split: which part of it.
        num_decoders: processes that decode, if it has to be read from its shards.
        eight_bits: give images of 16 bits as uint8, for feature networks and people.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found. Of a split that does
            not fit memory this is found when the shard is first used.
        ConfigError: the local cache is too small.
    """
    cache = Cache.of_environment()
    if decoded_bytes(index, split) > MAX_DECODED_BYTES:
        return StreamedImages(
            store, index, split, cache, num_decoders=num_decoders, eight_bits=eight_bits
        )
    decoded = open_decoded(store, index, split, cache)
    return ImageSet(
        torch.from_numpy(decoded.pixels),
        {name: torch.from_numpy(rows) for name, rows in decoded.others.items()},
        num_classes=len(index.label.names),
        counts=tuple(index.counts(split).tolist()),
        eight_bits=eight_bits,
        made_of=made_of(index.manifest) if split == "train" else (),
    )


def _full_order(seed: int, counts: NDArray[np.int64]) -> FullOrder:
    return FullOrder(seed, int(counts.sum()))


def batch(image_set: ImageSet, indices: NDArray[np.int64]) -> Tensor:
    """Return the images at `indices`, (b, channels, height, width)."""
    where = torch.from_numpy(indices).to(image_set.pixels.device)
    return image_set.shown(image_set.pixels.index_select(0, where))


def num_levels_of(images: Tensor) -> int:
    """Return how many values the samples of uint8 or uint16 images can have."""
    return int(256 ** images.element_size())


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Return what the network sees: x = v / 127.5 - 1 in [-1, 1], float32, on `device`.

    Of uint16 v / 32767.5 - 1. The bytes travel, not the floats: a quarter of the traffic.
    """
    half = (num_levels_of(images) - 1) / 2
    return images.to(device, non_blocking=True).to(torch.float32) / half - 1


def flip(images: Tensor, coin: Tensor) -> Tensor:
    """Mirror left and right the images (b, c, h, w) whose `coin` (b,) is True.

    Both are computed and one is chosen on the device: no wait for it.
    """
    return torch.where(coin[:, None, None, None], images.flip(-1), images)
