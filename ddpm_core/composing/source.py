"""One of the data sets of which another is made: what stays of its shards, and what that counts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.composing.choose import Row
from ddpm_core.composing.look import look
from ddpm_core.loading.outside import open_verified
from ddpm_core.loading.shard_files import ShardFile, read_shard, shard_at
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.counts import Counts
from ddpm_core.shards.index import Index, Rejected, Shard, Split, load_index
from ddpm_core.shards.lineage import made_of
from ddpm_core.shards.members import CAPTION
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store

_NO_CAPTIONS: dict[str, list[list[int]]] = {"images": [], "bytes": []}


@dataclass(frozen=True)
class Tally:
    """How often each value and each class occurs."""

    values: NDArray[np.int64]
    """(channels, levels); (0, 0) where nobody has counted them: of shards that are used in place"""
    classes: NDArray[np.int64]
    """(classes,)"""
    captions: CaptionCounts


def sum_of(tallies: Iterable[Tally], num_classes: int) -> Tally:
    """Return the sum of tallies of one shape; of none, without values."""
    values: NDArray[np.int64] = np.zeros((0, 0), np.int64)
    classes, captions = np.zeros(num_classes, np.int64), CaptionCounts()
    for one in tallies:
        if one.values.size:
            values = values + one.values if values.size else one.values
        classes = classes + one.classes
        captions.take(one.captions)
    return Tally(values, classes, captions)


@final
class Source:
    """A data set of which another is made; without `choose`, all of it stays as it is.

    Args:
        store: where it lies.
        index: what it is.
        labels: the new label of each of its classes; -1: it is left out.
    """

    def __init__(self, store: Store, index: Index, labels: Sequence[int]) -> None:
        self._store, self.index, self._labels = store, index, tuple(labels)
        self._masks: dict[Split, Sequence[NDArray[np.bool_]]] = {}
        self._rows: dict[Split, Sequence[Row]] = {}

    def num_shards(self, split: Split) -> int:
        """Return how many shards a split has."""
        return len(self.index.counts(split))

    def look(self, split: Split, number: int, *, with_keys: bool = False) -> Row:
        """Return what is known of the images of a shard; reads it.

        Raises:
            DataError: it is missing or damaged.
            StorageError: the storage does not answer.
        """
        shard = self._shard(split, number)
        if self.index.located_at(split, number).is_outside:
            own = np.array(self._labels, np.int64)[np.array(shard.labels, np.int64)]
            return Row(own, ((),) * len(own), np.zeros((len(own), 4), np.uint64))
        tar, where = self._read(split, number), self._where(split, number)
        return look(tar, shard, self.index.label, self._labels, where=where, with_keys=with_keys)

    def choose(self, split: Split, masks: Sequence[NDArray[np.bool_]], rows: Sequence[Row]) -> None:
        """Say which images of each shard of a split stay, and what is known of them."""
        self._masks[split], self._rows[split] = masks, rows

    def shards(self, split: Split) -> Iterator[Shard]:
        """Yield what stays of each shard, and where it lies; none of which nothing stays."""
        for number in range(self.num_shards(split)):
            shard = self._staying(split, number)
            if shard.num_images:
                yield shard

    def tally(self, split: Split, number: int, num_classes: int) -> Tally:
        """Return what occurs in what stays of a shard; of a whole one its maker has counted that.

        Raises:
            DataError, StorageError: as `look`.
        """
        shard = self._staying(split, number)
        if shard.file is not None and shard.file.is_outside:
            values: NDArray[np.int64] = np.zeros((0, 0), np.int64)
            classes = np.bincount(shard.labels or (), minlength=num_classes)
            return Tally(values, classes, self._captions_of(shard, split, number))
        counted = self._counted(split, number)
        if counted is None or shard.num_images != self.index.counts(split)[number]:
            return self._count(split, number, shard, num_classes)
        if shard.labels is not None:
            classes = np.bincount(shard.labels, minlength=num_classes)
            return Tally(counted.values, classes, counted.captions)
        # Its labels are what they were; there may be classes of others behind them.
        more = num_classes - len(counted.classes)
        return Tally(counted.values, np.pad(counted.classes, (0, more)), counted.captions)

    def _staying(self, split: Split, number: int) -> Shard:
        shard = replace(self._shard(split, number), file=self.index.located_at(split, number))
        if split not in self._masks:
            return shard
        places = np.flatnonzero(self._masks[split][number]).tolist()
        labels = self._rows[split][number].labels
        return replace(
            shard,
            num_images=len(places),
            offsets=tuple(shard.offsets[at] for at in places),
            sizes=tuple(shard.sizes[at] for at in places),
            labels=tuple(int(labels[at]) for at in places),
            beside={
                member: tuple(files[at] for at in places) for member, files in shard.beside.items()
            },
        )

    def _counted(self, split: Split, number: int) -> Tally | None:
        """Return what the maker of a shard noted of it; None: nothing that can be read."""
        file = self.index.located_at(split, number)
        expected = Expected({"dataset": file.place.rpartition("/")[2]})
        name = f"{file.name.removesuffix('.tar')}.json"
        try:
            found = manifest.load(self._store, file.place, expected, name=name)
            if found is None or found.files[name.removesuffix(".json")].sha256 != file.sha256:
                return None
            values = np.array(found.body["histogram"], np.int64)
            classes = np.array(found.body["class_counts"], np.int64)
            captions = CaptionCounts.of_entry(found.body.get("captions", _NO_CAPTIONS))
        except (DamagedError, KeyError, ValueError):
            return None
        channels, levels = self.index.shape[0], self.index.image.num_levels
        is_ours = values.shape == (channels, levels) and len(classes) <= len(self._labels)
        if not captions.images:  # of a shard without: each image has none
            captions.images[0] = int(classes.sum())
        return Tally(values, classes, captions) if is_ours else None

    def _count(self, split: Split, number: int, shard: Shard, num_classes: int) -> Tally:
        tar, where = self._read(split, number), self._where(split, number)
        labels = shard.labels
        if labels is None:
            labels = tuple(self.look(split, number).labels.tolist())
        counts = Counts(self.index.shape[0], num_classes, self.index.image.num_levels)
        for label, at, size in zip(labels, shard.offsets, shard.sizes, strict=True):
            pixels = self.index.image.decode([tar[at : at + size]], lambda _: where)
            counts.add(label, pixels[0].transpose(1, 2, 0))
        captions = self._captions_of(shard, split, number, tar)
        return Tally(counts.histogram(), counts.classes, captions)

    def _captions_of(
        self, shard: Shard, split: Split, number: int, tar: bytes | None = None
    ) -> CaptionCounts:
        """Count the captions of what stays of a shard; reads them.

        Args:
            shard: what stays of it.
            split: of which it is.
            number: of it.
            tar: its bytes; None: it lies outside, and is opened there.
        """
        counts, member = CaptionCounts(), self.index.captions
        places = shard.beside.get(CAPTION)
        if member is None or places is None:
            counts.images[0] = shard.num_images
            return counts
        if tar is None:
            file = self.index.located_at(split, number)
            read = ShardFile(open_verified(file), file.key).read
            files = [read(*place) for place in places]
        else:
            files = [tar[offset : offset + size] for offset, size in places]
        where = self._where(split, number)
        for captions in member.decode(files, lambda at: f"{where}: the caption of image {at}"):
            counts.add(captions)
        return counts

    def _shard(self, split: Split, number: int) -> Shard:
        return shard_at(self._store, self.index, split, number)

    def _read(self, split: Split, number: int) -> bytes:
        return read_shard(self._store, self.index, self.index.located_at(split, number))

    def _where(self, split: Split, number: int) -> str:
        file = self.index.located_at(split, number)
        return file.key if file.is_outside else self._store.uri_of(file.key)


def left_out_of(store: Store, index: Index) -> Iterator[Rejected]:
    """Yield what was left out when a data set, or one that it is made of, was made."""
    yield from index.rejected
    for one in made_of(index.manifest):
        yield from left_out_of(store, load_index(store, one.folder, one.fingerprint))
