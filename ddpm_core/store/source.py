"""A long file of a store as a file object: read in blocks, and digested on the way."""

import hashlib
import io
from typing import final

from ddpm_core.store.content import BLOCK_BYTES
from ddpm_core.store.store import Store


@final
class Source(io.RawIOBase):
    """The bytes of a file in order, none behind its expected end, and the digest of all there are.

    Args:
        store: where.
        key: which file.
        num_bytes: how long it should be.
    """

    def __init__(self, store: Store, key: str, num_bytes: int) -> None:
        self._store, self._key, self._num_bytes = store, key, num_bytes
        self._is_over = False
        self.digest = hashlib.sha256()
        """of what was read"""
        self.size = 0
        """how much that is; one byte too many where the file is longer"""

    def readable(self) -> bool:
        """Say yes, for `io.BufferedReader`."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # BufferedReader's
        block = self._next(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def exhaust(self) -> None:
        """Read the rest."""
        while not self._is_over:
            self._next(BLOCK_BYTES)

    def _next(self, num_bytes: int) -> bytes:
        """Return the next bytes; b"" at the end of the file, or where it should end."""
        if self._is_over:
            return b""
        left = self._num_bytes - self.size
        # One byte more than there should be shows a file that is longer.
        wanted = min(num_bytes, BLOCK_BYTES, left + 1)
        block = self._store.read_part(self._key, self.size, wanted)
        self._is_over = len(block) < wanted or len(block) > left
        self.size += len(block)
        self.digest.update(block)
        return block[:left]
