"""What becomes of each file of a collection: its digest, what is wrong with it, its record."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

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
from ddpm_core.images.image_facts import MAX_MEMBER_BYTES, MAX_PIXELS
from ddpm_core.images.names import quoted
from ddpm_core.sharding.looked import ScanResult
from ddpm_core.shards.index import Rejected
from ddpm_core.shards.shard import Record
from ddpm_core.sources.containers.container import Container, EntryError
from ddpm_core.sources.items import Item, Items
from ddpm_core.sources.ledger import DIGEST_BYTES


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
class Scan:
    """A `ScanResult` that grows."""

    sha256s: bytearray = field(default_factory=bytearray)
    problems: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    deep: list[int] = field(default_factory=list)

    def result(self) -> ScanResult:
        """Return what was found until now."""
        return ScanResult(bytes(self.sha256s), self.problems, self.notes, self.deep)


def scanned(container: Container, items: Items, data: DataConfig) -> ScanResult:
    """Return what a look at each file finds; no pixel is decoded."""
    scan = Scan()
    for number, item in enumerate(items):
        _scan_file(container, number, item, data, scan)
    return scan.result()


def _scan_file(
    container: Container, number: int, item: Item, data: DataConfig, scan: Scan
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


def records_and_scan(
    container: Container, items: Items, data: DataConfig, scan: Scan
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


def records_of(
    container: Container,
    items: Items,
    data: DataConfig,
    *,
    sha256s: bytes,
    problems: Mapping[int, str],
) -> Iterator[Record | Rejected]:
    """Yield what becomes of each file.

    Args:
        container: where they lie.
        items: the files.
        data: what is made of them.
        sha256s: DIGEST_BYTES of each, by an earlier scan.
        problems: position -> why the scan found that it cannot be used.

    Raises:
        DataError: one has changed since it was scanned.
    """
    shaping = shaping_of(data)
    for number, item in enumerate(items):
        problem = problems.get(number)
        if problem is None:
            expected = sha256s[DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)]
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
    return Record(content, kept, pixels, item.label, item.key, item.captions)


def may_be_plain(shaping: Shaping, max_pixels: int) -> bool:
    """Say whether a plain PNG of the wanted size is taken as it is, by the settings.

    Larger ones are kept by no shard as they came: `kept_as_is`.
    """
    sides = shaping.height, shaping.width
    is_allowed = min(sides) >= shaping.min_side and sides[0] * sides[1] <= min(
        max_pixels, MAX_PIXELS
    )
    return is_allowed and shaping.depth == 8
