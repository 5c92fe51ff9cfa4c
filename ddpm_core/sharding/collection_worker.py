"""The actors of a collection: one scans files, one makes shards of them."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from ddpm_core.images.names import quoted
from ddpm_core.sharding.source import ShardUnit
from ddpm_core.shards.index import Rejected, Split
from ddpm_core.shards.shard import MadeShard, Record, finished_shard, make_shard
from ddpm_core.sources.containers.container import Container, EntryError
from ddpm_core.sources.containers.opening import reopen
from ddpm_core.sources.items import Item, Items
from ddpm_core.store.storage import open_store

DIGEST_BYTES = 32


@dataclass(frozen=True)
class ScanTask:
    """Files to be scanned: read, digested, and their headers checked."""

    split: Split
    start: int
    items: Items


class ScanResult(NamedTuple):
    """The result of a `ScanTask`."""

    sha256s: bytes
    """DIGEST_BYTES each"""
    problems: dict[int, str]
    """position in `items` -> why it cannot be used"""
    notes: dict[int, str]
    """position in `items` -> what is out of the ordinary about it"""
    num_deep: int
    """files of more than 8 bits for each sample"""


@dataclass(frozen=True)
class ShardTask:
    """Files to be made into a shard, with the results of their scan."""

    unit: ShardUnit
    items: Items
    sha256s: bytes
    """DIGEST_BYTES each"""
    problems: dict[int, str]
    """position in `items` -> why it cannot be used"""


def make_scanner(
    payload: dict[str, Any], _get_device: GetDevice
) -> Callable[[ScanTask], ScanResult]:
    """Return the function that is called with each `ScanTask`."""
    container = reopen(payload["container"])
    data = DataConfig.model_validate_json(payload["data"])

    def scan(task: ScanTask) -> ScanResult:
        digests, problems, notes, num_deep = bytearray(), {}, {}, 0
        for number, item in enumerate(task.items):
            digest, problem, note, deep = _scan_file(container, item, data)
            digests += digest
            num_deep += deep
            if problem is not None:
                problems[number] = problem
            elif note is not None:
                notes[number] = note
        return ScanResult(bytes(digests), problems, notes, num_deep)

    return scan


def make_sharder(
    payload: dict[str, Any], _get_device: GetDevice
) -> Callable[[ShardTask], MadeShard]:
    """Return the function that is called with each `ShardTask` and stores a shard."""
    store, folder = open_store(payload["store"]), payload["folder"]
    data = DataConfig.model_validate_json(payload["data"])
    container, classes = reopen(payload["container"]), tuple(payload["classes"])

    def work(task: ShardTask) -> MadeShard:
        unit = task.unit
        found = finished_shard(store, folder, unit.split, unit.number)
        if found is not None:
            return found
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


def _scan_file(
    container: Container, item: Item, data: DataConfig
) -> tuple[bytes, str | None, str | None, bool]:
    """Return (SHA-256, what is wrong, what is out of the ordinary, has over 8 bits a sample)."""
    try:
        content = container.read(item.entry)
    except EntryError as error:
        return bytes(DIGEST_BYTES), error.reason, None, False
    problem, note = first_look(content, item.key, data.max_pixels, depth=data.depth)
    return hashlib.sha256(content).digest(), problem, note, is_deep(content)


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
    origin = quoted(item.key)
    pixels = decode_image(content, shaping, origin=origin, max_pixels=data.max_pixels)
    kept = kept_as_is(content, shaping) if data.encoding == "original" else None
    if kept is None:
        content, kept = png.encode(pixels), "png"
    return Record(content, kept, pixels, item.label, item.key)
