"""The images of a bundle as they come: each data set as a train and a held-out split, in memory."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import numpy as np

from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.extras import folder_of
from ddpm_core.images.resize import resized
from ddpm_core.permutation import keyed_permutation
from ddpm_core.shards.captions import CaptionCounts, file_of
from ddpm_core.shards.index import SPLITS, Split
from ddpm_core.sources import cifar, coloured_digits, fashion_mnist, generated, mnist
from ddpm_core.sources.download import RemoteFile, fetch
from ddpm_core.sources.raw_images import RawImages

_PUBLISHED: dict[str, tuple[RemoteFile, ...]] = {
    "mnist": mnist.PUBLISHED,
    "fashion_mnist": fashion_mnist.PUBLISHED,
    "cifar10": cifar.PUBLISHED,
}
_CLASSES: dict[str, tuple[str, ...]] = {
    "digits": mnist.CLASSES,
    "coloured_digits": coloured_digits.CLASSES,
    "mnist": mnist.CLASSES,
    "fashion_mnist": fashion_mnist.CLASSES,
    "cifar10": cifar.CLASSES,
    "heartbeat": generated.HEARTBEAT_CLASSES,
    "swiss_roll": generated.ROLL_CLASSES,
}
_DIGITS_SPLIT_KEY = b"digits held out:"  # in no configuration: the split is part of the data set


@dataclass(frozen=True)
class Splits:
    """A data set in the size that the network sees: padded, or made small."""

    train: RawImages
    test: RawImages
    classes: tuple[str, ...]
    """what the labels mean"""

    def caption_counts(self) -> dict[Split, CaptionCounts] | None:
        """Return split -> captions of its images; None: they come without."""
        if self.train.captions is None:
            return None
        counts: dict[Split, CaptionCounts] = {split: CaptionCounts() for split in SPLITS}
        for split, images in zip(SPLITS, (self.train, self.test), strict=True):
            for captions in images.captions or ():
                counts[split].add(captions)
        return counts

    def digest(self) -> str:
        """Return the SHA-256 of all pixels, labels and captions, in order."""
        sha256 = hashlib.sha256()
        for images in (self.train, self.test):
            sha256.update(repr(images.images_u8.shape).encode())
            sha256.update(np.ascontiguousarray(images.images_u8).data)
            sha256.update(images.labels.astype("<i8").data)
            for captions in images.captions or ():
                content = file_of(captions)
                sha256.update(b"captions:%d:%b;" % (len(content), content))
        return sha256.hexdigest()


def load_splits(
    data: DataConfig,
    *,
    cache: Path,
    published: Mapping[str, tuple[RemoteFile, ...]] = _PUBLISHED,
) -> Splits:
    """Read the images that `data` names.

    Held out of the training are, for MNIST and CIFAR-10, the first `data.num_test_images` of the
    canonical test split (None: all of it; the training split is never touched); for digits, which
    has no split, images drawn once and for all: the same whatever the seed. Heartbeats and the
    Swiss roll are made, each split by itself.

    Args:
        data: which, from where, and the size that it gets.
        cache: folder for downloads.
        published: what `data.source == "default"` downloads.

    Raises:
        DataError: naming the file, what was found, what must hold, what to do.
        StorageError: a download could not be finished; running again continues.
    """
    match data.name:
        case "digits":
            train, test = _digits(data.num_test_images)
        case "coloured_digits":
            split = _digits(coloured_digits.NUM_TEST_DIGITS)
            train, test = map(coloured_digits.coloured, split)
        case "mnist" | "fashion_mnist":
            train, test = mnist.read_folder(_folder(data, cache, published))
        case "cifar10":
            train, test = cifar.read_folder(_folder(data, cache, published))
        case "heartbeat":
            train, test = generated.heartbeats()
        case "swiss_roll":
            train, test = generated.swiss_roll()
        case "images" | "celebahq" | "lsun_bedroom" | "lsun_church" | "lsun_cat":
            raise ValueError(f"{data.name} is no bundle: see `collection`")
        case _:
            assert_never(data.name)
    if not data.has_captions:
        train, test = (replace(images, captions=None) for images in (train, test))
    test = _sized(_first(test, data), data)
    return Splits(_sized(train, data), test, classes_of(data))


def classes_of(data: DataConfig) -> tuple[str, ...]:
    """Return what the labels of a bundle mean, before any image of it is read."""
    return _CLASSES[data.name]


def published_bytes(data: DataConfig, *, cache: Path) -> int:
    """Return how much `load_splits` would download; 0 if all is here, or comes from elsewhere."""
    if data.source != "default":
        return 0
    files = _PUBLISHED.get(data.name, ())
    missing = [file for file in files if not (cache / data.name / file.name).is_file()]
    return sum(file.num_bytes or 0 for file in missing)


def _folder(data: DataConfig, cache: Path, published: Mapping[str, tuple[RemoteFile, ...]]) -> Path:
    """Return where the files lie, after downloading them if no place is given."""
    if data.source != "default":
        folder = Path(data.source).expanduser()
        if "://" in data.source or not folder.exists():
            raise DataError(
                f"data.source={data.source!r} is no folder on this machine; give one that holds "
                f"the files of {data.name}, or 'default' to download them"
            )
        return folder
    for file in published[data.name]:
        fetch(file, cache / data.name)
    return cache / data.name


def _digits(num_test_images: int | None) -> tuple[RawImages, RawImages]:
    """Return scikit-learn's bundled digits, 0..16 stretched to 0..255; so many are held out.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its
    test set of 1797 images.
    """
    # Its file, not its function: importing it takes a second of a core.
    with gzip.open(folder_of("sklearn") / "datasets/data/digits.csv.gz", "rt") as table:
        rows = np.loadtxt(table, np.uint8, delimiter=",")  # 64 pixels and the class
    images_u8 = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = rows[:, -1].astype(np.int64)
    order = keyed_permutation(_DIGITS_SPLIT_KEY, len(labels), np.arange(len(labels)))
    held_out = np.zeros(len(labels), bool)
    held_out[order[:num_test_images]] = True
    return (
        RawImages(images_u8[~held_out], labels[~held_out], "train"),
        RawImages(images_u8[held_out], labels[held_out], "test"),
    )


def _first(test: RawImages, data: DataConfig) -> RawImages:
    wanted = len(test.labels) if data.num_test_images is None else data.num_test_images
    if wanted > len(test.labels):
        raise DataError(
            f"data.num_test_images={wanted}, but the test split of {data.name} has "
            f"{len(test.labels)} images; give at most that, or None for all of them"
        )
    captions = None if test.captions is None else test.captions[:wanted]
    return RawImages(test.images_u8[:wanted], test.labels[:wanted], test.name, captions)


def _sized(images: RawImages, data: DataConfig) -> RawImages:
    """Put black around the images, an odd rest below and to the right; or make them small, by the
    mean over areas.
    """
    _, height, width, _ = images.images_u8.shape
    if data.height < height or data.width < width:
        size = (data.height, data.width)
        small = np.stack([resized(image, size, "box") for image in images.images_u8])
        return replace(images, images_u8=small)
    rows, columns = data.height - height, data.width - width
    padded = np.pad(
        images.images_u8,
        (
            (0, 0),
            (rows // 2, rows - rows // 2),
            (columns // 2, columns - columns // 2),
            (0, 0),
        ),
    )
    return replace(images, images_u8=padded)
