"""A collection of image files as a source: each file is read once, and made into shards by many.

Each file's SHA-256 is what the data set is, whatever it is called and wherever it lies. A file that
has not changed since an earlier look is known by the ledger, and not read for that. If a data set
that is there may be of these images, files that are not known are read first, to see whether it is;
else shards are made of all files as they are read (`ahead`).
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import numpy as np

from ddpm_core import cluster
from ddpm_core.config import ComputeConfig, DataConfig
from ddpm_core.progress import Progress
from ddpm_core.sharding import ahead
from ddpm_core.sharding.collection_worker import (
    Ahead,
    AheadTask,
    ScanTask,
    ShardTask,
    make_ahead,
    make_scanner,
    make_sharder,
)
from ddpm_core.sharding.lazy import Lazy
from ddpm_core.sharding.looked import Looked, ScanResult
from ddpm_core.sharding.said import of_known, say_depth, say_doubts, say_notes
from ddpm_core.sharding.source import (
    ShardUnit,
    Source,
    are_too_many,
    require_few_rejected,
    units_of,
)
from ddpm_core.shards.index import Rejected, Split
from ddpm_core.shards.shard import MadeShard
from ddpm_core.sources import ledger
from ddpm_core.sources.containers.container import Container
from ddpm_core.sources.items import Items
from ddpm_core.sources.listing import Listing
from ddpm_core.store.storage import Store

_KEEP_EVERY_S = 60.0
"""A kill costs the looks of so long at most; shards that are made ahead keep theirs."""
_NUM_ADOPTING = 8
"""shards that are put into their data set at once: a thread waits for a disk or a server"""


@final
class Collection(Source):
    """Files of a container, in the order of their names."""

    def __init__(
        self,
        data: DataConfig,
        container: Container,
        listing: Listing,
        *,
        connect: Callable[[], object],
        is_part: bool = False,
    ) -> None:
        """Take what `glance.listed` found.

        Args:
            data: the source, and what is made of it.
            container: as it was listed.
            listing: of it.
            connect: called before files are read, any number of times: connects to a cluster.
            is_part: whether the listing lacks some of the files, of which the ledger keeps what
                it knows.
        """
        self._connect = connect
        self._data = data
        self._container = container
        self._items: dict[Split, Items] = {"train": listing.train, "test": listing.test}
        self._looked = Looked(container, self._items)
        self._making = ahead.folder_of(data)
        self._ahead: set[ShardUnit] = set()
        self._kept_s = time.monotonic()
        self._is_part = is_part
        self.classes = listing.classes
        self.class_counts = listing.train.class_counts(len(listing.classes))
        self.num_images = {split: len(items) for split, items in self._items.items()}
        self.passed_over = dict(listing.passed_over.counts)
        self.captions = listing.caption_counts()
        self.left_out = listing.passed_over.lines(only_lost=True)

    def find_out(
        self, store: Store, compute: ComputeConfig, *, may_be_there: Callable[[], bool]
    ) -> None:
        if not self._data.recheck:
            self._looked.recall(ledger.load(store, self._data))
        say_doubts(self._looked)
        if self._looked.num_unknown:
            if may_be_there():
                self._look(store, compute)
            else:
                self._make_ahead(store, compute)
            self._save(store)
        rejected = list(self._looked.rejected())
        total = self._looked.num_files
        require_few_rejected(self._data, rejected, total, uri=self._container.uri)
        self.notes = say_notes(self._looked, self._items)
        say_depth(self._looked, self._data.depth)

    @property
    def is_made_ahead(self) -> bool:
        return bool(self._ahead)

    def digest(self) -> str:
        return self._looked.digest(self.classes)

    def make_shards(
        self,
        store: Store,
        folder: str,
        units: Sequence[ShardUnit],
        compute: ComputeConfig,
        *,
        on_done: Callable[[ShardUnit, MadeShard], None],
    ) -> None:
        left = self._adopt(store, folder, units, on_done)
        if not left:
            return
        self._connect()
        payload = {**self._payload(store, folder), "making": self._making}
        cluster.map_units(
            make_sharder,
            payload,
            Lazy(left, self._work),
            compute,
            on_done=lambda work, made: on_done(work.unit, made),
        )

    def tidy(self, store: Store, dataset: str) -> None:
        ledger.save(store, self._data, self._looked.to_ledger(), dataset)
        ahead.clear(store, self._making)
        ahead.sweep(store)

    def _payload(self, store: Store, folder: str) -> dict[str, Any]:
        return {
            "container": dict(self._container.description()),
            "data": self._data.model_dump_json(),
            "classes": list(self.classes),
            "store": store.uri,
            "folder": folder,
        }

    def _work(self, unit: ShardUnit) -> ShardTask:
        at = (unit.split, unit.start, unit.stop)
        items = self._items[unit.split][unit.start : unit.stop]
        return ShardTask(unit, items, self._looked.sha256s(*at), self._looked.problems(*at))

    def _adopt(
        self,
        store: Store,
        folder: str,
        units: Sequence[ShardUnit],
        on_done: Callable[[ShardUnit, MadeShard], None],
    ) -> list[ShardUnit]:
        """Put the shards that this command has made ahead into the data set; return the others."""

        def adopted(unit: ShardUnit) -> MadeShard | None:
            split, making = unit.split, self._making
            found = ahead.finished(store, making, split, unit.number, verify=False)
            sha256s = self._looked.sha256s(split, unit.start, unit.stop)
            if found is None or found.scan.sha256s != sha256s:
                return None  # another command has changed it meanwhile
            return ahead.adopt(store, making, folder, found)

        left = [unit for unit in units if unit not in self._ahead]
        there = [unit for unit in units if unit in self._ahead]
        pool = ThreadPoolExecutor(_NUM_ADOPTING)
        try:
            for unit, made in zip(there, pool.map(adopted, there), strict=True):
                if made is None:
                    left.append(unit)
                else:
                    on_done(unit, made)
        finally:
            pool.shutdown(cancel_futures=True)
        return left

    def _look(self, store: Store, compute: ComputeConfig) -> None:
        """Read what is not known, and make nothing of it."""
        self._connect()
        total, done = self._looked.num_files, self._looked.num_files - self._looked.num_unknown
        parts = self._looked.parts_unknown()

        def on_done(task: ScanTask, found: ScanResult) -> None:
            nonlocal done
            self._looked.take(task.split, task.numbers, found)
            done += len(task.items)
            self._keep(store)
            Progress("shard", done, total, "files", "looked at").show()

        note = f"looking at them; {self.num_images['test']} are held out"
        Progress("shard", done, total, "files", note + of_known(done, self._container.uri)).show()
        cluster.map_units(
            make_scanner,
            self._payload(store, ""),
            Lazy(parts, lambda part: ScanTask(*part, self._items[part[0]].chosen(part[1]))),
            compute,
            on_done=on_done,
        )

    def _make_ahead(self, store: Store, compute: ComputeConfig) -> None:
        """Read all files, and make shards of them as long as there may be a data set of them."""
        self._connect()
        total, done = self._looked.num_files, 0
        rejected: list[Rejected] = []
        is_wanted = True
        signatures = not self._data.recheck
        started_s = time.monotonic()

        def task_of(unit: ShardUnit) -> AheadTask:
            at = (unit.split, unit.start, unit.stop)
            signature = self._looked.signature(*at) if signatures else None
            items = self._items[unit.split][unit.start : unit.stop]
            return AheadTask(unit, items, signature, is_wanted=is_wanted)

        def on_done(task: AheadTask, found: Ahead) -> None:
            nonlocal done, is_wanted
            unit = task.unit
            self._looked.take(unit.split, np.arange(unit.start, unit.stop), found.scan)
            if found.is_made:
                self._ahead.add(unit)
                rejected.extend(found.rejected)
                is_wanted = is_wanted and not are_too_many(self._data, rejected, total)
            done += unit.stop - unit.start
            self._keep(store)
            rate = done / max(time.monotonic() - started_s, 1e-3)
            Progress("shard", done, total, "files", f"read and made, {rate:.0f} images/s").show()

        ahead.sweep(store)
        ahead.begin(store, self._making)
        note = f"reading them and making shards; {self.num_images['test']} are held out"
        known = total - self._looked.num_unknown
        Progress("shard", 0, total, "files", note + of_known(known, self._container.uri)).show()
        cluster.map_units(
            make_ahead,
            self._payload(store, self._making),
            Lazy(units_of(self, self._data), task_of),
            compute,
            on_done=on_done,
        )
        if not is_wanted:
            self._save(store)
            by_header = list(self._looked.rejected())
            for found in (by_header, rejected):
                require_few_rejected(self._data, found, total, uri=self._container.uri)

    def _keep(self, store: Store) -> None:
        """Save the ledger every minute, so that a kill costs no more."""
        if time.monotonic() - self._kept_s > _KEEP_EVERY_S:
            self._kept_s = time.monotonic()
            self._save(store)
            if self._ahead:
                ahead.begin(store, self._making)

    def _save(self, store: Store) -> None:
        found = self._looked.to_ledger()
        if self._is_part:
            found = found.with_older(ledger.load(store, self._data))
        ledger.save(store, self._data, found)
