"""What is stored under a key: bytes, or something as long that gives its bytes block by block."""

import hashlib
from collections.abc import Iterator
from typing import Protocol

BLOCK_BYTES = 32 * 2**20
"""how much of a long file is in memory at once, on its way to the store or back"""


class Content(Protocol):
    """The bytes of a file: `bytes`, or an object that makes a slice of them on access.

    Every slice gives the same bytes each time, and they are read in order, now and then anew.
    """

    def __len__(self) -> int:
        """Return how many bytes it has."""
        ...

    def __getitem__(self, part: slice, /) -> bytes:
        """Return the bytes of a slice of step 1."""
        ...


def blocks_of(data: Content) -> Iterator[bytes | memoryview]:
    """Yield all bytes in order, in blocks; those of `bytes` are not copied."""
    whole = memoryview(data) if isinstance(data, bytes) else data
    for start in range(0, len(whole), BLOCK_BYTES):
        yield whole[start : start + BLOCK_BYTES]


def sha256_of(data: Content) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for block in blocks_of(data):
        digest.update(block)
    return digest.hexdigest()
