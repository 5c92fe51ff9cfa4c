"""The shards of a split as open local files, each verified when it is first used.

A shard on a local disk is read where it lies; one of a remote store is fetched whole into the
local cache. A process verifies the SHA-256 of the whole file once, and again only if the file is
another one by then. What is read from it later needs no checksums of its own.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError, PipelineError, StorageError
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.outside import changed, is_fetched, open_outside
from ddpm_core.runs import layout
from ddpm_core.shards.index import Index
from ddpm_core.shards.one import Located, Shard
from ddpm_core.store import manifest
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import KeyMissingError, Store

_NUM_FETCHERS = 4
_BLOCK_BYTES = 2**20

Stamp = tuple[int, ...]
"""what of a file changes if somebody changes it"""


@final
class ShardFile:
    """An open shard. Deleted or replaced under its name, it stays what it was; closed when its last
    user is done.
    """

    _names = itertools.count()

    def __init__(self, descriptor: int, where: str) -> None:
        self.descriptor, self.where = descriptor, where
        self.name = next(self._names)
        """unique among all shards that this process ever opens"""

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on; any thread may.

        Raises:
            DataError: if the file ends before.
            StorageError: the disk, or the server behind it, does not give it.
        """
        try:
            data = os.pread(self.descriptor, size, offset)
        except OSError as error:
            raise StorageError(
                f"{self.where} cannot be read: {error.strerror}; mend that, then run again"
            ) from None
        if len(data) != size:
            raise DataError(
                f"{self.where} ends within the {size} bytes at {offset}: it was cut while it was "
                "in use, or its index is of another shard. Make the data set again"
            )
        return data

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Places:
    """Where the files of n images are."""

    files: Sequence[ShardFile]
    which: NDArray[np.int64]
    """(n,) number among `files`"""
    offsets: NDArray[np.int64]
    """(n,) byte at which each begins"""
    sizes: NDArray[np.int64]
    """(n,) bytes"""

    def __len__(self) -> int:
        return len(self.which)

    def part(self, start: int, stop: int) -> "Places":
        """Return those from `start` to `stop` - 1."""
        own = slice(start, stop)
        return Places(self.files, self.which[own], self.offsets[own], self.sizes[own])

    def read(self, number: int) -> bytes:
        """Return the file of an image; raises what `ShardFile.read` does."""
        file = self.files[int(self.which[number])]
        return file.read(int(self.offsets[number]), int(self.sizes[number]))

    def read_all(self) -> list[bytes]:
        """Return all n files; raises what `ShardFile.read` does."""
        rows = zip(self.which.tolist(), self.offsets.tolist(), self.sizes.tolist(), strict=True)
        return [self.files[which].read(offset, size) for which, offset, size in rows]


@final
class ShardFiles:
    """The shards of a split by their number; any thread may ask.

    Args:
        store: where the data set is.
        index: what it should be.
        split: which shards.
        cache: where those of a remote store are kept.
        max_open: how many are open at a time; those used longest ago are closed.
    """

    def __init__(
        self, store: Store, index: Index, split: str, cache: Cache, *, max_open: int
    ) -> None:
        self._store, self._index, self._cache = store, index, cache
        self._split, self._max_open = split, max_open
        # The one used last stands last.
        self._files: dict[int, Future[ShardFile]] = {}
        self._verified: dict[int, Stamp] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(_NUM_FETCHERS, thread_name_prefix="shards")

        # Shards of others lie in one kind of place.
        is_fetched_outside = len(index.counts(split)) and is_fetched(index.located_at(split, 0))
        if self._are_remote or is_fetched_outside:
            largest = np.sort(index.file_bytes(split))[-max_open:]
            folder = store.uri_of(index.manifest.folder)
            cache.require_room(int(largest.sum()), f"keeping {max_open} shards of {folder} open")

    def expect(self, shards: Iterable[int]) -> None:
        """Begin to fetch these, in this order, unless they are there already."""
        for shard in shards:
            self._future(shard)

    def get(self, shard: int) -> ShardFile:
        """Return a shard, as soon as it is here and verified.

        Raises:
            DataError: it is missing, or not what the index says: named, with what was expected.
            StorageError: the store does not answer, or the cache cannot be used.
        """
        return self.get_all([shard])[0]

    def get_all(self, shards: Sequence[int]) -> list[ShardFile]:
        """Return shards, which are fetched and verified beside each other; raises as `get`."""
        begun = [(shard, *self._future(shard)) for shard in shards]
        return [self._result(*one) for one in begun]

    def close(self) -> None:
        """Let go of all, and end the threads."""
        self._files.clear()
        self._pool.shutdown(cancel_futures=True)

    def _result(self, shard: int, future: Future[ShardFile], is_new: bool) -> ShardFile:
        try:
            return future.result()
        except PipelineError:
            if is_new:
                raise
        # It was begun ahead, perhaps while the store was away: what counts is whether it is now.
        return self._future(shard)[0].result()

    @property
    def _are_remote(self) -> bool:
        return self._store.local_path(self._index.manifest.folder) is None

    def _future(self, shard: int) -> tuple[Future[ShardFile], bool]:
        """Return a shard, and whether this call began it: the first, or after one that failed."""
        with self._lock:
            found = self._files.pop(shard, None)
            is_new = found is None or (found.done() and found.exception() is not None)
            if found is None or is_new:
                found = self._pool.submit(self._open, shard)
            self._files[shard] = found
            if len(self._files) > self._max_open:
                # Readers, and threads that wait for it, keep it open until they are done.
                del self._files[next(iter(self._files))]
            return found, is_new

    def _open(self, number: int) -> ShardFile:
        file = self._index.located_at(self._split, number)
        if file.is_outside:
            return self._open_outside(number, file)
        path, where = self._store.local_path(file.key), self._store.uri_of(file.key)
        if path is None:
            # Named by its content: whatever data set it belongs to, it is the same.
            descriptor = self._cache.open(
                f"shard-{file.sha256}.tar",
                make=lambda descriptor: self._fetch(number, file, descriptor),
                is_sound=lambda descriptor: self._is_sound(number, file, descriptor),
            )
            return ShardFile(descriptor, where)
        for _ in range(2):
            try:
                found = ShardFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), where)
                if self._is_sound(number, file, found.descriptor):
                    return found
            except OSError:  # gone, or not readable
                pass
            # It says what is wrong, and is right if that was only for a moment.
            read_shard(self._store, self._index, file)
        raise DataError(f"{where} changes while it is read; see to this storage, then run again")

    def _open_outside(self, number: int, file: Located) -> ShardFile:
        found = ShardFile(open_outside(file, self._cache), file.key)
        # Once in a process, as of shards of our own.
        is_pinned = file.sha256 is None or is_fetched(file)
        if not is_pinned and not self._is_sound(number, file, found.descriptor):
            raise changed(file)
        return found

    def _fetch(self, number: int, file: Located, descriptor: int) -> None:
        """Fill a file of the cache; where all is well, the bytes are hashed once: as they lie."""
        with suppress(KeyMissingError):
            _write(descriptor, self._store.read(file.key, at_most=file.size, checked=False))
        # These bytes were not verified, and a deleted file's inode may be the new one's.
        self._verified.pop(number, None)
        if not self._is_sound(number, file, descriptor):
            data = read_shard(self._store, self._index, file)  # looks again, and knows what to say
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            _write(descriptor, data)

    def _is_sound(self, number: int, file: Located, descriptor: int) -> bool:
        stat = os.fstat(descriptor)
        stamp: Stamp = (stat.st_ino, stat.st_size)
        if not self._are_remote or file.is_outside:
            # The cache sets the times of its files at every opening, and never writes into one.
            stamp += (stat.st_mtime_ns, stat.st_ctime_ns)
        if self._verified.get(number) == stamp:
            return True
        if stat.st_size != file.size or _sha256(descriptor, file.size) != file.sha256:
            return False
        self._verified[number] = stamp
        return True


def read_shard(store: Store, index: Index, file: Located) -> bytes:
    """Return the bytes of a shard, verified.

    Raises:
        DataError: it is missing, or not what the index says; the index is set aside.
        StorageError: the storage does not answer.
    """
    try:
        return file.read(store)
    except DamagedError as error:
        raise damaged(store, index, error) from None


def shard_at(store: Store, index: Index, split: str, number: int) -> Shard:
    """Return shard `number` of a split, with its part of an index in parts.

    Raises:
        DataError: the part is missing, or not what the index says; the index is set aside.
        StorageError: the storage does not answer.
    """
    try:
        return index.shards[split][number]
    except DamagedError as error:
        raise damaged(store, index, error) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{store.uri_of(index.manifest.folder)}: the part of shard {number} of {split} is no "
            f"part of an index of this program: {error}. Delete its index.json, and run the shard "
            "stage again"
        ) from None


def damaged(store: Store, index: Index, error: DamagedError) -> DataError:
    """Return the error of a shard that is not what its index says, after setting the index aside.

    The shard stage, which looks at lengths only, would find the data set whole, and the next stage
    the same damage again.
    """
    manifest.quarantine(store, index.manifest.folder, str(error), name=layout.DATASET_INDEX)
    return DataError(
        f"{error}: the shard stage. The data set is set aside until then; if you restore the file, "
        "also delete index.quarantined.json beside it"
    )


def _sha256(descriptor: int, size: int) -> str:
    digest = hashlib.sha256()
    for at in range(0, size, _BLOCK_BYTES):
        digest.update(os.pread(descriptor, _BLOCK_BYTES, at))
    return digest.hexdigest()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
