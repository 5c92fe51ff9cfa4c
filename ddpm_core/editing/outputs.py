"""What an edit writes: an image for each variant, a sheet of them, and what they are made of."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.drawing.plot import drawable
from ddpm_core.drawing.sheet import Block, sheet_figure
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.images.names import bytes_of, quoted
from ddpm_core.store.storage import Store

MAX_SHOWN = 12
"""images of which the sheet has a row"""
SHOWN_VARIANTS = 8
"""of each"""
_NOT_SAFE = re.compile(r"[^A-Za-z0-9._+=-]")
_MAX_PART = 120


def safe_name(stem: str) -> str:
    """Return the name of an image without its ending as a key of any store, folders kept."""
    return "/".join(_safe_part(part) for part in stem.split("/"))


def _safe_part(part: str) -> str:
    """Return a part of a name; with a digest where letters are lost, of which whole names consist
    in other scripts.
    """
    safe = _NOT_SAFE.sub("_", part)
    if not re.match("[A-Za-z0-9_]", safe):
        safe = f"_{safe}"
    if len(safe) > _MAX_PART or not part.isascii():
        safe = f"{safe[:_MAX_PART]}-{hashlib.sha256(bytes_of(part)).hexdigest()[:8]}"
    return safe


def keys_of(names: Sequence[str], stems: Sequence[str], what: str, count: int) -> list[list[str]]:
    """Return the keys of the variants of each image.

    Args:
        names: of the image files.
        stems: their names without the ending.
        what: was done, as a part of a file's name.
        count: variants of each.

    Raises:
        DataError: two images would have the same.
    """
    taken: dict[str, str] = {}
    for name, stem in zip(names, stems, strict=True):
        safe = safe_name(stem)
        if safe in taken:
            raise DataError(
                f"{quoted(taken[safe])} and {quoted(name)} would both be written as "
                f"{safe}-{what}-1.png; rename one of them, or edit them one by one"
            )
        taken[safe] = name
    return [[f"{safe}-{what}-{one + 1}.png" for one in range(count)] for safe in taken]


def written_before(
    store: Store, keys: Sequence[str], record_key: str, record: bytes
) -> frozenset[str]:
    """Return which of the keys an edit has written that had the same record.

    Raises:
        RunConflictError: something else is there; naming the first.
    """
    folders = {key.rpartition("/")[0] for key in keys}
    there = {folder: set(store.sizes(folder)) for folder in folders}
    found = [key for key in keys if key.rpartition("/")[2] in there[key.rpartition("/")[0]]]
    if record_key in found and store.read(record_key) == record:
        return frozenset(found)
    if found:
        raise RunConflictError(
            f"{store.uri_of(found[0])} is there already"
            + (f", and {len(found) - 1} more" if len(found) > 1 else "")
            + "; give another --out, or --overwrite"
        )
    return frozenset()


def sheet_of(
    title: str,
    names: Sequence[str],
    before: NDArray[np.uint8],
    known: NDArray[np.bool_] | None,
    after: NDArray[np.uint8],
) -> bytes:
    """Return a sheet with a row for each image: before, mask, after.

    Args:
        title: of the sheet.
        names: of the images, n.
        before: (n, h, w, c).
        known: (n, h, w), drawn black; None: there is no mask.
        after: (n, variants, h, w, c).
    """
    blocks = [Block("before", before[None])]
    if known is not None:
        white = np.where(known, 0, 255).astype(np.uint8)[..., None]
        shown = np.ascontiguousarray(np.broadcast_to(white, before.shape))
        blocks.append(Block("mask", shown[None]))
    frames = after.swapaxes(0, 1)
    captions = [[str(one + 1)] for one in range(len(frames))]
    blocks.append(Block("after", frames, captions))
    rows = [drawable(name if len(name) <= 24 else f"{name[:21]}...") for name in names]
    return sheet_figure(blocks, title=title, row_names=rows)


def record_of(values: dict[str, Any]) -> bytes:
    """Return the file that says what the images are made of."""
    return (json.dumps(values, indent=2, ensure_ascii=True) + "\n").encode()
