"""CIFAR-10 in its binary version.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009); the format
is described at https://www.cs.toronto.edu/~kriz/cifar.html: per image one byte of label, then 1024
bytes each of red, green and blue, row by row. Its "python version" holds the same images as
pickles, which are programs, and is refused.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ddpm_core.errors import DataError
from ddpm_core.shards.tar import members
from ddpm_core.sources.download import RemoteFile
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
_FOLDER = "cifar-10-batches-bin"
_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_PICKLES = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1")
_SIDE, _CHANNELS = 32, 3
_RECORD_BYTES = 1 + _CHANNELS * _SIDE * _SIDE
_MAX_ARCHIVE_BYTES = 2**28
_REMEDY = (
    f"data.source must be {_ARCHIVE}, a folder with it or with the files unpacked from it "
    f"({_FILES['train'][0]}, ...), or 'default' to download it"
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
    """Return (train, test) from a folder with the files or their archive.

    Args:
        source: the archive, or a folder with it, with the unpacked files, or with the folder that
            unpacking makes.

    Raises:
        DataError: a file is missing, or is not what its name says.
    """
    for folder in (source, source / _FOLDER):
        if (folder / _FILES["test"][0]).exists():
            return _read(partial(_from_folder, folder))
    archive = source / _ARCHIVE if source.is_dir() else source
    if archive.exists() and archive.name not in _PICKLES:
        return _read(partial(_from_archive, archive, _unpacked(archive)))
    if archive.exists() or any((source / name).exists() for name in _PICKLES):
        (same,) = PUBLISHED
        raise DataError(
            f"{source} is the python version of CIFAR-10, whose files are pickles, which are never "
            f"loaded here. The same images are in {same.name}: {same.urls[0]} "
            f"(SHA-256 {same.sha256}); data.source=default downloads it"
        )
    raise DataError(f"{source} holds no CIFAR-10; {_REMEDY}")


def _read(batch: Callable[[str], tuple[Path, bytes]]) -> tuple[RawImages, RawImages]:
    train, test = (
        _split(split, [_records(*batch(name)) for name in _FILES[split]])
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
    planes = records[:, 1:].reshape(count, _CHANNELS, _SIDE, _SIDE)
    classes = check_labels(records[:, 0], len(CLASSES), path)
    return RawImages(planes.transpose(0, 2, 3, 1), classes, path.name)


def _from_folder(folder: Path, name: str) -> tuple[Path, bytes]:
    path = folder / name
    # One byte over the bound is no multiple of a record.
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
