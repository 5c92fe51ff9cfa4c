"""A tar archive, read where it lies: its headers once, its files at random, never unpacked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images.names import checked_name
from ddpm_core.shards.tar import BLOCK_BYTES, check_header
from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.container import (
    Container,
    Entry,
    PassedOver,
    changed,
    refuse_large,
)
from ddpm_core.sources.containers.local_file import LocalFile, ReadAhead
from ddpm_core.sources.containers.tar_walk import walk


@final
class Tar(Container):
    """The regular files of an uncompressed archive. `Entry.where` is (byte of its content,)."""

    def __init__(self, path: Path, *, uri: str | None = None) -> None:
        """Take the archive at `path`.

        Args:
            path: the uncompressed archive.
            uri: what to call it, if it is another's unpacked copy.
        """
        self.uri = uri or str(path)
        self._path = path
        self._file = LocalFile(path)
        self._ahead = ReadAhead(self._file)
        self._mark = marks.FileMark((0, 0), False)

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        self._mark = self._file.mark(self.identities)
        with self._file.opened() as file:
            for found in walk(file, self.uri):
                name = checked_name(found.raw_name, self.uri)
                if found.problem is not None:
                    passed_over.add(found.problem, name, harmless=False)
                else:
                    yield Entry(name, found.size, (found.offset,))

    def read(self, entry: Entry) -> bytes:
        return self.read_from(entry, entry.where[0])

    def read_from(self, entry: Entry, offset: int) -> bytes:
        """Return the bytes of an entry whose content begins at this byte; else as `read`."""
        refuse_large(self.uri, entry)
        start, num_bytes = offset - BLOCK_BYTES, BLOCK_BYTES + entry.size
        content = self._ahead.read_at(start, num_bytes)
        # A header before it, and nothing cut off: tar keeps no checksum of what it holds.
        if len(content) != num_bytes:
            raise changed(self.uri, entry, "the archive ends before it")
        try:
            check_header(content[:BLOCK_BYTES], start, self.uri)
        except DataError as error:
            raise changed(self.uri, entry, "there is no header before it") from error
        return content[BLOCK_BYTES:]

    def marks_of(self, where: NDArray[np.int64]) -> marks.Marks:
        return marks.of_members(self._mark, len(where))

    def place(self) -> dict[str, Any]:
        return {
            "kind": "tar",
            "path": str(self._path),
            "uri": self.uri,
        }

    def is_here(self) -> bool:
        return self._path.is_file()

    def close(self) -> None:
        self._ahead.forget()
        self._file.close()
