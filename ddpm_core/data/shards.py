"""A data set as WebDataset shards: tars whose bytes follow from the images alone, and an index.

    datasets/mnist-<fingerprint>/
      train-000000.tar      train-00000000.png, .cls, .json, train-00000001.png, ...
      test-000000.tar
      train-mean.png        the mean of the training images, for people
      index.json            committed last: without it the rest does not exist

The folder is named by what determines its bytes, so the shards need no names of their content:
whoever writes one writes the same.
"""

import io
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from webdataset import TarWriter

from ddpm_core import layout, manifest
from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import DataConfig
from ddpm_core.data import png
from ddpm_core.data.images import RawImages
from ddpm_core.data.sources import Splits
from ddpm_core.data.tar import members
from ddpm_core.errors import DataError
from ddpm_core.manifest import DamagedError, FileRecord, Manifest
from ddpm_core.storage import Store, sha256_of

Split = Literal["train", "test"]

FORMAT_VERSION = 1
EXTENSIONS = ("png", "cls", "json")
"""The files of one image, in the order in which they stand in a shard."""
_BLOCK_IMAGES = 1000  # counted at once: bounds the memory of the statistics


@dataclass(frozen=True)
class Shard:
    """One tar of a data set."""

    name: str
    num_images: int
    offsets: tuple[int, ...]
    """byte at which each image's file begins"""
    sizes: tuple[int, ...]
    """bytes of each image's file"""

    @property
    def role(self) -> str:
        """Its role in the manifest."""
        return self.name.removesuffix(".tar")


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
    mean: tuple[float, ...]
    """of the training images, per channel, pixels in 0..255"""
    std: tuple[float, ...]
    """of the training images, per channel, pixels in 0..255"""
    png_bytes: int
    """length of every image's PNG: they are not compressed"""
    shards: Mapping[str, tuple[Shard, ...]]
    """split -> its shards, in order"""


def key_of(split: str, number: int) -> str:
    """Return what WebDataset calls image `number` of a split."""
    return f"{split}-{number:08d}"


def dataset_fingerprint(data: DataConfig, source_sha256: str) -> str:
    """Return the SHA-256 of all that determines the bytes of the shards; places do not count.

    Args:
        data: which images, padded and cut how.
        source_sha256: `Splits.digest()`.
    """
    return fingerprint(
        {
            "data": data.model_dump(mode="json", exclude={"source"}),
            "format_version": FORMAT_VERSION,
            "source_sha256": source_sha256,
        }
    )


def shard_dataset(
    store: Store,
    data: DataConfig,
    splits: Splits,
    *,
    num_workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Manifest:
    """Write the data set and commit its index; the same bytes however often and by how many.

    Killed on the way it leaves no index, and the next call makes it whole.

    Args:
        store: where.
        data: images per shard, and the identity of the data set.
        splits: the images, as `load_source` returns them.
        num_workers: shards made and uploaded at once.
        on_progress: told (images done, images in all) at the start and after each shard.

    Returns:
        The committed index.
    """
    source_sha256 = splits.digest()
    folder = layout.dataset_folder(data.name, dataset_fingerprint(data, source_sha256))

    def write(images: RawImages, first: int) -> tuple[FileRecord, Shard]:
        name = f"{images.name}-{first // data.images_per_shard:06d}.tar"
        numbers = range(first, min(first + data.images_per_shard, len(images)))
        tar = _tar(images, numbers, splits.classes)
        offsets, size = _png_offsets(tar, name), png.stored_bytes(images.images_u8.shape[1:])
        shard = Shard(name, len(numbers), offsets, (size,) * len(offsets))
        return _put(store, folder, name, tar), shard

    total, done = len(splits.train) + len(splits.test), 0
    on_progress(done, total)
    pool = ThreadPoolExecutor(num_workers)
    try:
        futures = [
            pool.submit(write, images, first)
            for images in (splits.train, splits.test)
            for first in range(0, len(images), data.images_per_shard)
        ]
        for future in as_completed(futures):
            done += future.result()[1].num_images
            on_progress(done, total)
        written = [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)

    mean_png = png.encode(_mean_image(splits.train))
    files = {shard.role: record for record, shard in written}
    files["train-mean"] = _put(store, folder, "train-mean.png", mean_png)
    body = _body(data, splits, source_sha256, [shard for _, shard in written])
    return manifest.commit(store, folder, files, body, name=layout.DATASET_INDEX)


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


def _index(found: Manifest) -> Index:
    body = found.body
    channels, height, width = body["shape"]
    return Index(
        manifest=found,
        fingerprint=body["fingerprint"],
        shape=(channels, height, width),
        classes=tuple(body["classes"]),
        num_images=dict(body["num_images"]),
        mean=tuple(body["mean"]),
        std=tuple(body["std"]),
        png_bytes=body["png_bytes"],
        shards={
            split: tuple(
                Shard(
                    shard["name"],
                    shard["num_images"],
                    tuple(shard["offsets"]),
                    (body["png_bytes"],) * len(shard["offsets"]),
                )
                for shard in shards
            )
            for split, shards in body["shards"].items()
        },
    )


def _tar(images: RawImages, numbers: range, classes: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    # In memory, so that a shard that fails half way is nowhere: TarWriter, closed by an exception,
    # finishes what it has under the final name. Without mtime=0 it writes the time of day.
    with TarWriter(buffer, user="ddpm", group="ddpm", mtime=0, encoder=False) as writer:
        for number in numbers:
            key, label = key_of(images.name, number), int(images.labels[number])
            about = {
                "class": classes[label],
                "index": number,
                "label": label,
                "split": images.name,
            }
            parts = (
                png.encode(images.images_u8[number]),
                str(label).encode(),
                canonical_json(about),
            )
            for extension, content in zip(EXTENSIONS, parts, strict=True):
                # One by one: given all at once it sorts them.
                writer.write({"__key__": key, extension: content})
    return buffer.getvalue()


def _png_offsets(tar: bytes, name: str) -> tuple[int, ...]:
    # Found by the reader that will read it: what that refuses is never published.
    found = members(tar, origin=name)
    return tuple(member.offset for member in found if member.name.endswith(".png"))


def _put(store: Store, folder: str, name: str, data: bytes) -> FileRecord:
    store.write(f"{folder}/{name}", data)
    return FileRecord(name, len(data), sha256_of(data))


def _body(
    data: DataConfig, splits: Splits, source_sha256: str, shards: list[Shard]
) -> dict[str, Any]:
    mean, std = _mean_and_std(splits.train)
    names = (splits.train.name, splits.test.name)
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": dataset_fingerprint(data, source_sha256),
        "source_sha256": source_sha256,
        "data": data.model_dump(mode="json", exclude={"source"}),
        "shape": list(data.shape),
        "classes": list(splits.classes),
        "num_images": {images.name: len(images) for images in (splits.train, splits.test)},
        "mean": mean,
        "std": std,
        "png_bytes": len(png.encode(splits.train.images_u8[0])),
        "shards": {
            split: [
                {"name": one.name, "num_images": one.num_images, "offsets": list(one.offsets)}
                for one in shards
                if one.name.startswith(f"{split}-")
            ]
            for split in names
        },
    }


def _mean_and_std(images: RawImages) -> tuple[list[float], list[float]]:
    """Per channel, from whole numbers: the same on every machine to the last digit."""
    channels = images.images_u8.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _BLOCK_IMAGES):
        block = images.images_u8[start : start + _BLOCK_IMAGES]
        for channel in range(channels):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    mean, std = [], []
    for histogram in counts:
        number = int(histogram.sum())
        total, squares = int(histogram @ values), int(histogram @ values**2)
        mean.append(total / number)
        std.append(math.sqrt(number * squares - total**2) / number)
    return mean, std


def _mean_image(images: RawImages) -> NDArray[np.uint8]:
    total, number = images.images_u8.sum(axis=0, dtype=np.int64), len(images)
    mean: NDArray[np.uint8] = ((2 * total + number) // (2 * number)).astype(np.uint8)
    return mean  # to the nearest whole number
