"""The captions of many images in little memory: their files in a row, and where each ends."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_core.shards.captions import file_of


@dataclass(frozen=True, eq=False)
class CaptionRows:
    """The captions of N images."""

    content: bytes | memoryview
    """files as shards have them, one after the other"""
    ends: NDArray[np.int64]
    """(N,) byte at which each ends"""

    @classmethod
    def of(cls, captions: Iterable[Sequence[str]]) -> "CaptionRows":
        """Return those of images in this order."""
        content, ends = bytearray(), []
        for one in captions:
            content += file_of(one)
            ends.append(len(content))
        return cls(bytes(content), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> tuple[str, ...]:
        content = self.file(number)
        return tuple(content.decode().split("\n")) if content else ()

    def file(self, number: int) -> bytes:
        """Return the file of the captions of an image."""
        start = int(self.ends[number - 1]) if number else 0
        return bytes(self.content[start : int(self.ends[number])])

    def chosen(self, numbers: NDArray[np.int64]) -> "CaptionRows":
        """Return those of these images, and nothing that the others take."""
        files = [self.file(int(number)) for number in numbers]
        ends = np.cumsum([len(one) for one in files], dtype=np.int64)
        return CaptionRows(b"".join(files), ends)
