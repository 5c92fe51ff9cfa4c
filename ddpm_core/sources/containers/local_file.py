"""One file on this machine, read at random by any number of processes and threads."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import final

from ddpm_core.errors import DataError, StorageError
from ddpm_core.images.names import shown
from ddpm_core.sources.containers.marks import FileMark, of_file

_AHEAD_BYTES = 2**18
_GAP_BYTES = 2**13
"""of a part, and from one part to the next: beyond, a read of its own costs less"""


@final
class Descriptor:
    """Of a path: opened when it is first used, and again after a fork; closed when forgotten."""

    def __init__(self, path: Path, flags: int = 0) -> None:
        self._path, self._flags = path, os.O_RDONLY | os.O_CLOEXEC | flags
        self._opened: tuple[int, int] | None = None

    def number(self) -> int:
        """Return the descriptor, of this process.

        Raises:
            OSError: the path cannot be opened.
        """
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), os.open(self._path, self._flags))
        return self._opened[1]

    def close(self) -> None:
        if self._opened is not None and self._opened[0] == os.getpid():
            os.close(self._opened[1])
        self._opened = None

    __del__ = close


@final
class LocalFile:
    """A file that is read at random, or from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = Descriptor(path)

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Return up to `num_bytes` from `offset` on; fewer only where the file ends.

        Raises:
            DataError: it is gone, or no regular file.
            StorageError: it cannot be read.
        """
        try:
            pieces = []
            while num_bytes and (piece := os.pread(self._descriptor.number(), num_bytes, offset)):
                pieces.append(piece)
                offset += len(piece)
                num_bytes -= len(piece)
        except OSError as error:
            raise self._problem(error) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @contextmanager
    def opened(self) -> Iterator[BufferedReader]:
        """Give the file, to be read from its beginning.

        Raises:
            DataError: it is gone, or no regular file.
            StorageError: for every other OSError inside.
        """
        try:
            with self._path.open("rb") as file:
                yield file
        except OSError as error:
            raise self._problem(error) from None

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file."""
        with self.opened() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def mark(self, identities: Mapping[str, str]) -> FileMark:
        """Return what shows that the file has changed, as it is now; see `marks.of_file`.

        Raises:
            DataError: it is gone.
            StorageError: it cannot be looked at.
        """
        try:
            return of_file(self._path, identities)
        except OSError as error:
            raise self._problem(error) from None

    def close(self) -> None:
        self._descriptor.close()

    def _problem(self, error: OSError) -> DataError | StorageError:
        place = shown(str(self._path))
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return DataError(f"{place} is missing or no file; fetch it, or mend data.source")
        return StorageError(f"cannot read {place}: {error.strerror}; mend that, run again")


@final
class ReadAhead:
    """Small parts of a file that follow each other, many with one read; others one by one.

    What was read ahead is of then: whoever needs to know whether the file has changed meanwhile
    compares its marks. Threads may read at once.
    """

    def __init__(self, file: LocalFile) -> None:
        self._file = file
        self._there = (0, b"")  # from which byte on, and what: exchanged as one
        self._end = -_GAP_BYTES - 1  # nothing was read before

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Return what `LocalFile.read_at` does."""
        start, data = self._there
        begin = offset - start
        is_next = 0 <= offset - self._end <= _GAP_BYTES and num_bytes <= _GAP_BYTES
        self._end = offset + num_bytes
        if 0 <= begin <= len(data) - num_bytes:
            return data[begin : begin + num_bytes]
        if not is_next:
            return self._file.read_at(offset, num_bytes)
        data = self._file.read_at(offset, _AHEAD_BYTES)
        self._there = (offset, data)
        return data[:num_bytes]

    def forget(self) -> None:
        """Read anew from now on."""
        self._there, self._end = (0, b""), -_GAP_BYTES - 1
