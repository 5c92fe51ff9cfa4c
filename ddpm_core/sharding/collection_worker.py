"""The actors of a collection: one scans files, one makes shards of them, one does both at once."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_core.cluster import GetDevice
from ddpm_core.config import DataConfig
from ddpm_core.sharding import ahead
from ddpm_core.sharding.file_records import Scan, records_and_scan, records_of, scanned
from ddpm_core.sharding.looked import ScanResult
from ddpm_core.sharding.source import ShardUnit
from ddpm_core.shards.index import Rejected, Split
from ddpm_core.shards.shard import MadeShard, Record, finished_shard, make_shard
from ddpm_core.sources.containers.opening import reopen
from ddpm_core.sources.items import Items
from ddpm_core.sources.ledger import DIGEST_BYTES
from ddpm_core.store.storage import open_store


@dataclass(frozen=True)
class ScanTask:
    """Files to be scanned: read, digested, and their headers checked."""

    split: Split
    numbers: NDArray[np.int64]
    """of the files in their split"""
    items: Items


@dataclass(frozen=True)
class ShardTask:
    """Files to be made into a shard, with the results of their scan."""

    unit: ShardUnit
    items: Items
    sha256s: bytes
    """DIGEST_BYTES each"""
    problems: dict[int, str]
    """position in `items` -> why it cannot be used"""


@dataclass(frozen=True)
class AheadTask:
    """Files to be scanned and made into a shard at once."""

    unit: ShardUnit
    items: Items
    signature: str | None
    """as `Looked.signature`; None: they are read whatever was made of them before"""
    is_wanted: bool
    """whether the shard is still wanted; else its files are scanned only"""


@dataclass(frozen=True)
class CompareTask:
    """Files of which it is to be known what a shard would hold; nothing is made of them."""

    split: Split
    numbers: NDArray[np.int64]
    """of the files among those that are compared"""
    items: Items


class Stored(NamedTuple):
    """The result of a `CompareTask`."""

    scan: ScanResult
    sha256s: bytes
    """DIGEST_BYTES each: of the file that a shard would hold; zeros if there would be none"""

    def digest(self, at: int) -> bytes | None:
        """Return the digest of the file at this position; None if it cannot be used."""
        found = self.sha256s[DIGEST_BYTES * at : DIGEST_BYTES * (at + 1)]
        return found if any(found) else None


class Ahead(NamedTuple):
    """The result of an `AheadTask`."""

    scan: ScanResult
    rejected: tuple[Rejected, ...]
    """files that cannot be used, in their order"""
    is_made: bool


def make_scanner(
    payload: dict[str, Any], _get_device: GetDevice
) -> Callable[[ScanTask], ScanResult]:
    """Return the function that is called with each `ScanTask`."""
    container = reopen(payload["container"])
    data = DataConfig.model_validate_json(payload["data"])
    return lambda task: scanned(container, task.items, data)


def make_sharder(
    payload: dict[str, Any], _get_device: GetDevice
) -> Callable[[ShardTask], MadeShard]:
    """Return the function that is called with each `ShardTask` and stores a shard."""
    store, folder = open_store(payload["store"]), payload["folder"]
    data = DataConfig.model_validate_json(payload["data"])
    container, classes = reopen(payload["container"]), tuple(payload["classes"])
    making = payload["making"]

    def work(task: ShardTask) -> MadeShard:
        unit = task.unit
        found = finished_shard(store, folder, unit.split, unit.number)
        if found is not None:
            return found
        before = ahead.finished(store, making, unit.split, unit.number, verify=True)
        if before is not None and before.scan.sha256s == task.sha256s:
            adopted = None
            if before.names == ahead.names_of(task.items, classes):
                adopted = ahead.adopt(store, making, folder, before)
            if adopted is not None:
                return adopted
        return make_shard(
            store,
            folder,
            unit.split,
            unit.number,
            records_of(container, task.items, data, sha256s=task.sha256s, problems=task.problems),
            first_number=unit.start,
            channels=data.channels,
            classes=classes,
            num_levels=data.num_levels,
        )

    return work


def make_ahead(payload: dict[str, Any], _get_device: GetDevice) -> Callable[[AheadTask], Ahead]:
    """Return the function that is called with each `AheadTask`: it reads each file once."""
    store, folder = open_store(payload["store"]), payload["folder"]
    data = DataConfig.model_validate_json(payload["data"])
    container, classes = reopen(payload["container"]), tuple(payload["classes"])

    def work(task: AheadTask) -> Ahead:
        unit, names = task.unit, ahead.names_of(task.items, classes)
        before = ahead.finished(store, folder, unit.split, unit.number, verify=True)
        if before is not None and before.names == names:
            has_changed = task.signature is None or before.signature != task.signature
            if not has_changed or scanned(container, task.items, data) == before.scan:
                return Ahead(before.scan, before.made.rejected, is_made=True)
        if not task.is_wanted:
            return Ahead(scanned(container, task.items, data), (), is_made=False)
        if before is not None:
            ahead.forget(store, folder, unit.split, unit.number)
        scan = Scan()
        made = make_shard(
            store,
            folder,
            unit.split,
            unit.number,
            records_and_scan(container, task.items, data, scan),
            first_number=unit.start,
            channels=data.channels,
            classes=classes,
            num_levels=data.num_levels,
            more=lambda: ahead.about(scan.result(), names, task.signature),
        )
        return Ahead(scan.result(), made.rejected, is_made=True)

    return work


def make_comparer(
    payload: dict[str, Any], _get_device: GetDevice
) -> Callable[[CompareTask], Stored]:
    """Return the function that is called with each `CompareTask`."""
    container = reopen(payload["container"])
    data = DataConfig.model_validate_json(payload["data"])

    def work(task: CompareTask) -> Stored:
        scan = Scan()
        records = records_and_scan(container, task.items, data, scan)
        digests = [
            hashlib.sha256(one.content).digest() if isinstance(one, Record) else bytes(DIGEST_BYTES)
            for one in records
        ]
        return Stored(scan.result(), b"".join(digests))

    return work
