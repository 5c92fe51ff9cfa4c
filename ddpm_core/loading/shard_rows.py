"""The images of one shard and what they come with, as rows of arrays.

The file is whole and its digest was compared; what is left to do depends on what lies in it. PNGs
of this program have the same length and their pixels as they are: they are copied out of it many
at once. Others are decoded, here or by processes.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images import png
from ddpm_core.images.shaped import Unusable
from ddpm_core.loading.decode_pool import DecodePool
from ddpm_core.loading.outside import open_verified
from ddpm_core.loading.shard_files import Places, ShardFile, read_shard
from ddpm_core.shards.captions import file_of
from ddpm_core.shards.columns import Column, columns
from ddpm_core.shards.index import Index, Shard, key_of
from ddpm_core.shards.members import CAPTION, IMAGE_ENDINGS, LABEL, ImageMember, OtherMember
from ddpm_core.shards.one import Located
from ddpm_core.shards.samples import samples
from ddpm_core.shards.tar import Member as File
from ddpm_core.shards.tar import members
from ddpm_core.store.storage import Store

_BLOCK_IMAGES = 256  # decoded at once
_COPIED_BYTES = 2**24  # of files that are copied at once
_POOL_BYTES = 2**25  # of pixels that the processes are given at once
_SHORT = 7  # bytes of files of which equal ones are read once: they and their length fit a number


@dataclass(frozen=True)
class Rows:
    """A split, or a part of it, in memory."""

    pixels: NDArray[Any]
    """(N, channels, height, width)"""
    others: Mapping[str, NDArray[Any]]
    """the other members by name, (N, ...) each"""
    captions: NDArray[np.object_] | None = None
    """(N,) the file of the captions of each, as a shard of ours has it; None: there are none"""

    def part(self, start: int, stop: int) -> "Rows":
        """Return rows `start` to `stop` - 1, not copied."""
        others = {name: rows[start:stop] for name, rows in self.others.items()}
        captions = None if self.captions is None else self.captions[start:stop]
        return Rows(self.pixels[start:stop], others, captions)


@dataclass(frozen=True)
class Decoding:
    """What decodes the images that are not copied."""

    image: ImageMember
    pool: DecodePool | None
    """None: this process does"""
    unusable: Unusable

    def here(self, files: list[bytes], origin: Callable[[int], str]) -> NDArray[Any]:
        """Return their pixels, decoded by this thread."""
        return self.image.decode(files, origin, self.unusable)


def read_rows(
    store: Store,
    index: Index,
    shard: Shard,
    split: str,
    rows: Rows,
    decoding: Decoding,
    opened: ShardFile | None = None,
) -> None:
    """Fill in the members of the images of one shard.

    Args:
        store: where the data set is.
        index: what it is.
        shard: which of its shards.
        split: of which part of it.
        rows: those of the shard.
        decoding: how images are decoded.
        opened: the shard, verified; None: it is read, or fetched, for this.

    Raises:
        DataError: it is missing, has another size or SHA-256 than the index says, or is not what a
            shard is.
    """
    file = index.located(shard)
    if file.is_outside:
        opened = opened or ShardFile(open_verified(file), file.key)
        _read_outside(opened, file, index, shard, rows, decoding)
        return
    where = store.uri_of(file.key)
    tar = read_shard(store, index, file) if opened is None else opened.read(0, file.size)
    archive = np.frombuffer(tar, np.uint8)
    found = columns(archive, shard, split, index.endings_of(shard))
    if found is None:
        found = _columns_slowly(tar, index, shard, split, where)

    def key(number: int) -> str:
        if shard.labels is not None:  # maybe of some of a data set's images
            return f"{where}: the image at byte {shard.offsets[number]}"
        return f"{where}: {key_of(split, shard.first_number + number)}"

    for name, member in index.others.items():
        if name == LABEL and shard.labels is not None:
            given = [b"%d" % label for label in shard.labels]
            rows.others[name][:] = member.decode(given, key)
            continue
        column = found[index.place_of(name)]
        rows.others[name][:] = _other_rows(archive, column, member, _of_member(name, key))
    _read_captions(index, shard, rows, _within(tar), key)
    images = found[0]
    if index.image.file_bytes is not None and _copied(archive, images, index, rows):
        return
    if decoding.pool is not None:
        _decode_by_processes(opened or _in_memory(tar), images, decoding.pool, rows.pixels, key)
        return
    for begin in range(0, shard.num_images, _BLOCK_IMAGES):
        block = slice(begin, begin + _BLOCK_IMAGES)
        files = _files(tar, Column(images.offsets[block], images.sizes[block]))
        rows.pixels[block] = decoding.here(files, _from(key, begin))


def _copied(archive: NDArray[np.uint8], images: Column, index: Index, rows: Rows) -> bool:
    """Copy the pixels of PNGs of `png.encode`; say whether all are such, and undamaged."""
    channels, height, width = index.shape
    shape, size = (height, width, channels), index.image.file_bytes or 0
    if (images.sizes != size).any():
        return False
    at_once = max(1, _COPIED_BYTES // size)
    for begin in range(0, len(images.sizes), at_once):
        own = slice(begin, begin + at_once)
        files = Column(images.offsets[own], images.sizes[own]).rows(archive, size)
        if not all(png.checksums_fit(file.data) for file in files):
            return False
        pixels, fits = png.decode_stored(files, shape, index.image.dtype)
        if not fits.all():
            return False
        rows.pixels[own] = pixels.transpose(0, 3, 1, 2)
    return True


def _read_outside(
    opened: ShardFile, file: Located, index: Index, shard: Shard, rows: Rows, decoding: Decoding
) -> None:
    """Fill in the images of a shard that others put where it lies; the index has the classes."""
    rows.others[LABEL][:] = shard.labels
    images = Column(np.array(shard.offsets, np.int64), np.array(shard.sizes, np.int64))

    def origin(number: int) -> str:
        return f"{file.key}: the image at byte {shard.offsets[number]}"

    _read_captions(index, shard, rows, opened.read, origin)
    if decoding.pool is not None:
        _decode_by_processes(opened, images, decoding.pool, rows.pixels, origin)
        return
    places = list(zip(shard.offsets, shard.sizes, strict=True))
    for begin in range(0, len(places), _BLOCK_IMAGES):
        block = places[begin : begin + _BLOCK_IMAGES]
        rows.pixels[begin : begin + len(block)] = decoding.here(
            [opened.read(offset, size) for offset, size in block], _from(origin, begin)
        )


def _read_captions(
    index: Index,
    shard: Shard,
    rows: Rows,
    read: Callable[[int, int], bytes],
    key: Callable[[int], str],
) -> None:
    """Fill in the captions, if there are any, of a shard out of which `read` reads."""
    member = index.captions
    if rows.captions is None or member is None:
        return
    files = [read(*place) for place in shard.beside.get(CAPTION, ((0, 0),) * shard.num_images)]
    for number, captions in enumerate(member.decode(files, _of_member(CAPTION, key))):
        rows.captions[number] = file_of(captions)


def _within(tar: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: tar[offset : offset + size]


def _in_memory(tar: bytes) -> ShardFile:
    """Return a file of these bytes, which were compared: its own might be another by now."""
    descriptor = os.memfd_create("ddpm-shard")
    with open(os.dup(descriptor), "wb") as stream:  # noqa: PTH123 - of a descriptor
        stream.write(tar)
    return ShardFile(descriptor, "a shard in memory")


def _decode_by_processes(
    file: ShardFile,
    images: Column,
    pool: DecodePool,
    pixels: NDArray[np.uint8],
    origin: Callable[[int], str],
) -> None:
    """Decode the images of an open shard that was verified."""
    count, channels, height, width = pixels.shape
    at_once = max(1, _POOL_BYTES // (channels * height * width))
    for begin in range(0, count, at_once):
        own = slice(begin, min(begin + at_once, count))
        offsets, sizes = images.offsets[own], images.sizes[own]
        out = np.empty((len(offsets), height, width, channels), np.uint8)
        places = Places([file], np.zeros(len(offsets), np.int64), offsets, sizes)
        pool.decode(places, out, origin=_from(origin, begin))
        pixels[own] = out.transpose(0, 3, 1, 2)


def _other_rows(
    archive: NDArray[np.uint8], column: Column, member: OtherMember, origin: Callable[[int], str]
) -> NDArray[Any]:
    """Return what files say; of short ones, as labels are, equal ones are read once."""
    if not len(column.sizes) or column.sizes.max() > _SHORT:
        return member.decode(_files(archive.data, column), origin)
    # With what follows in the block: equal, if it is zeros.
    starts = np.zeros((len(column.sizes), 8), np.uint8)
    starts[:, :_SHORT] = column.rows(archive, _SHORT)
    starts[:, _SHORT] = column.sizes
    _, firsts, which = np.unique(starts.view(np.int64), return_index=True, return_inverse=True)
    distinct = Column(column.offsets[firsts], column.sizes[firsts])
    values = member.decode(_files(archive.data, distinct), lambda at: origin(int(firsts[at])))
    return values[which.ravel()]


def _files(tar: bytes | memoryview, column: Column) -> list[bytes]:
    rows = zip(column.offsets.tolist(), column.sizes.tolist(), strict=True)
    return [bytes(tar[offset : offset + size]) for offset, size in rows]


def _columns_slowly(tar: bytes, index: Index, shard: Shard, split: str, where: str) -> list[Column]:
    """Return the same as `columns`, also of a shard of which the index has some images.

    Raises:
        DataError: the files of the images are not where the index says.
    """
    found, num_files = members(tar, origin=where), 1 + len(index.endings_of(shard))
    if shard.labels is None:
        _check_files(found, index, shard, split, where)
    else:  # of some of its images: those of another data set, which named them
        found = samples(found, shard, num_files, where=where)
    return [
        Column(
            np.array([file.offset for file in found[place::num_files]], np.int64),
            np.array([file.size for file in found[place::num_files]], np.int64),
        )
        for place in range(num_files)
    ]


def _check_files(found: list[File], index: Index, shard: Shard, split: str, where: str) -> None:
    """Raise DataError unless an archive is the images of the shard, each with its other files."""
    keys = [key_of(split, shard.first_number + number) for number in range(shard.num_images)]
    names = [member.name for member in found]
    endings = index.endings_of(shard)
    expected = [f"{key}.{extension}" for key in keys for extension in ("png", *endings)]
    num_files = 1 + len(endings)
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


def _of_member(name: str, key: Callable[[int], str]) -> Callable[[int], str]:
    return lambda number: f"the {name} of {key(number)}"


def _from(origin: Callable[[int], str], first: int) -> Callable[[int], str]:
    return lambda number: origin(first + number)
