"""The actors of a collection: one scans files, one makes shards of them, one does both at once."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_core.cluster import GetDevice
from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.images import png
from ddpm_core.images.decode import (
    BadImageError,
    Shaping,
    decode_image,
    first_look,
    is_deep,
    kept_as_is,
)
from ddpm_core.images.image_facts import MAX_MEMBER_BYTES
from ddpm_core.images.names import quoted
from ddpm_core.sharding import ahead
from ddpm_core.sharding.looked import ScanResult
from ddpm_core.sharding.source import ShardUnit
from ddpm_core.shards.index import Rejected, Split
from ddpm_core.shards.shard import MadeShard, Record, finished_shard, make_shard
from ddpm_core.sources.containers.container import Container, EntryError
from ddpm_core.sources.containers.opening import reopen
from ddpm_core.sources.items import Item, Items
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
    return lambda task: _scanned(container, task.items, data)


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
            _records(container, task, data),
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
            if not has_changed or _scanned(container, task.items, data) == before.scan:
                return Ahead(before.scan, before.made.rejected, is_made=True)
        if not task.is_wanted:
            return Ahead(_scanned(container, task.items, data), (), is_made=False)
        if before is not None:
            ahead.forget(store, folder, unit.split, unit.number)
        scan = _nothing_yet()
        made = make_shard(
            store,
            folder,
            unit.split,
            unit.number,
            _records_and_scan(container, task.items, data, scan),
            first_number=unit.start,
            channels=data.channels,
            classes=classes,
            num_levels=data.num_levels,
            more=lambda: ahead.about(_whole(scan), names, task.signature),
        )
        return Ahead(_whole(scan), made.rejected, is_made=True)

    return work


def make_comparer(
    payload: dict[str, Any], _get_device: GetDevice
) -> Callable[[CompareTask], Stored]:
    """Return the function that is called with each `CompareTask`."""
    container = reopen(payload["container"])
    data = DataConfig.model_validate_json(payload["data"])

    def work(task: CompareTask) -> Stored:
        scan = _nothing_yet()
        records = _records_and_scan(container, task.items, data, scan)
        digests = [
            hashlib.sha256(one.content).digest() if isinstance(one, Record) else bytes(DIGEST_BYTES)
            for one in records
        ]
        return Stored(_whole(scan), b"".join(digests))

    return work


def shaping_of(data: DataConfig) -> Shaping:
    """Return what every image of a collection is made into."""
    return Shaping(
        height=data.height,
        width=data.width,
        channels=1 if data.grey else 3,
        crop=data.crop,
        resize=data.resize,
        background=data.background,
        depth=data.depth,
        min_side=data.min_side or 1,
    )


@dataclass(frozen=True)
class _Scan:
    """A `ScanResult` that grows."""

    sha256s: bytearray
    problems: dict[int, str]
    notes: dict[int, str]
    deep: list[int]


def _nothing_yet() -> _Scan:
    return _Scan(bytearray(), {}, {}, [])


def _whole(scan: _Scan) -> ScanResult:
    return ScanResult(bytes(scan.sha256s), scan.problems, scan.notes, scan.deep)


def _scanned(container: Container, items: Items, data: DataConfig) -> ScanResult:
    scan = _nothing_yet()
    for number, item in enumerate(items):
        _scan_file(container, number, item, data, scan)
    return _whole(scan)


def _scan_file(
    container: Container, number: int, item: Item, data: DataConfig, scan: _Scan
) -> bytes | None:
    """Read one file and note what is found; return its content, None if it cannot be used."""
    try:
        content = container.read(item.entry)
    except EntryError as error:
        scan.sha256s.extend(bytes(DIGEST_BYTES))
        scan.problems[number] = error.reason
        return None
    scan.sha256s.extend(hashlib.sha256(content).digest())
    problem, note = first_look(content, item.key, data.max_pixels, depth=data.depth)
    if is_deep(content):
        scan.deep.append(number)
    if problem is not None:
        scan.problems[number] = problem
        return None
    if note is not None:
        scan.notes[number] = note
    return content


def _records_and_scan(
    container: Container, items: Items, data: DataConfig, scan: _Scan
) -> Iterator[Record | Rejected]:
    """Yield what becomes of each file, and note in `scan` what is found of it."""
    shaping = shaping_of(data)
    for number, item in enumerate(items):
        content = _scan_file(container, number, item, data, scan)
        if content is None:
            yield Rejected(item.key, scan.problems[number], item.entry.size)
            continue
        try:
            yield _record(content, item, shaping, data)
        except BadImageError as error:
            yield Rejected(item.key, error.reason, item.entry.size)


def _records(
    container: Container, task: ShardTask, data: DataConfig
) -> Iterator[Record | Rejected]:
    shaping = shaping_of(data)
    for number, item in enumerate(task.items):
        problem = task.problems.get(number)
        if problem is None:
            expected = task.sha256s[DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)]
            try:
                yield _record(_unchanged(container, item, expected), item, shaping, data)
                continue
            except BadImageError as error:
                problem = error.reason
        yield Rejected(item.key, problem, item.entry.size)


def _unchanged(container: Container, item: Item, sha256: bytes) -> bytes:
    content = container.read(item.entry)
    if hashlib.sha256(content).digest() != sha256:
        raise DataError(
            f"{container.uri}: {quoted(item.key)} has changed while it was made into shards; "
            "let nothing write there, then run again"
        )
    return content


def _record(content: bytes, item: Item, shaping: Shaping, data: DataConfig) -> Record:
    shape = shaping.height, shaping.width, shaping.channels
    rows = png.rows_of(content, shape) if may_be_plain(shaping, data.max_pixels) else None
    if rows is not None:
        pixels: NDArray[Any] = png.pixels_of(rows, shape)
        kept: str | None = "png" if len(content) <= MAX_MEMBER_BYTES else None
    else:
        # Of an error only its reason is used, which names nothing.
        pixels = decode_image(content, shaping, origin=item.key, max_pixels=data.max_pixels)
        kept = kept_as_is(content, shaping) if data.encoding == "original" else None
    if data.encoding != "original" or kept is None:
        content = png.encode(pixels) if rows is None else png.of_rows(rows, shape)
        kept = "png"
    return Record(content, kept, pixels, item.label, item.key)


def may_be_plain(shaping: Shaping, max_pixels: int) -> bool:
    """Say whether a plain PNG of the wanted size is taken as it is, by the settings."""
    sides = shaping.height, shaping.width
    is_allowed = min(sides) >= shaping.min_side and sides[0] * sides[1] <= max_pixels
    return is_allowed and shaping.depth == 8
