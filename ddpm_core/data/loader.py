"""Shards to tensors: verified, decoded once, held in memory; batches are slices of that.

CIFAR-10 is 0.2 GB so, and a step waits for no disk, network or decoder.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.data import png
from ddpm_core.data.index import Index, Shard, Split, key_of
from ddpm_core.data.tar import members
from ddpm_core.errors import DataError
from ddpm_core.manifest import DamagedError
from ddpm_core.storage import Store

MAX_DECODED_BYTES = 4 * 2**30
_MAX_THREADS = 4


@dataclass(frozen=True)
class ImageSet:
    """A split of a data set in memory."""

    images_u8: Tensor
    """(N, channels, height, width) uint8"""
    labels: Tensor
    """(N,) int64"""

    def __len__(self) -> int:
        return len(self.labels)


def load_split(store: Store, index: Index, split: Split) -> ImageSet:
    """Read all images of a split into memory.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found. Or the split has
            more than 4 GiB of pixels.
    """
    count = index.num_images[split]
    num_bytes = count * math.prod(index.shape)
    if num_bytes > MAX_DECODED_BYTES:
        raise DataError(
            f"{store.uri_of(index.manifest.folder)} has {num_bytes} bytes of {split} pixels, this "
            f"program holds at most {MAX_DECODED_BYTES} in memory; streaming larger data sets is "
            "not there yet: use fewer or smaller images"
        )
    images_u8 = np.empty((count, *index.shape), np.uint8)
    labels = np.empty(count, np.int64)
    firsts = np.cumsum([0, *(shard.num_images for shard in index.shards[split])])
    if firsts[-1] != count:
        raise DataError(
            f"{store.uri_of(index.manifest.folder)} has shards of {firsts[-1]} {split} images, "
            f"but says {count}; run the shard stage again under another root"
        )

    def read(shard: Shard, first: int) -> None:
        stop = first + shard.num_images
        _read_shard(store, index, shard, split, first, images_u8[first:stop], labels[first:stop])

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        # The list asks for every result: that is where an error of a thread comes out.
        list(pool.map(read, index.shards[split], firsts[:-1].tolist()))
    return ImageSet(torch.from_numpy(images_u8), torch.from_numpy(labels))


def batch(image_set: ImageSet, indices: NDArray[np.int64]) -> Tensor:
    """Return the images at `indices`, (b, channels, height, width) uint8."""
    where = torch.from_numpy(indices).to(image_set.images_u8.device)
    return image_set.images_u8.index_select(0, where)


def to_unit_range(images_u8: Tensor, device: torch.device) -> Tensor:
    """Return what the network sees: x = u8 / 127.5 - 1 in [-1, 1], float32, on `device`.

    The bytes travel, not the floats: a quarter of the traffic.
    """
    return images_u8.to(device, non_blocking=True).to(torch.float32) / 127.5 - 1


def flip(images: Tensor, coin: Tensor) -> Tensor:
    """Mirror left and right the images (b, c, h, w) whose `coin` (b,) is True.

    Both are computed and one is chosen on the device: no wait for it.
    """
    return torch.where(coin[:, None, None, None], images.flip(-1), images)


def _read_shard(
    store: Store,
    index: Index,
    shard: Shard,
    split: str,
    first: int,
    images_u8: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> None:
    """Fill `images_u8` (n, c, h, w) and `labels` (n,) from one shard."""
    where = store.uri_of(f"{index.manifest.folder}/{shard.name}")
    try:
        tar = index.manifest.read(store, shard.role)
    except DamagedError as error:
        raise DataError(
            f"{error}. Or delete it and run the shard stage again, which makes it anew"
        ) from None
    found = members(tar, origin=where)
    first = shard.first_number
    expected = [
        f"{key_of(split, number)}.{extension}"
        for number in range(first, first + shard.num_images)
        for extension in ("png", "cls", "json")
    ]
    names = [member.name for member in found]
    offsets = tuple(member.offset for member in found[::3])
    if names != expected or offsets != shard.offsets:
        raise DataError(
            f"{where} does not hold {expected[0]} to {expected[-1]} where the index says, in that "
            "order and nothing else; shard under another root"
        )
    channels, height, width = index.shape
    for position in range(shard.num_images):
        image, label = found[3 * position], found[3 * position + 1]
        content = tar[image.offset : image.offset + image.size]
        pixels = png.decode(content, (height, width, channels), origin=f"{where}: {image.name}")
        images_u8[position] = pixels.transpose(2, 0, 1)
        content = tar[label.offset : label.offset + label.size]
        labels[position] = _label(content, len(index.classes), f"{where}: {label.name}")


def _label(content: bytes, num_classes: int, origin: str) -> int:
    if not content.isdigit() or len(content) > 6 or int(content) >= num_classes:
        raise DataError(
            f"{origin} holds {content[:20]!r}; it must be a class 0..{num_classes - 1}. "
            "Shard under another root"
        )
    return int(content)
