"""The index of a data set: what its shards hold, where in them, and what is known of the images.

datasets/mnist-<fingerprint>/
train-000000.tar      train-00000000.png, .cls, .json, train-00000001.png, ...
train-000000.json     what is known of this shard; written after it, read when a killed
sharding goes on
test-000000.tar ...
train-first.png       the first images, for people
index.json            committed last: without it the rest does not exist
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ddpm_core import layout, manifest
from ddpm_core.canonical import fingerprint
from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.manifest import DamagedError, Manifest
from ddpm_core.storage import Store

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Shard:
    """One tar of a data set."""

    name: str
    num_images: int
    first_number: int
    """of its images, which are numbered on from there; what was left out leaves a gap behind"""
    offsets: tuple[int, ...]
    """byte at which each image's file begins"""
    sizes: tuple[int, ...]
    """bytes of each image's file"""

    @property
    def role(self) -> str:
        """Its role in the manifest."""
        return self.name.removesuffix(".tar")


@dataclass(frozen=True)
class Rejected:
    """A file of the source that was left out."""

    key: str
    """its name at the source"""
    reason: str
    num_bytes: int


@dataclass(frozen=True)
class Index:
    """What index.json says of a data set."""

    manifest: Manifest
    fingerprint: str
    shape: tuple[int, int, int]
    """(channels, height, width) of every image"""
    classes: tuple[str, ...]
    """what label 0, 1, ... means"""
    num_images: Mapping[str, int]
    """split -> images"""
    class_counts: Mapping[str, tuple[int, ...]]
    """split -> images of each class"""
    mean: tuple[float, ...]
    """of the training images, per channel, pixels in 0..255"""
    std: tuple[float, ...]
    """of the training images, per channel, pixels in 0..255"""
    png_bytes: int | None
    """length of every image's file, if all are PNGs of `png.encode`; else None"""
    shards: Mapping[str, tuple[Shard, ...]]
    """split -> its shards, in order"""
    rejected: tuple[Rejected, ...]
    """files of the source that were left out"""


def key_of(split: str, number: int) -> str:
    """Return what WebDataset calls image `number` of a split."""
    return f"{split}-{number:08d}"


def dataset_fingerprint(data: DataConfig, images_sha256: str) -> str:
    """Return the SHA-256 of all that determines the bytes of the shards; places do not count.

    Args:
        data: which images, made into what, and cut how.
        images_sha256: digest of the images as they come from the source.
    """
    return fingerprint(
        {
            "data": data.identity(),
            "format_version": FORMAT_VERSION,
            "images_sha256": images_sha256,
        }
    )


def load_index(store: Store, folder: str) -> Index:
    """Return the index of the data set in `folder`.

    Raises:
        DataError: there is none, it is damaged, or another version of this program made it.
    """
    where = store.uri_of(f"{folder}/{layout.DATASET_INDEX}")
    try:
        found = manifest.load(store, folder, name=layout.DATASET_INDEX)
    except DamagedError as error:
        raise DataError(f"{error}. The shard stage, run again, makes it anew") from None
    if found is None:
        raise DataError(f"there is no data set at {where}; run the shard stage first")
    version = found.body.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{where} has format {version!r}, this program reads {FORMAT_VERSION}; use the "
            "version that made it, or shard under another root"
        )
    try:
        return _index(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where} is committed, but no index of this program: {type(error).__name__} {error}. "
            "Delete it and run the shard stage again"
        ) from None


def shard_entry(shard: Shard, png_bytes: int | None) -> dict[str, Any]:
    """Return what index.json says of a shard; sizes that are all the same stand there once."""
    entry = {
        "name": shard.name,
        "num_images": shard.num_images,
        "first_number": shard.first_number,
        "offsets": list(shard.offsets),
    }
    return entry if png_bytes is not None else {**entry, "sizes": list(shard.sizes)}


def _index(found: Manifest) -> Index:
    body = found.body
    channels, height, width = body["shape"]
    png_bytes = body["png_bytes"]
    return Index(
        manifest=found,
        fingerprint=body["fingerprint"],
        shape=(channels, height, width),
        classes=tuple(body["classes"]),
        num_images=dict(body["num_images"]),
        class_counts={split: tuple(counts) for split, counts in body["class_counts"].items()},
        mean=tuple(body["mean"]),
        std=tuple(body["std"]),
        png_bytes=png_bytes,
        shards={
            split: tuple(_shard(shard, png_bytes) for shard in shards)
            for split, shards in body["shards"].items()
        },
        rejected=tuple(Rejected(**one) for one in body["rejected"]),
    )


def _shard(entry: Mapping[str, Any], png_bytes: int | None) -> Shard:
    count = entry["num_images"]
    sizes = entry["sizes"] if png_bytes is None else [png_bytes] * count
    offsets = tuple(entry["offsets"])
    if not len(offsets) == len(sizes) == count:
        raise ValueError(f"{entry['name']}: {count} images, {len(offsets)} offsets")
    return Shard(entry["name"], count, entry["first_number"], offsets, tuple(sizes))
