"""A small split, decoded from its shards into memory that all processes of a machine map.

Shards are read by threads, as many at a time as fit some room; `shard_rows` says what becomes of
each. Many files of other programs are decoded by processes, few of them here.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Condition, Lock
from typing import final

import numpy as np

from ddpm_core.errors import DataError
from ddpm_core.images.shaped import Unusable
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.decode_pool import DecodePool
from ddpm_core.loading.shard_files import ShardFiles, shard_at
from ddpm_core.loading.shard_rows import Decoding, Rows, read_rows
from ddpm_core.progress import Progress
from ddpm_core.shards.index import Index, Split
from ddpm_core.store.storage import Store

_MAX_THREADS = 16
_MANY = 2**12  # images for which it pays to start processes that decode
_ROOM_BYTES = 2**30
"""of shards that are held at a time; a larger one is held alone"""
_NUM_COPIES = 2  # of a shard: what was read, and what processes are given to read
_SHOW_EVERY_S = 2.0


@dataclass(frozen=True)
class Work:
    """How a split is decoded."""

    num_cores: int = 1
    """threads, and processes where many files have to be decoded"""
    stage: str | None = None
    """whose progress it is; None: no line is shown"""
    go_on: Callable[[], None] = lambda: None
    """called between shards; what it raises ends the work"""
    cache: Cache | None = None
    """where shards that lie elsewhere are kept, for whoever reads them meanwhile; None: each is
    fetched for this alone"""


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
    num_bytes, room = index.file_bytes(split).tolist(), _Room(_ROOM_BYTES)
    with (
        _pool(index, count, min(work.num_cores, _MAX_THREADS), unusable) as pool,
        _kept(store, index, split, work.cache, threads) as kept,
    ):
        decoding = Decoding(index.image, pool, unusable)

        def read(number: int) -> None:
            # Files of others are read out of theirs, block by block.
            is_held = not index.located_at(split, number).is_outside
            with room.of(is_held * _NUM_COPIES * num_bytes[number]):
                work.go_on()
                shard = shard_at(store, index, split, number)
                part = rows.part(firsts[number], firsts[number] + shard.num_images)
                opened = None if kept is None else kept.get(number)
                read_rows(store, index, shard, split, part, decoding, opened)
                shown.add(shard.num_images)

        with ThreadPoolExecutor(threads, thread_name_prefix="fill") as executor:
            try:
                # The list takes every result, which raises the error of a thread.
                list(executor.map(read, range(len(firsts) - 1)))
            finally:
                executor.shutdown(cancel_futures=True)


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


def _kept(
    store: Store, index: Index, split: Split, cache: Cache | None, max_open: int
) -> AbstractContextManager[ShardFiles | None]:
    """Return the shards in the local cache, in a context that closes them; None without one."""
    if cache is None:
        return nullcontext()
    return closing(ShardFiles(store, index, split, cache, max_open=max_open))


@final
class _Room:
    """Bytes that threads may hold together."""

    def __init__(self, num_bytes: int) -> None:
        self._total = self._left = num_bytes
        self._change = Condition()

    @contextmanager
    def of(self, num_bytes: int) -> Iterator[None]:
        """Hold so many, as soon as they are free; of more than there are, all."""
        wanted = min(num_bytes, self._total)
        with self._change:
            self._change.wait_for(lambda: wanted <= self._left)
            self._left -= wanted
        try:
            yield
        finally:
            with self._change:
                self._left += wanted
                self._change.notify_all()


@final
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
