"""Which files of a source a data set has already: an append leaves them out, and replaces none.

A file is known by its name, and unchanged if a ledger of the data set's own knows its token: that
of the source may know what the file has become since. Of another one nothing shows that: it is
read, and what a shard would hold of it is compared with what the data set has.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.composing.source import Source, left_out_of
from ddpm_core.config import ComputeConfig, DataConfig
from ddpm_core.errors import DataError
from ddpm_core.images.names import quoted
from ddpm_core.progress import Progress
from ddpm_core.sharding.lazy import Lazy
from ddpm_core.sharding.looked import Looked
from ddpm_core.shards.captions import file_of
from ddpm_core.shards.index import SPLITS, Index, Split, load_index
from ddpm_core.shards.lineage import made_of
from ddpm_core.sources import ledger
from ddpm_core.sources.containers.container import Container
from ddpm_core.sources.items import Item, Items
from ddpm_core.sources.listing import Listing
from ddpm_core.store.storage import Store

if TYPE_CHECKING:
    from ddpm_core.sharding.collection_worker import CompareTask, Stored

_NUM_SHOWN = 3
_AT_ONCE = 1000  # files that a worker compares at a time


@dataclass(frozen=True)
class Known:
    """The files of a source that a data set was made of, by their names."""

    called: str
    """the data set, for people"""
    digests: Mapping[str, bytes]
    """of each image: the SHA-256 of its file in the shards"""
    left_out: Mapping[str, int]
    """bytes of each file that could not be used: of another length it may have been mended"""
    captions: Mapping[str, bytes]
    """of each image: the file of its captions in the shards, if there are captions"""
    made_of: tuple[str, ...]
    """fingerprints: its own, and those of the data sets that it is made of"""


def known_of(store: Store, index: Index, called: str) -> Known:
    """Return the files that a data set was made of; reads its shards.

    Raises:
        DataError, StorageError: as `composing.source.Source.look`.
    """
    source = Source(store, index, range(len(index.label.names)))
    digests: dict[str, bytes] = {}
    captions: dict[str, bytes] = {}
    for split in SPLITS:
        for number in range(source.num_shards(split)):
            row = source.look(split, number, with_keys=True)
            for names, digest in zip(row.keys, row.digests, strict=True):
                digests.update(dict.fromkeys(names[1:], digest.tobytes()))
            for names, content in zip(row.keys, row.captions, strict=False):
                captions.update(dict.fromkeys(names[1:], content))
    left_out = {one.key: one.num_bytes for one in left_out_of(store, index)}
    return Known(called, digests, left_out, captions, tuple(_fingerprints(store, index)))


def _fingerprints(store: Store, index: Index) -> Iterator[str]:
    yield index.fingerprint
    for one in made_of(index.manifest):
        yield from _fingerprints(store, load_index(store, one.folder, one.fingerprint))


@final
class Sorting:
    """The files of a listing, sorted into those that a data set has and the others.

    Args:
        store: where the ledger is.
        data: the source.
        container: as it was listed.
        listing: of it.
        known: what the data set has.
    """

    def __init__(
        self, store: Store, data: DataConfig, container: Container, listing: Listing, known: Known
    ) -> None:
        self._store, self._data, self._container = store, data, container
        self._listing, self._known = listing, known
        self._items: dict[Split, Items] = {"train": listing.train, "test": listing.test}
        self._is_new: dict[Split, NDArray[np.bool_]] = {}
        self._doubtful: dict[Split, NDArray[np.int64]] = {}
        self._require_captions()
        seen = self._seen()
        count = 0
        for split, items in self._items.items():
            tokens, are_trusted = items.tokens(container)
            is_same = (seen.rows(tokens) >= 0) & are_trusted
            is_known = np.fromiter(map(self._is_known, items), bool, len(items))
            self._is_new[split] = ~is_known
            self._doubtful[split] = np.flatnonzero(is_known & ~is_same)
            count += int((is_known & is_same).sum())
        text = f"{count} files of known names have not changed, and are not read"
        Progress("shard", 0, count, "files", text).show()

    def new(self, compute: ComputeConfig, connect: Callable[[], object]) -> Listing:
        """Return the files that the data set has not, after reading those of which that is unsure.

        Args:
            compute: how many workers, and with what.
            connect: called before files are read: connects to a cluster.

        Raises:
            DataError: files of known names have other content by now.
        """
        if any(map(len, self._doubtful.values())):
            connect()
            self._compare(compute)
        left = {split: np.flatnonzero(is_new) for split, is_new in self._is_new.items()}
        return self._listing.only(left["train"], left["test"])

    def _seen(self) -> ledger.Ledger:
        """Return the files that are what the data set has."""
        seen = ledger.nothing()
        for one in () if self._data.recheck else self._known.made_of:
            seen = seen.with_older(ledger.load(self._store, self._data, one))
        return seen

    def _require_captions(self) -> None:
        """Refuse images of known names with other captions than the data set has.

        Raises:
            DataError: with the first of them.
        """
        has = self._known.captions
        changed = {
            item.key
            for items in self._items.values()
            for item in items
            if item.captions is not None
            and item.key in self._known.digests
            and file_of(item.captions) != has.get(item.key, b"")
        }
        if changed:
            raise self._changed(changed, "other captions")

    def _is_known(self, item: Item) -> bool:
        has_bytes = self._known.left_out.get(item.key)
        return item.key in self._known.digests or has_bytes == item.entry.size

    def _compare(self, compute: ComputeConfig) -> None:
        """Read the files of which nothing shows that they are what the data set has of them."""
        # With it comes Ray: not before files are to be read.
        from ddpm_core import cluster
        from ddpm_core.sharding.collection_worker import CompareTask, make_comparer

        doubtful = {split: self._items[split].chosen(self._doubtful[split]) for split in SPLITS}
        looked = Looked(self._container, doubtful)
        parts = [
            (split, np.arange(start, min(start + _AT_ONCE, len(items))))
            for split, items in doubtful.items()
            for start in range(0, len(items), _AT_ONCE)
        ]
        total, done = looked.num_files, 0
        changed: set[str] = set()

        def on_done(task: "CompareTask", found: "Stored") -> None:
            nonlocal done
            split, numbers = task.split, task.numbers
            looked.take(split, numbers, found.scan)
            for at, number in enumerate(numbers.tolist()):
                key = doubtful[split][number].key
                digest = found.digest(at)
                if digest is not None and key not in self._known.digests:
                    self._is_new[split][self._doubtful[split][number]] = True  # it was mended
                elif digest != self._known.digests.get(key):
                    changed.add(key)
            done += len(numbers)
            Progress("shard", done, total, "files", "compared").show()

        note = f"of known names, of which nothing shows that they are what {self._known.called} has"
        Progress("shard", 0, total, "files", f"{note}: they are read").show()
        container = dict(self._container.description())
        cluster.map_units(
            make_comparer,
            {"container": container, "data": self._data.model_dump_json()},
            Lazy(parts, lambda part: CompareTask(*part, doubtful[part[0]].chosen(part[1]))),
            compute,
            on_done=on_done,
        )
        if changed:
            raise self._changed(changed)
        found, own = looked.to_ledger(), self._known.made_of[0]
        for dataset in (None, own):
            older = ledger.load(self._store, self._data, dataset)
            ledger.save(self._store, self._data, found.with_older(older), dataset)

    def _changed(self, changed: Collection[str], what: str = "other content") -> DataError:
        first = ", ".join(map(quoted, sorted(changed)[:_NUM_SHOWN]))
        return DataError(
            f"{len(changed)} files of {self._container.uri} have {what} than the data set "
            f"{self._known.called} has under their names, the first: {first}; an append adds "
            "images and replaces none. Put back what they were, or give the changed ones under "
            "other names, or make a data set of its own of all: data.set_name in place of "
            "data.append_to"
        )
