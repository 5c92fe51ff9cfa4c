"""A data set of shards: made by as many workers as there are, the same bytes by any number."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.config import ComputeConfig, DataConfig, identity
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.images import png
from ddpm_core.images.decoding import decode_files
from ddpm_core.runs import layout
from ddpm_core.sharding.source import ShardUnit, Source, require_few_rejected, units_of
from ddpm_core.shards.captions import CaptionCounts, sum_of
from ddpm_core.shards.counts import mean_and_std
from ddpm_core.shards.index import (
    FORMAT_VERSION,
    SPLITS,
    Split,
    commit_in_parts,
    dataset_fingerprint,
    in_format_3,
    shard_entry,
)
from ddpm_core.shards.members import (
    CAPTION,
    CAPTION_ENDING,
    IMAGE,
    LABEL,
    ClassMember,
    ImageMember,
    TextMember,
)
from ddpm_core.shards.one import Located, Shard
from ddpm_core.shards.shard import MadeShard
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, FileRecord, Manifest
from ddpm_core.store.storage import Store, sha256_of

MAX_WHOLE = 2**22
"""images of an index in one JSON, which versions before read too; of more it is in parts"""
_NUM_SHOWN = 64  # images of the picture for people
Made = dict[Split, list[MadeShard]]


def make_dataset(
    store: Store,
    data: DataConfig,
    source: Source,
    compute: ComputeConfig,
    *,
    images_sha256: str,
    is_alone: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Manifest:
    """Write the data set and commit its index.

    Killed on the way it leaves no index, and the next call goes on with the shards that are there.

    Args:
        store: where.
        data: the identity of the data set, and images per shard.
        source: the images.
        compute: how many workers.
        images_sha256: `source.digest()`, which takes a while.
        is_alone: whether others are made of it, and one of its splits may be empty.
        on_progress: called with (images done, images in all) at the start and after each
            shard.

    Returns:
        The committed index.

    Raises:
        DataError: some images cannot be used, and may not be left out.
    """
    folder = layout.dataset_folder(data.name, dataset_fingerprint(data, images_sha256))
    units = units_of(source, data)
    total, done = sum(source.num_images.values()), 0
    made: dict[ShardUnit, MadeShard] = {}
    # Summed as they come: of 16 bits each takes half a MiB.
    histogram = np.zeros((data.channels, data.num_levels), np.int64)

    def on_done(unit: ShardUnit, shard: MadeShard) -> None:
        nonlocal done, histogram
        if unit.split == "train":
            histogram += shard.histogram
        made[unit] = replace(shard, histogram=np.zeros((0, 0), np.int64))
        done += unit.stop - unit.start
        on_progress(done, total)

    on_progress(0, total)
    source.make_shards(store, folder, units, compute, on_done=on_done)
    shards: Made = {
        split: [made[unit] for unit in units if unit.split == split] for split in SPLITS
    }
    rejected = [one for split in SPLITS for shard in shards[split] for one in shard.rejected]
    require_few_rejected(data, rejected, total, uri=data.source)
    _require_images(shards, data, is_alone=is_alone)
    every = [*shards["train"], *shards["test"]]
    first = {"train-first": _put_first_images(store, folder, data, every)}
    body = _body(data, source, images_sha256, shards, histogram)
    if sum(body["num_images"].values()) > MAX_WHOLE:
        located: dict[str, Iterator[Shard]] = {
            split: (_located(folder, shard) for shard in shards[split]) for split in SPLITS
        }
        return commit_in_parts(store, folder, body, located, files=first)
    files = {shard.shard.role: shard.record for split in SPLITS for shard in shards[split]}
    file_bytes = body["members"][IMAGE]["file_bytes"]
    said = {
        split: [shard_entry(shard.shard, file_bytes) for shard in shards[split]] for split in SPLITS
    }
    return _commit(store, folder, files | first, {**body, "shards": said})


def _located(folder: str, made: MadeShard) -> Shard:
    record = made.record
    file = Located(folder, record.name, record.size, f"sha256:{record.sha256}")
    return replace(made.shard, file=file)


def may_be_there(store: Store, data: DataConfig, source: Source) -> bool:
    """Say whether a data set of this name may be of these images, by settings and numbers alone.

    So may one that was begun and is not complete.
    """
    name = re.compile(rf"{re.escape(data.name)}-[0-9a-f]{{{layout.SHORT}}}")
    total = sum(source.num_images.values())
    for folder in (f"datasets/{one}" for one in store.names("datasets") if name.fullmatch(one)):
        try:
            found = manifest.load(store, folder, Expected({}), name=layout.DATASET_INDEX)
        except DamagedError:
            found = None
        if found is None:
            return True
        body = found.body
        # What another version says otherwise is not of this one's images.
        with suppress(KeyError, TypeError, AttributeError):
            count = sum(body["num_images"].values()) + len(body.get("rejected", ()))
            if count == total and body["data"] == identity.data(data):
                return True
    return False


def _commit(
    store: Store, folder: str, files: dict[str, FileRecord], body: dict[str, Any]
) -> Manifest:
    """Commit the index; one of the same images is as good.

    It may have passed over other files, or say the same in the words of format 2.
    """
    try:
        return commit(store, folder, files, body, name=layout.DATASET_INDEX)
    except RunConflictError:
        expected = Expected({"fingerprint": body["fingerprint"]})
        found = manifest.load(store, folder, expected, name=layout.DATASET_INDEX)
        if found is None or found.files != files:
            raise
        if in_format_3(found.body) | {"passed_over": {}} != body | {"passed_over": {}}:
            raise
        return found


def _require_images(shards: Made, data: DataConfig, *, is_alone: bool) -> None:
    counts = {split: sum(shard.shard.num_images for shard in shards[split]) for split in SPLITS}
    for split in SPLITS:
        if not counts[split] and not (is_alone and any(counts.values())):
            raise DataError(
                f"no usable image is left in the {split} split of data.source={data.source!r}; "
                "mend the files, or change data.num_test_images"
            )


def _body(
    data: DataConfig,
    source: Source,
    images_sha256: str,
    shards: Made,
    histogram: NDArray[np.int64],
) -> dict[str, Any]:
    mean, std = mean_and_std(histogram)
    sizes = {size for split in SPLITS for shard in shards[split] for size in shard.shard.sizes}
    file_bytes = sizes.pop() if data.encoding == "png" else None
    image = ImageMember(data.dtype, data.shape, tuple(mean), tuple(std), file_bytes)
    counts: dict[str, tuple[int, ...]] = {
        split: tuple(_class_counts(shards[split], len(source.classes)).tolist()) for split in SPLITS
    }
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": dataset_fingerprint(data, images_sha256),
        "images_sha256": images_sha256,
        "data": identity.data(data),
        "members": {
            IMAGE: image.entry(),
            LABEL: ClassMember(tuple(source.classes), counts).entry(),
            **_captions(data, shards),
        },
        "num_images": {
            split: sum(shard.shard.num_images for shard in shards[split]) for split in SPLITS
        },
        "rejected": [
            vars(one) for split in SPLITS for shard in shards[split] for one in shard.rejected
        ],
        "passed_over": dict(source.passed_over),
        # Only where there are any: indexes of before have no such key.
        **({"notes": dict(source.notes)} if source.notes else {}),
    }


def _captions(data: DataConfig, shards: Made) -> dict[str, Any]:
    """Return what an index says of the captions, by the name of their member; {} without any."""
    if not data.has_captions:
        return {}
    counts: dict[str, CaptionCounts] = {
        split: sum_of(shard.captions for shard in shards[split] if shard.captions is not None)
        for split in SPLITS
    }
    return {CAPTION: TextMember(CAPTION_ENDING, counts=counts).entry()}


def _class_counts(shards: list[MadeShard], num_classes: int) -> NDArray[np.int64]:
    parts = [np.zeros(num_classes, np.int64), *(shard.class_counts for shard in shards)]
    total: NDArray[np.int64] = np.sum(parts, axis=0)
    return total


def _put_first_images(
    store: Store, folder: str, data: DataConfig, shards: list[MadeShard]
) -> FileRecord:
    """Put a picture of the first training images beside the shards, in rows of eight."""
    shard = next(made.shard for made in shards if made.shard.num_images)
    tar = store.read(f"{folder}/{shard.name}")
    channels, height, width = data.shape
    places = list(zip(shard.offsets, shard.sizes, strict=True))[:_NUM_SHOWN]
    images = np.empty((len(places), height, width, channels), data.dtype)
    decode_files([tar[at : at + size] for at, size in places], images, origin=lambda _: shard.name)
    rows = -(-len(images) // 8)
    sheet = np.zeros((rows * 8, *images.shape[1:]), data.dtype)
    sheet[: len(images)] = images
    sheet = sheet.reshape(rows, 8, height, width, channels).transpose(0, 2, 1, 3, 4)
    content = png.encode(sheet.reshape(rows * height, 8 * width, channels))
    store.write(f"{folder}/train-first.png", content)
    return FileRecord("train-first.png", len(content), sha256_of(content))
