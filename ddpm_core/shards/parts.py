"""The part of an index that belongs to one shard: where in it each image is, and its class.

    {"columns": [[name, base, bytes of a number], ...], "num_images": n} and a line feed, in JSON
    the n numbers of each column, less `base`, little-endian

Each column has as few bytes for a number as its largest needs, none if all are equal: some 5 for an
image. No compression: what a library makes of the same numbers changes with its version, and the
bytes of an index must not.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.canonical import canonical_json
from ddpm_core.shards.members import whole
from ddpm_core.shards.one import Located, Shard

_WIDTHS = (0, 1, 2, 4, 8)
_GAP, _SIZE, _LABEL = "gap", "size", "label"
_AT, _OF = "at:", "size:"
_MAX_IMAGES = 2**32


def part_of(shard: Shard) -> bytes:
    """Return the part of a shard: what of it is said for each image."""
    columns: dict[str, Any] = {
        _GAP: _gaps(np.array(shard.offsets, np.int64), np.array(shard.sizes, np.int64)),
        _SIZE: np.array(shard.sizes, np.int64),
    }
    if shard.labels is not None:
        columns[_LABEL] = np.array(shard.labels, np.int64)
    for member, places in sorted(shard.beside.items()):
        rows = np.array(places, np.int64).reshape(-1, 2)
        columns[f"{_AT}{member}"] = rows[:, 0] - np.array(shard.offsets, np.int64)
        columns[f"{_OF}{member}"] = rows[:, 1]
    packed = {name: _packed(column) for name, column in columns.items()}
    head = {
        "columns": [[name, base, width] for name, (base, width, _) in packed.items()],
        "num_images": shard.num_images,
    }
    return b"".join([canonical_json(head), b"\n", *(data for _, _, data in packed.values())])


def shard_of(part: bytes, name: str, num_images: int, first_number: int, file: Located) -> Shard:
    """Return the shard to which a part belongs.

    Raises:
        KeyError, TypeError, ValueError: it is no part of a shard of so many images and bytes.
    """
    line, _, data = part.partition(b"\n")
    head = json.loads(line)
    if whole(head["num_images"]) != num_images or num_images > _MAX_IMAGES:
        raise ValueError(f"{head['num_images']} images, the table says {num_images}")
    columns, at = {}, 0
    for column, base, width in head["columns"]:
        if width not in _WIDTHS or type(base) is not int or abs(base) >= 2**62:
            raise ValueError(f"a column of {width!r} bytes from {base!r} on")
        size = num_images * width
        columns[str(column)] = _unpacked(data[at : at + size], num_images, base, width)
        at += size
    if at != len(data):
        raise ValueError(f"{len(data)} bytes of numbers, its columns have {at}")
    sizes = columns[_SIZE]
    # The end of each image is where the gap before the next begins.
    offsets = np.cumsum(columns[_GAP]) + np.concatenate([[0], np.cumsum(sizes)])[:num_images]
    _require_inside(offsets, sizes, file)
    beside = {}
    for column in columns:
        if column.startswith(_AT):
            member = column.removeprefix(_AT)
            places = offsets + columns[column]
            _require_inside(places, columns[f"{_OF}{member}"], file)
            rows = zip(places.tolist(), columns[f"{_OF}{member}"].tolist(), strict=True)
            beside[member] = tuple(rows)
    labels = tuple(columns[_LABEL].tolist()) if _LABEL in columns else None
    return Shard(
        name,
        num_images,
        first_number,
        tuple(offsets.tolist()),
        tuple(sizes.tolist()),
        labels=labels,
        beside=beside,
        file=file,
    )


def _gaps(offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what lies between the end of each image before and its beginning."""
    ends: NDArray[np.int64] = np.concatenate([[0], offsets + sizes])[: len(offsets)]
    return offsets - ends


def _require_inside(offsets: NDArray[np.int64], sizes: NDArray[np.int64], file: Located) -> None:
    # Compared one by one, not in their sum, which may be beyond int64.
    inside = (offsets >= 0) & (offsets <= file.size) & (sizes >= 0) & (sizes <= file.size)
    if not (inside.all() and (offsets + sizes <= file.size).all()):
        raise ValueError(f"images outside of {file.name}, {file.size} bytes")


def _packed(column: NDArray[np.int64]) -> tuple[int, int, bytes]:
    base = int(column.min(initial=2**62)) if len(column) else 0
    above = column - base
    largest = int(above.max(initial=0))
    width = next(width for width in _WIDTHS if largest < 256**width)
    return base, width, above.astype(f"<u{width}").tobytes() if width else b""


def _unpacked(data: bytes, count: int, base: int, width: int) -> NDArray[np.int64]:
    if len(data) != count * width:
        raise ValueError(f"{len(data)} bytes for {count} numbers of {width}")
    if not width:
        return np.full(count, base, np.int64)
    above = np.frombuffer(data, f"<u{width}")
    if int(above.max(initial=0)) >= 2**62:
        raise ValueError("a number beyond 2**62")
    found: NDArray[np.int64] = above.astype(np.int64) + base
    return found
