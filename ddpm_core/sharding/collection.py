"""A collection of image files as a source: scanned once, then made into shards by many workers.

First every file is read and its SHA-256 taken: that is what the data set is, whatever it is called
and wherever it lies. A file that is none by its first bytes is found then. After that each worker
decodes, cuts and resizes the images of one shard after the other.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, final

from ddpm_core import cluster
from ddpm_core.config import ComputeConfig, DataConfig
from ddpm_core.images.names import quoted
from ddpm_core.progress import WARNING, Progress
from ddpm_core.sharding.collection_worker import (
    DIGEST_BYTES,
    ScanResult,
    ScanTask,
    ShardTask,
    make_scanner,
    make_sharder,
)
from ddpm_core.sharding.lazy import Lazy
from ddpm_core.sharding.source import ShardUnit, Source, require_few_rejected
from ddpm_core.shards.index import SPLITS, Rejected, Split
from ddpm_core.shards.shard import MadeShard
from ddpm_core.sources.containers.container import Container
from ddpm_core.sources.items import Items
from ddpm_core.sources.listing import Listing
from ddpm_core.store.storage import Store

_LOOK_FILES = 1000  # looked at by one worker at a time
_NUM_SHOWN = 3

_log = logging.getLogger(__name__)


@final
class Collection(Source):
    """Files of a container, in the order of their names."""

    def __init__(self, data: DataConfig, container: Container, listing: Listing) -> None:
        self._data = data
        self._container = container
        self._items: dict[Split, Items] = {"train": listing.train, "test": listing.test}
        self._sha256s = {
            split: bytearray(DIGEST_BYTES * len(self._items[split])) for split in SPLITS
        }
        self._problems: dict[Split, dict[int, str]] = {"train": {}, "test": {}}
        self._notes: dict[Split, dict[int, str]] = {"train": {}, "test": {}}
        self._num_deep = 0
        self.classes = listing.classes
        self.num_images = {split: len(items) for split, items in self._items.items()}
        self.passed_over = dict(listing.passed_over.counts)
        self.left_out = listing.passed_over.lines(only_lost=True)

    @classmethod
    def looked_at(
        cls, data: DataConfig, container: Container, listing: Listing, *, compute: ComputeConfig
    ) -> "Collection":
        """Return the collection of what `glance.listed` found, after a look at every file of it.

        To be called, as `make_shards`, while connected to a cluster.

        Raises:
            DataError: it cannot be used; of single files, the first are listed, and their number.
            StorageError: where it lies does not answer.
        """
        found = cls(data, container, listing)
        found._look(compute)
        return found

    def digest(self) -> str:
        sha256 = hashlib.sha256(repr(self.classes).encode("utf-8", "surrogateescape"))
        for split in SPLITS:
            items = self._items[split]
            sha256.update(b"%d images:" % len(items))
            for number, item in enumerate(items):
                key = item.key.encode("utf-8", "surrogateescape")
                sha256.update(b"%d:%b%d;" % (len(key), key, item.label))
                sha256.update(self._sha256_of(split, number))
                # Earlier versions refused these: their data sets hold none, and keep their digest.
                note = self._notes[split].get(number)
                if note is not None:
                    sha256.update(b"read: %b;" % note.encode())
        return sha256.hexdigest()

    def make_shards(
        self,
        store: Store,
        folder: str,
        units: Sequence[ShardUnit],
        compute: ComputeConfig,
        *,
        on_done: Callable[[ShardUnit, MadeShard], None],
    ) -> None:
        payload = {**self._payload(), "store": store.uri, "folder": folder}
        cluster.map_units(
            make_sharder,
            payload,
            Lazy(units, self._work),
            compute,
            on_done=lambda work, made: on_done(work.unit, made),
        )

    def _payload(self) -> dict[str, Any]:
        return {
            "container": dict(self._container.description()),
            "data": self._data.model_dump_json(),
            "classes": list(self.classes),
        }

    def _work(self, unit: ShardUnit) -> ShardTask:
        digests = self._sha256s[unit.split][DIGEST_BYTES * unit.start : DIGEST_BYTES * unit.stop]
        problems = {
            number - unit.start: problem
            for number, problem in self._problems[unit.split].items()
            if unit.start <= number < unit.stop
        }
        items = self._items[unit.split][unit.start : unit.stop]
        return ShardTask(unit, items, bytes(digests), problems)

    def _sha256_of(self, split: Split, number: int) -> bytes:
        return bytes(self._sha256s[split][DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)])

    def _look(self, compute: ComputeConfig) -> None:
        total, done = sum(self.num_images.values()), 0
        parts = [
            (split, start)
            for split in SPLITS
            for start in range(0, self.num_images[split], _LOOK_FILES)
        ]

        def look(part: tuple[Split, int]) -> ScanTask:
            split, start = part
            return ScanTask(split, start, self._items[split][start : start + _LOOK_FILES])

        def on_done(task: ScanTask, found: ScanResult) -> None:
            nonlocal done
            start = DIGEST_BYTES * task.start
            self._sha256s[task.split][start : start + len(found.sha256s)] = found.sha256s
            for number, problem in found.problems.items():
                self._problems[task.split][task.start + number] = problem
            for number, note in found.notes.items():
                self._notes[task.split][task.start + number] = note
            self._num_deep += found.num_deep
            done += len(task.items)
            Progress("shard", done, total, "files", "looked at").show()

        note = f"looking at them; {self.num_images['test']} are held out"
        Progress("shard", 0, total, "files", note).show()
        cluster.map_units(
            make_scanner, self._payload(), Lazy(parts, look), compute, on_done=on_done
        )
        require_few_rejected(self._data, self._rejected(), total, uri=self._container.uri)
        self._say_notes()

    def _say_notes(self) -> None:
        """Count what is out of the ordinary about images that are taken, and log the first ones."""
        examples: dict[str, list[str]] = {}
        for split in SPLITS:
            for number, note in sorted(self._notes[split].items()):
                examples.setdefault(note, []).append(self._items[split][number].key)
        self.notes = {note: len(keys) for note, keys in sorted(examples.items())}
        for note, keys in sorted(examples.items()):
            first = ", ".join(quoted(key) for key in keys[:_NUM_SHOWN])
            _log.warning("%s%d %s are read; the first: %s", WARNING, len(keys), note, first)
        if self._num_deep and self._data.depth == 8:
            _log.warning(
                "%s%d PNG files have 16 bits for each sample, of which the data set keeps 8 "
                "(v / 257): its images are 8-bit. data.depth=16 keeps grey ones whole. If they use "
                "a part of the range only, stretch it before",
                WARNING,
                self._num_deep,
            )
        total = sum(self.num_images.values())
        if self._data.depth == 16 and 2 * self._num_deep < total:
            _log.warning(
                "%sdata.depth=16, and %d of %d files have 16 bits for each sample: of the others "
                "each value is stored times 257 and says no more than 8 bits do, in twice the "
                "bytes; data.depth=8 keeps them whole",
                WARNING,
                self._num_deep,
                total,
            )

    def _rejected(self) -> list[Rejected]:
        return [
            Rejected(item.key, problem, item.entry.size)
            for split in SPLITS
            for number, problem in sorted(self._problems[split].items())
            for item in (self._items[split][number],)
        ]
