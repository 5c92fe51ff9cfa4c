"""Images in memory, before they are shards; and how files from outside are read into them."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError

MAX_IMAGES = 2**17
"""More than the files of these data sets hold; bounds what a header can make us allocate."""
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class RawImages:
    """One split of a data set."""

    images_u8: NDArray[Any]
    """(N, height, width, channels), 0..255; of 16 bits uint16"""
    labels: NDArray[np.int64]
    """(N,) class of each image"""
    name: str
    """of the split: train or test"""
    captions: tuple[tuple[str, ...], ...] | None = None
    """(N) of each image; None: they come without"""

    def __len__(self) -> int:
        return len(self.labels)


def read_bounded(path: Path, num_bytes: int) -> bytes:
    """Return the first `num_bytes` of a file and one more if there is one; unpack a .gz.

    Memory is bounded by the request and by the length of the file: a read of n bytes would
    allocate n at once.

    Raises:
        DataError: it is no regular file, cannot be read, or its gzip is damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing or no regular file; fetch it, or mend data.source")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as source:
            content = bytearray()
            while chunk := source.read(min(_CHUNK_BYTES, num_bytes + 1 - len(content))):
                content += chunk
            return bytes(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again") from None


def check_labels(labels: NDArray[np.uint8], num_classes: int, path: Path) -> NDArray[np.int64]:
    """Return the labels as integers.

    Raises:
        DataError: one of them is no class.
    """
    if labels.size and labels.max() >= num_classes:
        where = int(labels.argmax())
        raise DataError(
            f"{path} gives image {where} the label {labels[where]}; labels must be "
            f"0..{num_classes - 1}. Fetch the file again"
        )
    return labels.astype(np.int64)
