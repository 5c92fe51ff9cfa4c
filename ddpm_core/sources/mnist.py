"""MNIST in its IDX files, gzipped or not.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits"; the
format is described there. The first bytes of a file are 0, 0, 8 (for unsigned bytes) and the
number of dimensions, then each dimension as a big-endian 32-bit number, then the values.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.sources.download import RemoteFile
from ddpm_core.sources.raw_images import MAX_IMAGES, RawImages, check_labels, read_bounded

CLASSES = tuple(str(digit) for digit in range(10))
_SIDE = 28
_PREFIXES = {"train": "train", "test": "t10k"}
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def _published(name: str, num_bytes: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, num_bytes, sha256, tuple(mirror + name for mirror in _MIRRORS))


PUBLISHED = (
    _published(
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    _published(
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    _published(
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    _published(
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)


def read_folder(folder: Path) -> tuple[RawImages, RawImages]:
    """Return (train, test) from the four files; a file without .gz goes before one with it.

    Those of Fashion-MNIST have the same names and format.

    Only the format is checked, not the digest: mirrors compress anew.

    Raises:
        DataError: a file is missing, or is not what its name says.
    """
    train, test = (_read_split(folder, split) for split in ("train", "test"))
    return train, test


def _read_split(folder: Path, split: str) -> RawImages:
    images_path = _find(folder, f"{_PREFIXES[split]}-images-idx3-ubyte")
    labels_path = _find(folder, f"{_PREFIXES[split]}-labels-idx1-ubyte")
    images_u8 = _read_idx(images_path, (_SIDE, _SIDE))
    labels = check_labels(_read_idx(labels_path, ()), len(CLASSES), labels_path)
    if len(images_u8) != len(labels):
        raise DataError(
            f"{images_path} has {len(images_u8)} images, {labels_path.name} {len(labels)} labels; "
            "they must be as many. Fetch both files from one place"
        )
    return RawImages(images_u8[..., np.newaxis], labels, split)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise DataError(
        f"{folder} has no {name} and no {name}.gz; data.source must be a folder with the four "
        "files of MNIST or Fashion-MNIST, or 'default' to download them"
    )


def _read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return (N, *shape) unsigned bytes."""
    header = struct.Struct(f">{2 + len(shape)}I")
    start = read_bounded(path, header.size)
    if len(start) < header.size:
        raise DataError(f"{path} has {len(start)} bytes, not even a header; fetch it again")
    magic, count, *sides = header.unpack_from(start)
    expected = (0x800 + 1 + len(shape), *shape)
    if (magic, *sides) != expected or not 1 <= count <= MAX_IMAGES:
        raise DataError(
            f"{path} begins with {(magic, count, *sides)}; an IDX file of its name begins with "
            f"{(expected[0], 'N', *shape)}, N in 1..{MAX_IMAGES}. Fetch the file again"
        )
    size = header.size + count * int(np.prod(shape))
    content = read_bounded(path, size)
    if len(content) != size:
        more = "more" if len(content) > size else f"{len(content)}"
        raise DataError(
            f"{path} must have {size} bytes for {count} entries, but has {more}. "
            "Fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header.size).reshape(count, *shape)
