"""Shards of others as a data set: used where they lie, with an index of ours under the root.

One pass looks at each shard (`sources.shard_samples`), by as many workers as there are. What it
finds of a shard is a few bytes an image, which are kept (`looked_at`): no shard that is as it was
is looked at twice. When all are known, the splits follow from the shards' names, and the tables are
written.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import ComputeConfig, DataConfig, identity
from ddpm_core.errors import DataError
from ddpm_core.images.shaped import Cut
from ddpm_core.progress import Progress
from ddpm_core.sharding.looked_at import LookedAt, Record
from ddpm_core.sharding.source import require_few_rejected
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.index import SPLITS, Rejected, Split, commit_in_parts, dataset_fingerprint
from ddpm_core.shards.members import CAPTION, IMAGE, LABEL, ClassMember, ImageMember, TextMember
from ddpm_core.shards.one import Located, Shard
from ddpm_core.shards.parts import part_of, shard_of
from ddpm_core.sources.containers.shard_files import CAPTIONS, split_of
from ddpm_core.sources.download import downloads_folder
from ddpm_core.sources.shard_list import Listed, list_shards
from ddpm_core.sources.shard_samples import Indexed, Rules, index_shard
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store, sha256_of

if TYPE_CHECKING:
    from ddpm_core.cluster import GetDevice

_HELD_OUT = b"ddpm-pipeline: held out:"
_MAX_HELD_OUT = 1000
_LOOK_VERSION = 1
"""of what is found in the same shard; with another one all are looked at again"""
_NO_CLASSES = ("all",)


@dataclass(frozen=True)
class Look:
    """A shard that is to be looked at."""

    number: int
    listed: Listed


@final
class InPlace:
    """The shards that `data.source` names; their images are known after `look`.

    Args:
        data: where they lie, and what is made of their images.

    Raises:
        ConfigError, DataError, StorageError: as `list_shards`.
    """

    def __init__(self, data: DataConfig) -> None:
        self._data, self._listed = data, list_shards(data.source)
        count = len(self._listed)
        self._rules = {
            "pin": data.pin,
            "max_pixels": data.max_pixels,
            "label_key": data.label_key,
            # Only then: what was kept of shards before captions were read is still used.
            **({"captions": True, "caption_key": data.caption_key} if data.has_captions else {}),
        }
        name = fingerprint({"rules": self._rules, "source": data.source, "version": _LOOK_VERSION})
        self._known = LookedAt(downloads_folder() / "in-place" / f"{name[:32]}.parts")
        self._records: dict[int, Record] = {}
        self._counts = np.zeros(count, np.int64)
        self._pins, self._parts_sha256 = [""] * count, [""] * count
        self._has_labels: set[bool] = set()
        self._max_label = 0
        self._beside: set[str] = set()
        self._rejected: dict[int, tuple[Rejected, ...]] = {}
        self.passed_over: Counter[str] = Counter()

    def close(self) -> None:
        """Leave what is known of the shards to the next start."""
        self._known.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """What the labels mean."""
        if True in self._has_labels:
            return tuple(str(label) for label in range(self._max_label + 1))
        return _NO_CLASSES

    @property
    def rejected(self) -> list[Rejected]:
        """Images that cannot be used, in the order of the shards."""
        return [one for number in sorted(self._rejected) for one in self._rejected[number]]

    def digest(self) -> str:
        """Return the SHA-256 of all that determines the pixels, but for the configuration.

        The shards by name and pin, where in them the images are, and how these become of one size.
        """
        sha256 = hashlib.sha256(canonical_json({"cut": self._image().entry()["cut"]}))
        for number, listed in enumerate(self._listed):
            part = self._parts_sha256[number]
            sha256.update(canonical_json([listed.file.name, self._pins[number], part]))
        return sha256.hexdigest()

    def commit(self, store: Store, folder: str, images_sha256: str) -> Manifest:
        """Write the tables of the shards, and commit the index that names them.

        Raises:
            DataError: a split has no images.
        """
        plan = self._plan()
        num_images = {split: sum(stop - start for _, start, stop in plan[split]) for split in plan}
        for split in SPLITS:
            if not num_images[split]:
                raise DataError(
                    f"no usable image is left in the {split} split of data.source="
                    f"{self._data.source!r}; mend the shards, or change data.num_test_images"
                )
        counts: dict[str, tuple[int, ...]] = {
            split: self._class_counts(plan[split]) for split in SPLITS
        }
        body = {
            "fingerprint": dataset_fingerprint(self._data, images_sha256),
            "images_sha256": images_sha256,
            "data": identity.data(self._data),
            "members": {
                IMAGE: self._image().entry(),
                LABEL: ClassMember(self.classes, counts).entry(),
                **{name: self._text(name, plan).entry() for name in sorted(self._beside)},
            },
            "num_images": num_images,
            "rejected": [vars(one) for one in self.rejected],
            "passed_over": dict(sorted(self.passed_over.items())),
        }
        shards: dict[str, Iterator[Shard]] = {split: self._shards(plan[split]) for split in SPLITS}
        return commit_in_parts(store, folder, body, shards)

    def _text(self, name: str, plan: Mapping[Split, Sequence[tuple[int, int, int]]]) -> TextMember:
        if name != CAPTION or not self._data.has_captions:
            return TextMember(_ENDINGS[name])
        key = self._data.caption_key
        counts: dict[str, CaptionCounts] = {
            split: self._caption_counts(plan[split]) for split in SPLITS
        }
        return TextMember(_ENDINGS[name] if key is None else "json", key, counts)

    def _caption_counts(self, plan: Sequence[tuple[int, int, int]]) -> CaptionCounts:
        counts = CaptionCounts()
        for number, start, stop in plan:
            for lengths in self._known.head(self._records[number])["captions"][start:stop]:
                counts.images[len(lengths)] += 1
                counts.lengths.update(lengths)
        return counts

    def _image(self) -> ImageMember:
        data = self._data
        cut = Cut(data.crop, data.resize, data.background, data.max_pixels)
        return ImageMember("uint8", data.shape, (), (), None, cut)

    def look(self, compute: ComputeConfig) -> None:
        """Look at all shards, while connected to a cluster.

        Args:
            compute: how many workers look.

        Raises:
            DataError: a shard is damaged, is not what its list says, or changes meanwhile; or too
                many images cannot be used.
            StorageError: their place does not answer.
        """
        from ddpm_core import cluster  # with it comes Ray

        data, total = self._data, len(self._listed)
        looks = []
        for number, listed in enumerate(self._listed):
            record = self._known.find(self._token(listed)) if listed.is_settled else None
            if record is None:
                looks.append(Look(number, listed))
            else:
                self._take(number, record)
        started, before = time.monotonic(), int(self._counts.sum())

        def show() -> None:
            images = int(self._counts.sum())
            rate = (images - before) / max(time.monotonic() - started, 1e-3)
            note = f"{images} images, {rate:.0f} images/s"
            Progress("shard", len(self._records), total, "shards", note).show()

        def on_done(look: Look, found: Indexed) -> None:
            token = self._token(look.listed) if look.listed.is_settled else None
            self._take(look.number, self._known.add(token, _head(found), part_of(found.shard)))
            show()

        show()
        if looks:
            cluster.map_units(make_looker, self._rules, looks, compute, on_done=on_done)
        found = int(self._counts.sum()) + len(self.rejected)
        require_few_rejected(data, self.rejected, found, uri=data.source)
        if data.has_captions and CAPTION not in self._beside:
            raise DataError(
                f"data.captions={data.captions}, and no image in data.source={data.source!r} has "
                "one; leave data.captions out, or give shards that have some"
            )
        if len(self._has_labels) > 1:
            raise DataError(
                f"data.source={data.source!r} has shards whose images have a class and shards "
                "whose images have none; give each image one, or none"
            )

    def _token(self, listed: Listed) -> bytes:
        """Return a digest of all that a shard is known by, and of what is looked for in it."""
        said = [listed.file.key, listed.file.size, listed.file.pin, listed.mark]
        return hashlib.sha256(
            canonical_json([_LOOK_VERSION, said, listed.num_samples, listed.md5, self._rules])
        ).digest()

    def _take(self, number: int, record: Record) -> None:
        head = self._known.head(record)
        self._records[number] = record
        self._counts[number] = head["num_images"]
        self._parts_sha256[number] = head["part"]
        self._pins[number] = head["pin"]
        if head["num_images"]:
            self._has_labels.add(head["has_labels"])
            self._max_label = max(self._max_label, head["max_label"])
        self._beside.update(head["beside"])
        self.passed_over.update(head["passed_over"])
        if head["rejected"]:
            self._rejected[number] = tuple(Rejected(**one) for one in head["rejected"])

    def _plan(self) -> dict[Split, list[tuple[int, int, int]]]:
        """Return (shard, first image, image after the last) of each split."""
        names = [listed.file.name for listed in self._listed]
        counts = self._counts.tolist()
        splits = [split_of(name) for name in names]
        has_both = {"train", "test"} <= set(splits)
        tests = [at for at, split in enumerate(splits) if split == "test" or not has_both]
        trains = [at for at, split in enumerate(splits) if split == "train" or not has_both]
        # As of single images elsewhere: a shard that is added changes nothing of the others' order.
        tests.sort(key=lambda at: hashlib.sha256(_HELD_OUT + names[at].encode()).digest())
        wanted = self._data.num_test_images
        if wanted is None:
            wanted = sum(counts[at] for at in tests)
            if not has_both:
                wanted = min(max(wanted // 10, 1), _MAX_HELD_OUT)
        held: dict[int, int] = {}
        for at in tests:
            if wanted > 0:
                held[at] = min(wanted, counts[at])
                wanted -= held[at]
        return {
            "train": [(at, held.get(at, 0), counts[at]) for at in trains],
            "test": [(at, 0, held[at]) for at in sorted(held)],
        }

    def _shards(self, plan: Sequence[tuple[int, int, int]]) -> Iterator[Shard]:
        first_number = 0
        for number, start, stop in plan:
            if start < stop:
                yield replace(self._part(number, start, stop), first_number=first_number)
                first_number += stop - start

    def _part(self, number: int, start: int, stop: int) -> Shard:
        """Return images `start` to `stop` - 1 of a shard."""
        listed = self._listed[number].file
        file = Located(listed.place, listed.name, listed.size, self._pins[number])
        part = self._known.part(self._records[number])
        shard = shard_of(part, file.name, int(self._counts[number]), 0, file)
        own = slice(start, stop)
        return replace(
            shard,
            num_images=stop - start,
            offsets=shard.offsets[own],
            sizes=shard.sizes[own],
            labels=shard.labels[own] if shard.labels is not None else None,
            beside={name: rows[own] for name, rows in shard.beside.items()},
        )

    def _class_counts(self, plan: Sequence[tuple[int, int, int]]) -> tuple[int, ...]:
        counts = np.zeros(len(self.classes), np.int64)
        for shard in self._shards(plan):
            counts += np.bincount(np.array(shard.labels, np.int64), minlength=len(counts))
        return tuple(counts.tolist())


def _head(found: Indexed) -> dict[str, Any]:
    """Return what is kept of a shard as a whole, as JSON."""
    shard = found.shard
    return {
        "num_images": shard.num_images,
        "part": sha256_of(part_of(shard)),
        "pin": shard.file.pin if shard.file is not None else "",
        "has_labels": found.has_labels,
        "max_label": max(shard.labels or (0,), default=0),
        "beside": sorted(shard.beside),
        "passed_over": dict(found.passed_over),
        "rejected": [vars(one) for one in found.rejected],
        **({} if found.captions is None else {"captions": [list(one) for one in found.captions]}),
    }


_ENDINGS = {"caption": CAPTIONS[0], "about": "json"}


def make_looker(payload: dict[str, Any], _get_device: "GetDevice") -> Callable[[Look], Indexed]:
    """Return the function that is called with each `Look`."""
    rules = Rules(**payload)
    return lambda look: index_shard(look.listed, rules)
