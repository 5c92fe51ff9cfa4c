"""What can be known of the images before any of them is read: their names, classes and splits.

Needs no cluster, so that a source that cannot be used is refused in a second, not after Ray began.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.index import Split
from ddpm_core.sources import seals
from ddpm_core.sources.captions import captions_of
from ddpm_core.sources.containers.container import Container
from ddpm_core.sources.containers.opening import open_container
from ddpm_core.sources.listing import Listing, list_images
from ddpm_core.sources.shard_list import list_shards
from ddpm_core.sources.splits import classes_of, load_splits, published_bytes
from ddpm_core.store.foreign_bucket import ForeignBucket, bucket_and_key
from ddpm_core.store.store import Store

_NUM_DIGITS = 1797


@dataclass(frozen=True)
class Glance:
    """What a data set will consist of, as far as can be known now."""

    num_train: int | None
    """training images; None: only a download would tell"""
    num_test: int | None
    """held-out images"""
    text: str
    """the same for people, in one line"""
    classes: tuple[str, ...] | None = None
    """what label 0, 1, ... means; None: not known yet"""
    class_counts: tuple[int, ...] | None = None
    """training images of each class; None: not known yet"""
    captions: Mapping[Split, CaptionCounts] | None = None
    """split -> captions of its images; None: they have none, or not known yet"""


def listed(data: DataConfig, *, cache: Path) -> tuple[Container, Listing]:
    """Return the container that `data.source` means, and which images it holds.

    Raises:
        ConfigError: `data.source` means nothing.
        DataError: it cannot be used, by the names in it.
        StorageError: it does not answer.
    """
    container = open_container(data.source, cache=cache, sha256=data.source_sha256)
    listing = list_images(
        container,
        num_test_images=data.num_test_images,
        on_bad=data.on_bad,
        max_bad_share=data.max_bad_share,
        class_folders=data.class_folders,
        captions=captions_of(data),
    )
    return container, listing


def glance(data: DataConfig, *, cache: Path, store: Store | None = None) -> Glance:
    """Look at the source of a data set; nothing is downloaded.

    Args:
        data: the source.
        cache: folder of what was downloaded before.
        store: where archives that have not changed are known, and not listed again; None: nowhere.

    Raises:
        ConfigError, DataError, StorageError: as the shard stage would, but for what only the
            content of image files shows.
    """
    if data.in_place:
        listed_shards = list_shards(data.source)
        num_bytes = sum(shard.file.size for shard in listed_shards)
        text = f"{len(listed_shards)} shards of {num_bytes / 1e9:.1f} GB, to be used in place"
        return Glance(None, data.num_test_images, text)
    if data.is_collection:
        if store is not None and (glanced := _known(store, data)) is not None:
            return glanced
        if data.source.startswith("https://"):
            return Glance(None, None, f"{data.source.partition('?')[0]}, to be downloaded")
        if data.source.startswith("s3://"):
            return _in_bucket(data.source)
        if data.source.lower().endswith((".tar.gz", ".tgz")) and Path(data.source).is_file():
            return Glance(None, None, f"{data.source}, to be unpacked")
        container, listing = listed(data, cache=cache)
        return _of_collection(
            container.uri,
            len(listing.train),
            len(listing.test),
            listing.classes,
            listing.train.class_counts(len(listing.classes)),
            sum(listing.passed_over.counts.values()),
            listing.caption_counts(),
        )
    if data.name == "digits":  # no need of the two seconds that scikit-learn takes to import
        num_test = data.num_test_images or 0
        return _told(_NUM_DIGITS - num_test, num_test, "scikit-learn's digits", classes_of(data))
    num_bytes = published_bytes(data, cache=cache)
    if num_bytes:
        return Glance(
            None,
            data.max_test_images,
            f"{data.name}, {num_bytes / 1e6:.0f} MB to be downloaded",
            classes_of(data),
        )
    splits = load_splits(data, cache=cache)
    counts = np.bincount(splits.train.labels, minlength=len(splits.classes))
    text = f"{data.name}, made here" if data.is_made else f"{data.name} from {data.source}"
    return _told(
        len(splits.train),
        len(splits.test),
        text,
        splits.classes,
        tuple(counts.tolist()),
        splits.caption_counts(),
    )


def _known(store: Store, data: DataConfig) -> Glance | None:
    """Return what archives came to that have not changed since; None if that is not known."""
    known = seals.known(store, data, seals.seal_of(data))
    if known is None:
        return None
    return _of_collection(
        data.source,
        known.num_train,
        known.num_test,
        known.classes,
        known.class_counts,
        known.num_passed_over,
        known.captions,
    )


def _of_collection(
    uri: str,
    num_train: int,
    num_test: int,
    classes: tuple[str, ...],
    class_counts: tuple[int, ...],
    num_passed_over: int,
    captions: Mapping[Split, CaptionCounts] | None,
) -> Glance:
    text = f"{len(classes)} class(es), in {uri}"
    text += f"; {num_passed_over} files passed over" if num_passed_over else ""
    return _told(num_train, num_test, text, classes, class_counts, captions)


def _in_bucket(source: str) -> Glance:
    """Ask for the first object only: listing ten million takes ten thousand requests."""
    name, key = bucket_and_key(source)
    bucket = ForeignBucket(name)
    bucket.check(key)
    if next(iter(bucket.objects(key)), None) is None:
        raise DataError(f"{source} holds nothing; correct data.source")
    return Glance(None, None, f"{source}, to be listed")


def _told(
    num_train: int,
    num_test: int,
    rest: str,
    classes: tuple[str, ...] | None = None,
    class_counts: tuple[int, ...] | None = None,
    captions: Mapping[Split, CaptionCounts] | None = None,
) -> Glance:
    text = f"{num_train} images to train on, {num_test} held out, {rest}"
    return Glance(num_train, num_test, text, classes, class_counts, captions)
