"""CIFAR-10 in its binary version, or its "python version", which is read without unpickling.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009); the formats
are described at https://www.cs.toronto.edu/~kriz/cifar.html. Binary: per image one byte of label,
then 1024 bytes each of red, green and blue, row by row. Python: a dictionary with an array `data`
of such rows without their labels, and a list `labels`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.shards.tar import members
from ddpm_core.sources.download import RemoteFile
from ddpm_core.sources.pickled_arrays import read_pickled_arrays
from ddpm_core.sources.raw_images import MAX_IMAGES, RawImages, check_labels, read_bounded

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_ARCHIVE = "cifar-10-binary.tar.gz"
_PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
_FOLDERS = {".bin": "cifar-10-batches-bin", "": "cifar-10-batches-py"}
"""suffix of the version's files -> the folder that unpacking makes"""
_FILES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_SIDE, _CHANNELS = 32, 3
_RECORD_BYTES = 1 + _CHANNELS * _SIDE * _SIDE
_MAX_ARCHIVE_BYTES = 2**28
_REMEDY = (
    f"data.source must be a folder with {_ARCHIVE} or {_PYTHON_ARCHIVE}, or with the files "
    "unpacked from one of them (data_batch_1.bin or data_batch_1, ...), or 'default' to download it"
)

PUBLISHED = (
    RemoteFile(
        _ARCHIVE,
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        (f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}",),
    ),
)


def read_folder(source: Path) -> tuple[RawImages, RawImages]:
    """Return (train, test) from a folder with the files of a version or their archive.

    Args:
        source: the archive, or a folder with it, with the unpacked files, or with the folder that
            unpacking makes. Where both versions lie, the binary one is read.

    Raises:
        DataError: a file is missing, or is not what its name says.
    """
    for suffix, unpacked in _FOLDERS.items():
        for folder in (source, source / unpacked):
            if (folder / f"{_FILES['test'][0]}{suffix}").exists():
                return _read(suffix, partial(_from_folder, folder))
    for archive in (source / _ARCHIVE, source / _PYTHON_ARCHIVE) if source.is_dir() else (source,):
        if archive.exists():
            found = _unpacked(archive)
            suffix = ".bin" if any(name.endswith(".bin") for name in found) else ""
            return _read(suffix, partial(_from_archive, archive, found))
    raise DataError(f"{source} holds no CIFAR-10; {_REMEDY}")


def _read(suffix: str, batch: Callable[[str], tuple[Path, bytes]]) -> tuple[RawImages, RawImages]:
    records = _records if suffix else _pickled
    train, test = (
        _split(split, [records(*batch(f"{name}{suffix}")) for name in _FILES[split]])
        for split in ("train", "test")
    )
    return train, test


def _split(name: str, batches: list[RawImages]) -> RawImages:
    return RawImages(
        np.concatenate([batch.images_u8 for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        name,
    )


def _records(path: Path, content: bytes) -> RawImages:
    count, rest = divmod(len(content), _RECORD_BYTES)
    if rest or not 1 <= count <= MAX_IMAGES:
        raise DataError(
            f"{path} has {len(content)} bytes; it must have a positive multiple of "
            f"{_RECORD_BYTES}, one label and a 32x32 colour image each. Fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, _RECORD_BYTES)
    return _images(records[:, 1:], records[:, 0], path)


def _pickled(path: Path, content: bytes) -> RawImages:
    found = read_pickled_arrays(content, str(path))
    rows, labels = found.get(b"data"), found.get(b"labels")
    if (
        not isinstance(rows, np.ndarray)
        or not isinstance(labels, list)
        or rows.shape != (len(labels), _RECORD_BYTES - 1)
        or not 1 <= len(labels) <= MAX_IMAGES
        or not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels)
    ):
        raise DataError(
            f"{path} holds no batch of CIFAR-10: it must have N rows of {_RECORD_BYTES - 1} bytes "
            f"as data and N numbers of 0..{len(CLASSES) - 1} as labels, N >= 1. Fetch it again"
        )
    return _images(rows, np.array(labels, np.uint8), path)


def _images(rows: NDArray[np.uint8], labels: NDArray[np.uint8], path: Path) -> RawImages:
    planes = rows.reshape(len(rows), _CHANNELS, _SIDE, _SIDE)
    classes = check_labels(labels, len(CLASSES), path)
    return RawImages(planes.transpose(0, 2, 3, 1), classes, path.name)


def _from_folder(folder: Path, name: str) -> tuple[Path, bytes]:
    path = folder / name
    # One byte over the bound is no multiple of a record, and the end of no pickle.
    return path, read_bounded(path, MAX_IMAGES * _RECORD_BYTES)


def _unpacked(archive: Path) -> dict[str, bytes]:
    """Return the files of the archive by their plain names."""
    if not archive.name.endswith(".tar.gz"):
        raise DataError(f"{archive} is neither a folder nor a .tar.gz; {_REMEDY}")
    content = read_bounded(archive, _MAX_ARCHIVE_BYTES)
    if len(content) > _MAX_ARCHIVE_BYTES:
        raise DataError(f"{archive} unpacks to over {_MAX_ARCHIVE_BYTES} bytes; {_REMEDY}")
    found: dict[str, bytes] = {}
    for member in members(content, origin=str(archive), skip_others=True):
        name = member.name.rpartition("/")[2]
        if name in found:
            raise DataError(f"{archive} holds {name} twice; fetch it again")
        found[name] = content[member.offset : member.offset + member.size]
    return found


def _from_archive(archive: Path, batches: dict[str, bytes], name: str) -> tuple[Path, bytes]:
    if name not in batches:
        raise DataError(f"{archive} does not hold {name}; {_REMEDY}")
    return archive / name, batches[name]
