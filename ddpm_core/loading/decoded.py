"""A small split, decoded once on each machine into a file that all its processes map.

    labels      (N,) int64, little-endian
    pixels      (N, channels, height, width) uint8
    digest      SHA-256 of what the file is, of the labels and of the pixels

The pages of a mapped file are there once, however many ranks read them.
"""

import hashlib
import math
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import DataError
from ddpm_core.images.decoding import decode_files
from ddpm_core.images.names import quoted, text_of
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.shard_files import damaged
from ddpm_core.shards.index import Index, Shard, Split, key_of
from ddpm_core.shards.shard import ABOUT, IMAGE_EXTENSIONS, LABEL
from ddpm_core.shards.tar import Member, members
from ddpm_core.store import durable
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store

_FORMAT = 1
_MAX_THREADS = 4
_DIGEST_BYTES = 32
_BLOCK_IMAGES = 256  # decoded at once


@dataclass(frozen=True)
class Decoded:
    """A split in memory: a private mapping, so writes are not seen by other processes."""

    images_u8: NDArray[np.uint8]
    """(N, channels, height, width)"""
    labels: NDArray[np.int64]
    """(N,)"""


def open_decoded(store: Store, index: Index, split: Split, cache: Cache) -> Decoded:
    """Return a split from the local cache; made, while the others wait, if it is not there.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found.
        ConfigError: the cache is smaller than the split.
    """
    about = _about(index, split)
    size = 8 * index.num_images[split] + decoded_bytes(index, split) + _DIGEST_BYTES
    cache.require_room(size, f"the {split} split of {store.uri_of(index.manifest.folder)}")

    def make(descriptor: int) -> None:
        # Room first: for a page that a full disk cannot take, the process would be killed.
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in durable.FULL:
                raise
            said = f"{os.strerror(error.errno)}: {size} bytes are needed"
            raise OSError(error.errno, said) from None
        # Not closed here: arrays look into it, also from the traceback of an error.
        mapped = mmap.mmap(descriptor, size)
        _fill(store, index, split, _views(mapped, index, split))
        mapped[-_DIGEST_BYTES:] = _digest(about, mapped)

    def is_sound(descriptor: int) -> bool:
        if os.fstat(descriptor).st_size != size:
            return False
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped:
            return mapped[-_DIGEST_BYTES:] == _digest(about, mapped)

    name = f"decoded-{hashlib.sha256(about).hexdigest()[:32]}-{split}.bin"
    descriptor = cache.open(name, make=make, is_sound=is_sound)
    try:
        # Private, so that torch may take the array for one that can be written to; as long as
        # nobody does, its pages are those of the file.
        mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
    return _views(mapped, index, split)


def decoded_bytes(index: Index, split: str) -> int:
    """Return how many bytes of pixels a split has."""
    return index.num_images[split] * math.prod(index.shape)


def _about(index: Index, split: str) -> bytes:
    """Return all that determines the file, as JSON."""
    shards = index.shards[split]
    return canonical_json(
        {
            "dataset": index.fingerprint,
            "format": _FORMAT,
            "num_images": index.num_images[split],
            "shape": list(index.shape),
            "shards": [
                [index.manifest.files[shard.role].sha256, shard.offsets, shard.sizes]
                for shard in shards
            ],
            "split": split,
        }
    )


def _views(mapped: mmap.mmap, index: Index, split: str) -> Decoded:
    count = index.num_images[split]
    pixels = np.frombuffer(mapped, np.uint8, decoded_bytes(index, split), offset=8 * count)
    labels = np.frombuffer(mapped, np.int64, count)
    return Decoded(pixels.reshape(count, *index.shape), labels)


def _digest(about: bytes, mapped: mmap.mmap) -> bytes:
    digest = hashlib.sha256(about)
    with memoryview(mapped) as view, view[:-_DIGEST_BYTES] as content:
        digest.update(content)
    return digest.digest()


def _fill(store: Store, index: Index, split: Split, decoded: Decoded) -> None:
    count = index.num_images[split]
    firsts = np.cumsum([0, *(shard.num_images for shard in index.shards[split])])
    if firsts[-1] != count:
        raise DataError(
            f"{store.uri_of(index.manifest.folder)} has shards of {firsts[-1]} {split} images, "
            f"but says {count}; run the shard stage again under another root"
        )

    def read(shard: Shard, first: int) -> None:
        stop = first + shard.num_images
        part = Decoded(decoded.images_u8[first:stop], decoded.labels[first:stop])
        _read_shard(store, index, shard, split, part)

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        # The list takes every result, which raises the error of a thread.
        list(pool.map(read, index.shards[split], firsts[:-1].tolist()))


def _read_shard(store: Store, index: Index, shard: Shard, split: str, decoded: Decoded) -> None:
    """Fill in the images and labels of one shard."""
    where = store.uri_of(f"{index.manifest.folder}/{shard.name}")
    try:
        tar = index.manifest.read(store, shard.role)
    except DamagedError as error:
        raise damaged(store, index, error) from None
    found = members(tar, origin=where)
    _check_members(found, shard, split, where)
    images, labels = found[::3], found[1::3]
    channels, height, width = index.shape
    for begin in range(0, shard.num_images, _BLOCK_IMAGES):
        block = images[begin : begin + _BLOCK_IMAGES]
        pixels = np.empty((len(block), height, width, channels), np.uint8)
        decode_files(
            [tar[member.offset : member.offset + member.size] for member in block],
            pixels,
            origin=_names(where, [member.name for member in block]),
            checksums=True,
        )
        decoded.images_u8[begin : begin + len(block)] = pixels.transpose(0, 3, 1, 2)
    for position, member in enumerate(labels):
        content = tar[member.offset : member.offset + member.size]
        decoded.labels[position] = label_of(content, len(index.classes), f"{where}: {member.name}")


def _check_members(found: list[Member], shard: Shard, split: str, where: str) -> None:
    """Raise DataError unless an archive is the images of the shard, each with its other files."""
    keys = [key_of(split, shard.first_number + number) for number in range(shard.num_images)]
    names = [member.name for member in found]
    expected = [f"{key}.{extension}" for key in keys for extension in ("png", LABEL, ABOUT)]
    for at in range(0, min(len(names), len(expected)), 3):
        extension = names[at].rpartition(".")[2]
        if extension in IMAGE_EXTENSIONS:
            expected[at] = f"{keys[at // 3]}.{extension}"
    places = [(member.offset, member.size) for member in found[::3]]
    if names != expected or places != list(zip(shard.offsets, shard.sizes, strict=True)):
        raise DataError(
            f"{where} does not hold {expected[0]} to {expected[-1]} where the index says, in that "
            "order and nothing else; shard under another root"
        )


def _names(where: str, names: list[str]) -> Callable[[int], str]:
    return lambda number: f"{where}: {names[number]}"


def label_of(content: bytes, num_classes: int, origin: str) -> int:
    """Return the class that a .cls file names, or raise DataError with its `origin`."""
    if not content.isdigit() or len(content) > 6 or int(content) >= num_classes:
        raise DataError(
            f"{origin} holds {quoted(text_of(content[:20]))}; it must be a class "
            f"0..{num_classes - 1}. Shard under another root"
        )
    return int(content)
