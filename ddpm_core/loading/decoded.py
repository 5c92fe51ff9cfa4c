"""A small split, decoded once on each machine into a file that all its processes map.

    each member, e.g. `label`: (N,) int64, little-endian; the images: (N, channels, height, width)
    the SHA-256 of each block of all before
    digest: SHA-256 of what the file is, and of those digests
    of a data set with captions: (N,) int64, where the captions of each image end, these, and the
    SHA-256 of what the file is and of both

The pages of a mapped file are there once, however many ranks read them. Opening one looks at its
digests and at what comes before the images; a block of images is compared with its digest before
the first image of it is used, and decoded again from the shards if it is not what it was.
"""

import hashlib
import math
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.canonical import canonical_json
from ddpm_core.loading import checked
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.checked import DIGEST_BYTES, CheckedBlocks, digests_of, num_blocks
from ddpm_core.loading.fill import Work, fill
from ddpm_core.loading.shard_files import shard_at
from ddpm_core.loading.shard_rows import Rows
from ddpm_core.shards.caption_rows import CaptionRows
from ddpm_core.shards.index import Index, Split
from ddpm_core.shards.members import IMAGE, Member
from ddpm_core.store import durable
from ddpm_core.store.storage import Store

_FORMAT = 2


class Decoded:
    """A split in memory: a private mapping, so writes are not seen by other processes.

    Args:
        rows: its members.
        blocks: of the bytes in which they lie.
        start: byte at which the images begin.
        captions: of the images; None: they have none.
    """

    def __init__(
        self, rows: Rows, blocks: CheckedBlocks, start: int, captions: CaptionRows | None
    ) -> None:
        self.pixels, self.others = rows.pixels, rows.others
        self.captions = captions
        self._blocks, self._start = blocks, start
        self._image_bytes = rows.pixels[:1].nbytes

    def require(self, numbers: NDArray[np.int64]) -> None:
        """Make sure that these images are what was decoded; before they are looked at.

        Raises:
            PipelineError: they are not, and cannot be decoded again.
        """
        first = self._start + numbers * self._image_bytes
        self._blocks.require(first, first + self._image_bytes - 1)


@dataclass(frozen=True)
class _Layout:
    """Where in the file of a split what lies."""

    index: Index
    split: Split
    about: bytes
    """all that determines it, as JSON"""

    @classmethod
    def of(cls, store: Store, index: Index, split: Split) -> "_Layout":
        return cls(index, split, _about(store, index, split))

    @property
    def name(self) -> str:
        return f"decoded-{hashlib.sha256(self.about).hexdigest()[:32]}-{self.split}.bin"

    @property
    def num_bytes(self) -> int:
        """Of all members, without the digests."""
        count = self.index.num_images[self.split]
        return count * sum(_bytes_of(member) for member in self.index.members.values())

    @property
    def size(self) -> int:
        return self.num_bytes + (num_blocks(self.num_bytes) + 1) * DIGEST_BYTES

    @property
    def has_captions(self) -> bool:
        return self.index.captions is not None

    @property
    def num_images(self) -> int:
        return self.index.num_images[self.split]

    @property
    def start(self) -> int:
        """Byte at which the images begin."""
        return self._start_of(IMAGE)

    def rows(self, mapped: mmap.mmap) -> Rows:
        """Return the members."""
        count, arrays = self.index.num_images[self.split], {}
        for name, member in self.index.members.items():
            size, dtype = count * math.prod(member.shape), np.dtype(member.dtype)
            found = np.frombuffer(mapped, dtype, size, self._start_of(name))
            arrays[name] = found.reshape(count, *member.shape)
        return Rows(arrays.pop(IMAGE), arrays)

    def _start_of(self, wanted: str) -> int:
        """Return where a member begins; the image stands behind all others.

        The longest numbers first: so all begin at a multiple of their length.
        """
        at = 0
        members = self.index.members.items()
        for name, member in sorted(
            members, key=lambda item: (item[0] == IMAGE, -np.dtype(item[1].dtype).itemsize)
        ):
            if name == wanted:
                return at
            at += self.index.num_images[self.split] * _bytes_of(member)
        raise KeyError(wanted)

    def tail(self, captions: CaptionRows) -> bytes:
        """Return what stands behind the digests of the members."""
        content = captions.ends.astype("<i8").tobytes() + bytes(captions.content)
        return content + self.digest(content)

    def captions(self, tail: memoryview) -> CaptionRows:
        """Return what `tail` was made of; not copied."""
        ends = np.frombuffer(tail, "<i8", self.num_images)
        return CaptionRows(tail[ends.nbytes : -DIGEST_BYTES], ends)

    def digest(self, digests: bytes) -> bytes:
        return hashlib.sha256(self.about + digests).digest()


def open_decoded(
    store: Store,
    index: Index,
    split: Split,
    cache: Cache,
    *,
    read: Callable[[NDArray[np.int64]], NDArray[Any]],
    work: Work = Work(),  # noqa: B008 - frozen
) -> Decoded:
    """Return a split from the local cache; made, while the others wait, if it is not there.

    Args:
        store: where the data set is.
        index: what it is.
        split: which part of it.
        cache: where the file lies.
        read: returns images of these numbers, (b, channels, height, width), from the shards.
        work: how it is decoded, if it must be.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found.
        ConfigError: the cache is smaller than the split.
    """
    layout = _Layout.of(store, index, split)
    cache.require_room(layout.size, f"the {split} split of {store.uri_of(index.manifest.folder)}")
    descriptor = cache.open(
        layout.name,
        make=lambda descriptor: _make(store, layout, descriptor, work),
        is_sound=lambda descriptor: _is_sound(layout, descriptor),
        waiting=work.go_on,
    )
    return _mapped(layout, descriptor, cache, read)


def is_decoded(store: Store, index: Index, split: Split, cache: Cache) -> bool:
    """Say whether a split is in the local cache, without a look at what is there."""
    return cache.has(_Layout.of(store, index, split).name)


def decoded_bytes(index: Index, split: str) -> int:
    """Return how many bytes of pixels a split has."""
    return index.num_images[split] * _bytes_of(index.image)


def _make(store: Store, layout: _Layout, descriptor: int, work: Work) -> None:
    # Room first: for a page that a full disk cannot take, the process would be killed.
    try:
        os.posix_fallocate(descriptor, 0, layout.size)
    except OSError as error:
        if error.errno not in durable.FULL:
            raise
        said = f"{os.strerror(error.errno)}: {layout.size} bytes are needed"
        raise OSError(error.errno, said) from None
    # Not closed here: arrays look into it, also from the traceback of an error.
    mapped = mmap.mmap(descriptor, layout.size)
    rows = layout.rows(mapped)
    if layout.has_captions:
        rows = replace(rows, captions=np.full(layout.num_images, b"", np.object_))
    fill(store, layout.index, layout.split, rows, work)
    content = memoryview(mapped)[: layout.num_bytes]
    with ThreadPoolExecutor(work.num_cores, thread_name_prefix="digests") as pool:
        blocks = range(num_blocks(layout.num_bytes))
        digests = b"".join(pool.map(lambda block: digests_of(content, (block,)), blocks))
    mapped[layout.num_bytes :] = digests + layout.digest(digests)
    if rows.captions is not None:
        files = rows.captions.tolist()
        ends = np.cumsum([len(one) for one in files], dtype=np.int64)
        os.lseek(descriptor, layout.size, os.SEEK_SET)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(layout.tail(CaptionRows(b"".join(files), ends)))


def _is_sound(layout: _Layout, descriptor: int) -> bool:
    """Say whether a file is of this split, whole by its length, and undamaged up to its images."""
    size = os.fstat(descriptor).st_size
    if size < layout.size or (size > layout.size) != layout.has_captions:
        return False
    if layout.has_captions:
        tail = os.pread(descriptor, size - layout.size, layout.size)
        if layout.digest(tail[:-DIGEST_BYTES]) != tail[-DIGEST_BYTES:]:
            return False
    with mmap.mmap(descriptor, layout.size, access=mmap.ACCESS_READ) as mapped:
        digests = mapped[layout.num_bytes : -DIGEST_BYTES]
        if mapped[-DIGEST_BYTES:] != layout.digest(digests):
            return False
        before = num_blocks(layout.start)
        with memoryview(mapped) as content, content[: layout.num_bytes] as members:
            found = digests_of(members, range(before))
        return found == digests[: before * DIGEST_BYTES]


def _mapped(
    layout: _Layout,
    descriptor: int,
    cache: Cache,
    read: Callable[[NDArray[np.int64]], NDArray[Any]],
) -> Decoded:
    try:
        # Private, so that torch may take the array for one that can be written to; as long as
        # nobody does, its pages are those of the file.
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
    rows, start = layout.rows(mapped), layout.start

    def mend(begin: int, end: int) -> None:
        cache.discard(layout.name)
        image_bytes = rows.pixels[:1].nbytes
        numbers = np.arange(
            max(0, begin - start) // image_bytes, -(-max(0, end - start) // image_bytes)
        )
        rows.pixels[numbers] = read(numbers)

    content = memoryview(mapped)
    blocks = CheckedBlocks(
        content[: layout.num_bytes],
        bytes(content[layout.num_bytes : layout.size - DIGEST_BYTES]),
        mend,
    )
    captions = layout.captions(content[layout.size :]) if layout.has_captions else None
    return Decoded(rows, blocks, start, captions)


def _bytes_of(member: Member) -> int:
    return math.prod(member.shape) * np.dtype(member.dtype).itemsize


def _about(store: Store, index: Index, split: str) -> bytes:
    """Return all that determines the file, as JSON."""
    places, pins, beside = hashlib.sha256(), [], []
    for number in range(len(index.shards[split])):
        shard = shard_at(store, index, split, number)
        file = index.located(shard)
        pins.append(file.sha256 or file.pin)
        for column in (shard.offsets, shard.sizes):
            places.update(np.array([len(column), *column], "<i8").tobytes())
        # What an index says in the place of a shard's files: mostly nothing.
        if shard.labels is not None or shard.beside:
            beside.append([number, shard.labels, dict(shard.beside)])
    # Only where there are any: what was decoded before is still used.
    captions = {} if index.captions is None else {"captions": index.captions.entry()}
    return canonical_json(
        {
            **captions,
            "beside": beside,
            "block": checked.BLOCK_BYTES,
            "dataset": index.fingerprint,
            "format": _FORMAT,
            "num_images": index.num_images[split],
            "places": places.hexdigest(),
            "shape": list(index.shape),
            "shards": pins,
            "split": split,
        }
    )
