"""A small split, decoded once on each machine into a file that all its processes map.

    each member, e.g. `label`: (N,) int64, little-endian; the images: (N, channels, height, width)
    digest: SHA-256 of what the file is, and of all before

The pages of a mapped file are there once, however many ranks read them.
"""

import hashlib
import math
import mmap
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import DataError
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.outside import open_verified
from ddpm_core.loading.shard_files import ShardFile, read_shard, shard_at
from ddpm_core.shards.index import Index, Shard, Split, key_of
from ddpm_core.shards.members import IMAGE, IMAGE_ENDINGS, LABEL, Member
from ddpm_core.shards.one import Located
from ddpm_core.shards.samples import samples
from ddpm_core.shards.tar import Member as File
from ddpm_core.shards.tar import members
from ddpm_core.store import durable
from ddpm_core.store.storage import Store

_FORMAT = 1
_MAX_THREADS = 4
_DIGEST_BYTES = 32
_BLOCK_IMAGES = 256  # decoded at once


@dataclass(frozen=True)
class Decoded:
    """A split in memory: a private mapping, so writes are not seen by other processes."""

    pixels: NDArray[Any]
    """(N, channels, height, width)"""
    others: Mapping[str, NDArray[Any]]
    """the other members by name, (N, ...) each"""


def open_decoded(store: Store, index: Index, split: Split, cache: Cache) -> Decoded:
    """Return a split from the local cache; made, while the others wait, if it is not there.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found.
        ConfigError: the cache is smaller than the split.
    """
    about = _about(store, index, split)
    size = _DIGEST_BYTES + index.num_images[split] * sum(
        _bytes_of(member) for member in index.members.values()
    )
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
    return index.num_images[split] * _bytes_of(index.image)


def _bytes_of(member: Member) -> int:
    return math.prod(member.shape) * np.dtype(member.dtype).itemsize


def _about(store: Store, index: Index, split: str) -> bytes:
    """Return all that determines the file, as JSON."""
    shards = [shard_at(store, index, split, at) for at in range(len(index.shards[split]))]
    return canonical_json(
        {
            "dataset": index.fingerprint,
            "format": _FORMAT,
            "num_images": index.num_images[split],
            "shape": list(index.shape),
            "shards": [
                [
                    index.located(shard).sha256 or index.located(shard).pin,
                    shard.offsets,
                    shard.sizes,
                    *_beside(shard),
                ]
                for shard in shards
            ],
            "split": split,
        }
    )


def _read_outside(file: Located, index: Index, shard: Shard, decoded: Decoded) -> None:
    """Fill in the images of a shard that others put where it lies; the index has the classes."""
    where = file.key
    opened = ShardFile(open_verified(file), where)
    decoded.others[LABEL][:] = shard.labels
    places = list(zip(shard.offsets, shard.sizes, strict=True))
    for begin in range(0, len(places), _BLOCK_IMAGES):
        block = places[begin : begin + _BLOCK_IMAGES]
        decoded.pixels[begin : begin + len(block)] = index.image.decode(
            [opened.read(offset, size) for offset, size in block],
            _names(where, [f"the image at byte {offset}" for offset, _ in block]),
        )


def _pin(file: Located) -> str:
    return file.sha256 or file.pin


def _beside(shard: Shard) -> list[object]:
    """Return what an index says of a shard's members in the place of its files: mostly nothing."""
    if shard.labels is None and not shard.beside:
        return []
    return [shard.labels, dict(shard.beside)]


def _views(mapped: mmap.mmap, index: Index, split: str) -> Decoded:
    count, at, arrays = index.num_images[split], 0, {}
    # The longest numbers first: so all begin at a multiple of their length.
    by_length = sorted(index.members.items(), key=lambda item: -np.dtype(item[1].dtype).itemsize)
    for name, member in by_length:
        size, dtype = count * math.prod(member.shape), np.dtype(member.dtype)
        arrays[name] = np.frombuffer(mapped, dtype, size, at).reshape(count, *member.shape)
        at += size * dtype.itemsize
    return Decoded(arrays.pop(IMAGE), arrays)


def _digest(about: bytes, mapped: mmap.mmap) -> bytes:
    digest = hashlib.sha256(about)
    with memoryview(mapped) as view, view[:-_DIGEST_BYTES] as content:
        digest.update(content)
    return digest.digest()


def _fill(store: Store, index: Index, split: Split, decoded: Decoded) -> None:
    count = index.num_images[split]
    firsts = np.cumsum([0, *index.counts(split).tolist()])
    if firsts[-1] != count:
        raise DataError(
            f"{store.uri_of(index.manifest.folder)} has shards of {firsts[-1]} {split} images, "
            f"but says {count}; run the shard stage again under another root"
        )

    def read(number: int) -> None:
        shard, first = shard_at(store, index, split, number), int(firsts[number])
        stop = first + shard.num_images
        others = {name: rows[first:stop] for name, rows in decoded.others.items()}
        part = Decoded(decoded.pixels[first:stop], others)
        _read_shard(store, index, shard, split, part)

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        # The list takes every result, which raises the error of a thread.
        list(pool.map(read, range(len(firsts) - 1)))


def _read_shard(store: Store, index: Index, shard: Shard, split: str, decoded: Decoded) -> None:
    """Fill in the members of the images of one shard."""
    file = index.located(shard)
    if file.is_outside:
        _read_outside(file, index, shard, decoded)
        return
    where = store.uri_of(file.key)
    tar = read_shard(store, index, file)
    found, num_files = members(tar, origin=where), 1 + len(index.endings)
    if shard.labels is None:
        _check_files(found, index, shard, split, where)
    else:  # of some of its images: those of another data set, which named them
        found = samples(found, shard, num_files, where=where)
    for name, member in index.members.items():
        rows = decoded.pixels if name == IMAGE else decoded.others[name]
        if name == LABEL and shard.labels is not None:
            given = [b"%d" % label for label in shard.labels]
            rows[:] = member.decode(given, lambda at: f"label {at} of {where}")
            continue
        files = found[index.place_of(name) :: num_files]
        for begin in range(0, shard.num_images, _BLOCK_IMAGES):
            block = files[begin : begin + _BLOCK_IMAGES]
            rows[begin : begin + len(block)] = member.decode(
                [tar[file.offset : file.offset + file.size] for file in block],
                _names(where, [file.name for file in block]),
            )


def _check_files(found: list[File], index: Index, shard: Shard, split: str, where: str) -> None:
    """Raise DataError unless an archive is the images of the shard, each with its other files."""
    keys = [key_of(split, shard.first_number + number) for number in range(shard.num_images)]
    names = [member.name for member in found]
    expected = [f"{key}.{extension}" for key in keys for extension in ("png", *index.endings)]
    num_files = 1 + len(index.endings)
    for at in range(0, min(len(names), len(expected)), num_files):
        extension = names[at].rpartition(".")[2]
        if extension in IMAGE_ENDINGS:
            expected[at] = f"{keys[at // num_files]}.{extension}"
    places = [(member.offset, member.size) for member in found[::num_files]]
    if names != expected or places != list(zip(shard.offsets, shard.sizes, strict=True)):
        raise DataError(
            f"{where} does not hold {expected[0]} to {expected[-1]} where the index says, in that "
            "order and nothing else; shard under another root"
        )


def _names(where: str, names: list[str]) -> Callable[[int], str]:
    return lambda number: f"{where}: {names[number]}"
