"""Bytes of a mapped file, each block of which is compared with its digest before it is first used.

To hash a file of gigabytes takes seconds, each time that a process opens it; most of them use a
part of it first. What was compared once is used without a further look.
"""

import hashlib
from collections.abc import Callable, Iterable
from threading import Lock
from typing import final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import StorageError

BLOCK_BYTES = 2**18
"""small, so that a first batch of random images does not need most of the file"""
DIGEST_BYTES = 32


def num_blocks(num_bytes: int) -> int:
    """Return how many blocks, and so digests, so many bytes have."""
    return -(-num_bytes // BLOCK_BYTES)


def digests_of(content: memoryview, blocks: Iterable[int]) -> bytes:
    """Return the SHA-256 of these blocks, one after the other."""
    starts = [block * BLOCK_BYTES for block in blocks]
    return b"".join(
        hashlib.sha256(content[start : start + BLOCK_BYTES]).digest() for start in starts
    )


@final
class CheckedBlocks:
    """Which blocks of some bytes were compared with their digests; any thread may ask.

    Args:
        content: the bytes, mapped privately.
        digests: of all blocks, trusted.
        mend: called with the first and the last byte + 1 of a block that is not what it was; puts
            the right bytes in their place.
    """

    def __init__(
        self, content: memoryview, digests: bytes, mend: Callable[[int, int], None]
    ) -> None:
        self._content, self._digests, self._mend = content, digests, mend
        self._is_left = np.ones(num_blocks(len(content)), np.bool_)
        self._num_left, self._lock = len(self._is_left), Lock()

    def require(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> None:
        """Make sure of the blocks in which each (n,) of these stretches of bytes lies.

        Args:
            first: its first byte.
            last: its last byte; of equal length all.

        Raises:
            StorageError: a block was mended, and still is not what it was.
        """
        if not self._num_left or not len(first):
            return
        begin, end = first // BLOCK_BYTES, last // BLOCK_BYTES
        wanted = np.zeros(len(self._is_left), np.bool_)
        for step in range(int((end - begin).max()) + 1):
            wanted[np.minimum(begin + step, end)] = True
        todo = np.flatnonzero(wanted & self._is_left).tolist()
        for block in todo:
            if not self._is_sound(block):
                self._made_good(block)
            # Others may do the same at the same time, and find the same.
            self._is_left[block] = False
        if todo:
            self._num_left = int(self._is_left.sum())

    def _made_good(self, block: int) -> None:
        with self._lock:
            if self._is_sound(block):  # another thread was first
                return
            start = block * BLOCK_BYTES
            self._mend(start, min(start + BLOCK_BYTES, len(self._content)))
            if not self._is_sound(block):
                raise StorageError(
                    "a decoded image is another one each time that it is decoded: the memory of "
                    "this machine, or its decoder, is not to be trusted. Run again on another"
                )

    def _is_sound(self, block: int) -> bool:
        at = block * DIGEST_BYTES
        return digests_of(self._content, (block,)) == self._digests[at : at + DIGEST_BYTES]
