"""A small split, decoded from its shards into memory that all processes of a machine map.

Shards are read and their digests compared by threads; what is left to do then depends on the files.
PNGs of this program have the same length and their pixels as they are: they are copied out of a
whole shard at once. Many others are decoded by processes, few of them here.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images import png
from ddpm_core.images.shaped import Unusable
from ddpm_core.loading.decode_pool import DecodePool
from ddpm_core.loading.outside import open_verified
from ddpm_core.loading.shard_files import Places, ShardFile, read_shard, shard_at
from ddpm_core.progress import Progress
from ddpm_core.shards.columns import Column, columns
from ddpm_core.shards.index import Index, Shard, Split, key_of
from ddpm_core.shards.members import IMAGE_ENDINGS, LABEL, ImageMember, OtherMember
from ddpm_core.shards.one import Located
from ddpm_core.shards.samples import samples
from ddpm_core.shards.tar import Member as File
from ddpm_core.shards.tar import members
from ddpm_core.store.storage import Store

_MAX_THREADS = 16
_BLOCK_IMAGES = 256  # decoded at once
_POOL_BYTES = 2**25  # of pixels that the processes are given at once
_MANY = 2**12  # images for which it pays to start processes that decode
_SHOW_EVERY_S = 2.0
_SHORT = 7  # bytes of files of which equal ones are read once: they and their length fit a number


@dataclass(frozen=True)
class Rows:
    """A split, or a part of it, in memory."""

    pixels: NDArray[Any]
    """(N, channels, height, width)"""
    others: Mapping[str, NDArray[Any]]
    """the other members by name, (N, ...) each"""

    def part(self, start: int, stop: int) -> "Rows":
        """Return rows `start` to `stop` - 1, not copied."""
        others = {name: rows[start:stop] for name, rows in self.others.items()}
        return Rows(self.pixels[start:stop], others)


@dataclass(frozen=True)
class Work:
    """How a split is decoded."""

    num_cores: int = 1
    """threads, and processes where many files have to be decoded"""
    stage: str | None = None
    """whose progress it is; None: no line is shown"""
    go_on: Callable[[], None] = lambda: None
    """called between shards; what it raises ends the work"""


def fill(store: Store, index: Index, split: Split, rows: Rows, work: Work) -> None:
    """Decode all images of a split, and the members that they come with, into `rows`.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found.
    """
    count = index.num_images[split]
    firsts = np.cumsum([0, *index.counts(split).tolist()]).tolist()
    if firsts[-1] != count:
        raise DataError(
            f"{store.uri_of(index.manifest.folder)} has shards of {firsts[-1]} {split} images, "
            f"but says {count}; run the shard stage again under another root"
        )
    shown = _Shown(work.stage, count)
    threads = min(max(2, work.num_cores), _MAX_THREADS)
    # Of the whole split: of a part of it, or by the order of threads, it would be by chance.
    unusable = Unusable(count)
    with _pool(index, count, min(work.num_cores, _MAX_THREADS), unusable) as pool:
        decoding = _Decoding(index.image, pool, unusable)

        def read(number: int) -> None:
            work.go_on()
            shard = shard_at(store, index, split, number)
            part = rows.part(firsts[number], firsts[number] + shard.num_images)
            _read_shard(store, index, shard, split, part, decoding)
            shown.add(shard.num_images)

        with ThreadPoolExecutor(threads, thread_name_prefix="fill") as executor:
            try:
                # The list takes every result, which raises the error of a thread.
                list(executor.map(read, range(len(firsts) - 1)))
            finally:
                executor.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Decoding:
    """What decodes the images that are not copied."""

    image: ImageMember
    pool: DecodePool | None
    """None: this process does"""
    unusable: Unusable

    def here(self, files: list[bytes], origin: Callable[[int], str]) -> NDArray[Any]:
        """Return their pixels, decoded by this thread."""
        return self.image.decode(files, origin, self.unusable)


def _pool(
    index: Index, count: int, num_processes: int, unusable: Unusable
) -> AbstractContextManager[DecodePool | None]:
    """Return processes that decode, in a context that ends them; None where they are not needed."""
    needs = index.image.file_bytes is None and index.image.dtype == "uint8" and count >= _MANY
    channels, height, width = index.shape
    if not needs:
        return nullcontext()
    shape = (height, width, channels)
    # Of each shard there is a copy in memory, as long as a process has it open.
    return closing(DecodePool(num_processes, shape, index.image.cut, unusable, num_known=1))


class _Shown:
    """Shows now and then how many images are there; any thread may add."""

    def __init__(self, stage: str | None, total: int) -> None:
        self._stage, self._total, self._done, self._lock = stage, total, 0, Lock()
        self._begun_s = self._shown_s = time.monotonic()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            # Of what takes less than that no line is shown.
            if self._stage is None or now - self._shown_s < _SHOW_EVERY_S:
                return
            self._shown_s = now
            rate = self._done / (now - self._begun_s)
            note = f"decoded once for this machine, {rate:,.0f} images/s"
            Progress(self._stage, self._done, self._total, "images", note).show()


def _read_shard(
    store: Store, index: Index, shard: Shard, split: str, rows: Rows, decoding: _Decoding
) -> None:
    """Fill in the members of the images of one shard."""
    file = index.located(shard)
    if file.is_outside:
        _read_outside(file, shard, rows, decoding)
        return
    where = store.uri_of(file.key)
    tar = read_shard(store, index, file)
    archive = np.frombuffer(tar, np.uint8)
    found = columns(archive, shard, split, index.endings)
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
    images = found[0]
    if index.image.file_bytes is not None and _copied(archive, images, index, rows):
        return
    if decoding.pool is not None:
        _decode_by_processes(_in_memory(tar), images, decoding.pool, rows.pixels, key)
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
    files = images.rows(archive, size)
    if not all(png.checksums_fit(file.data) for file in files):
        return False
    pixels, fits = png.decode_stored(files, shape, index.image.dtype)
    if not fits.all():
        return False
    rows.pixels[:] = pixels.transpose(0, 3, 1, 2)
    return True


def _read_outside(file: Located, shard: Shard, rows: Rows, decoding: _Decoding) -> None:
    """Fill in the images of a shard that others put where it lies; the index has the classes."""
    opened = ShardFile(open_verified(file), file.key)
    rows.others[LABEL][:] = shard.labels
    images = Column(np.array(shard.offsets, np.int64), np.array(shard.sizes, np.int64))

    def origin(number: int) -> str:
        return f"{file.key}: the image at byte {shard.offsets[number]}"

    if decoding.pool is not None:
        _decode_by_processes(opened, images, decoding.pool, rows.pixels, origin)
        return
    places = list(zip(shard.offsets, shard.sizes, strict=True))
    for begin in range(0, len(places), _BLOCK_IMAGES):
        block = places[begin : begin + _BLOCK_IMAGES]
        rows.pixels[begin : begin + len(block)] = decoding.here(
            [opened.read(offset, size) for offset, size in block], _from(origin, begin)
        )


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
    found, num_files = members(tar, origin=where), 1 + len(index.endings)
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


def _of_member(name: str, key: Callable[[int], str]) -> Callable[[int], str]:
    return lambda number: f"the {name} of {key(number)}"


def _from(origin: Callable[[int], str], first: int) -> Callable[[int], str]:
    return lambda number: origin(first + number)
