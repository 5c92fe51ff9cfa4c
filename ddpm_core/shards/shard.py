"""One shard: from images to the bytes of a tar, and to what the index says of it.

The bytes follow from the images alone, so every worker makes the same shard, and making it
twice does no harm. A shard that is there is known by its own manifest, which is written after it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import RunConflictError
from ddpm_core.shards.captions import CaptionCounts, file_of
from ddpm_core.shards.counts import Counts
from ddpm_core.shards.index import Rejected, Shard, beside_entry, beside_of, key_of
from ddpm_core.shards.members import ABOUT, CAPTION, CAPTION_ENDING, ClassMember
from ddpm_core.shards.tar_writer import pack
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import FileRecord, Manifest
from ddpm_core.store.storage import Store, sha256_of


@dataclass(frozen=True)
class Record:
    """One image on its way into a shard."""

    content: bytes
    """its file"""
    extension: str
    """of that file: png, jpg, webp"""
    pixels: NDArray[Any]
    """(height, width, channels), uint8 or uint16, of what is in the file"""
    label: int
    name: str | None
    """what the source calls it, if it has a name"""
    captions: tuple[str, ...] | None = None
    """what it shows, in words; None: no image of the data set has any. All have, or none"""


@dataclass(frozen=True)
class MadeShard:
    """A shard that lies in the storage, and what is known of it."""

    shard: Shard
    record: FileRecord
    histogram: NDArray[np.int64]
    """(channels, num_levels) how often each value occurs"""
    class_counts: NDArray[np.int64]
    """(classes,) images of each class"""
    rejected: tuple[Rejected, ...]
    captions: CaptionCounts | None = None
    """of its images; None: they have none"""

    def body(self, folder: str) -> dict[str, Any]:
        """Return the body of the shard's manifest in the folder of its data set."""
        return {
            **_expected(folder).body,
            "num_images": self.shard.num_images,
            "first_number": self.shard.first_number,
            "offsets": list(self.shard.offsets),
            "sizes": list(self.shard.sizes),
            "histogram": self.histogram.tolist(),
            "class_counts": self.class_counts.tolist(),
            "rejected": [vars(one) for one in self.rejected],
            **beside_entry(self.shard),
            **({} if self.captions is None else {"captions": self.captions.entry()}),
        }


def shard_name(split: str, number: int) -> str:
    """Return the file name of shard `number` of a split."""
    return f"{split}-{number:06d}.tar"


def shard_role(split: str, number: int) -> str:
    """Return the role of shard `number` of a split; its own manifest is ROLE.json."""
    return shard_name(split, number).removesuffix(".tar")


def make_shard(
    store: Store,
    folder: str,
    split: str,
    number: int,
    records: Iterable[Record | Rejected],
    *,
    first_number: int,
    channels: int,
    classes: tuple[str, ...],
    num_levels: int = 256,
    more: Callable[[], Mapping[str, Any]] | None = None,
) -> MadeShard:
    """Write one shard and its manifest.

    Args:
        store: where.
        folder: of the data set.
        split: train or test.
        number: of the shard in its split.
        records: the images in order, and what takes none of their places.
        first_number: number of its first image in the split.
        channels: of every image.
        classes: what the labels mean.
        num_levels: values that a sample can have.
        more: of a shard that is made ahead: what else its manifest says, called when all records
            were taken. Its file is then named by its content: of a source that changes, two
            commands may make another one.
    """
    name = shard_name(split, number)
    rejected: list[Rejected] = []
    counts = Counts(channels, len(classes), num_levels)
    captions = CaptionCounts()
    samples: list[list[tuple[str, bytes]]] = []
    names = [encode_basestring_ascii(one) for one in classes]
    for record in _taken(records, rejected):
        at = first_number + len(samples)
        key = key_of(split, at)
        sample = [
            (f"{key}.{record.extension}", record.content),
            (f"{key}.{ClassMember.ending}", b"%d" % record.label),
            (f"{key}.{ABOUT}", _about(names[record.label], at, record, split)),
        ]
        if record.captions is not None:
            sample.append((f"{key}.{CAPTION_ENDING}", file_of(record.captions)))
            captions.add(record.captions)
        samples.append(sample)
        counts.add(record.label, record.pixels)
    tar, offsets = pack([file for sample in samples for file in sample])
    width = len(samples[0]) if samples else 1
    sizes = tuple(len(sample[0][1]) for sample in samples)
    beside = {}
    if captions.images:
        ends = (len(sample[-1][1]) for sample in samples)
        beside[CAPTION] = tuple(zip(offsets[width - 1 :: width], ends, strict=True))
    shard = Shard(name, len(sizes), first_number, tuple(offsets[::width]), sizes, beside=beside)
    if more is None:
        sha256 = sha256_of(tar)
        store.write(f"{folder}/{name}", tar, sha256=sha256)
        file = FileRecord(name, len(tar), sha256)
    else:
        file = write_file(store, folder, shard.role, ".tar", tar)
    made = MadeShard(
        shard,
        file,
        counts.histogram(),
        counts.classes,
        tuple(rejected),
        captions if beside else None,
    )
    body = {**made.body(folder), **(more() if more is not None else {})}
    name = f"{shard.role}.json"
    try:
        commit(store, folder, {shard.role: made.record}, body, name=name)
    except RunConflictError:
        if more is None:
            raise
        # Another command has made it, perhaps of another state of the source: the last one counts.
        store.delete(f"{folder}/{name}")
        commit(store, folder, {shard.role: made.record}, body, name=name)
    return made


def finished_shard(store: Store, folder: str, split: str, number: int) -> MadeShard | None:
    """Return the shard if it is there, whole, in every byte; else None: it is to be made."""
    name = shard_name(split, number)
    role = name.removesuffix(".tar")
    found = manifest.intact(store, folder, _expected(folder), name=f"{role}.json")
    if found is None:
        return None
    try:
        return made_shard(found, name)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it is no manifest of a shard: {type(error).__name__} {error}"
        manifest.quarantine(store, folder, reason, name=f"{role}.json")
        return None


def made_shard(found: Manifest, name: str) -> MadeShard:
    """Return the shard of this name that its manifest describes.

    Raises:
        KeyError, TypeError, ValueError: it is no manifest of a shard.
    """
    body = found.body
    offsets, sizes = tuple(body["offsets"]), tuple(body["sizes"])
    shard = Shard(
        name, body["num_images"], body["first_number"], offsets, sizes, beside=beside_of(body)
    )
    captions = body.get("captions")
    return MadeShard(
        shard,
        found.files[shard.role],
        np.array(body["histogram"], np.int64),
        np.array(body["class_counts"], np.int64),
        tuple(Rejected(**one) for one in body["rejected"]),
        None if captions is None else CaptionCounts.of_entry(captions),
    )


def _about(class_name: str, number: int, record: Record, split: str) -> bytes:
    """Return what `canonical_json` writes of these values, in a third of the time.

    Args:
        class_name: as JSON.
        number: of the image in its split.
        record: of the image.
        split: train or test.
    """
    source = f'"source":{encode_basestring_ascii(record.name)},' if record.name is not None else ""
    about = (
        f'"class":{class_name},"index":{number},"label":{record.label},{source}"split":"{split}"'
    )
    return f"{{{about}}}".encode()


def _expected(folder: str) -> Expected:
    """Return the identity in a shard's manifest: which data set it belongs to."""
    return Expected({"dataset": folder.rpartition("/")[2]})


def _taken(records: Iterable[Record | Rejected], rejected: list[Rejected]) -> Iterator[Record]:
    for record in records:
        if isinstance(record, Rejected):
            rejected.append(record)
        else:
            yield record
