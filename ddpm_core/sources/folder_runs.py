"""The first two folders that images lie in, found for millions of names in their order."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ddpm_core.sources.items import Rows
from ddpm_core.sources.split_folders import NO_CLASS


class Run(NamedTuple):
    """Rows that follow each other and lie in the same folders."""

    first: int
    stop: int
    top: bytes
    """the folder that the key begins with; b"": none"""
    below: bytes
    """the folder in that one; b"": none"""


def runs_of(rows: Rows, start: int) -> Iterator[Run]:
    """Yield all rows, by the first two folders of their keys."""
    names = rows.names
    slashes = np.append(np.flatnonzero(np.frombuffer(names, np.uint8) == ord("/")), len(names))
    begins = np.concatenate([[0], rows.ends[:-1]]) + start
    at = np.searchsorted(slashes, begins)
    first = slashes[np.minimum(at, len(slashes) - 1)]
    second = slashes[np.minimum(at + 1, len(slashes) - 1)]
    # Where a name has no such slash, the one that was found is of a later name.
    first = np.where(first < rows.ends, first, begins)
    second = np.where((first > begins) & (second < rows.ends), second, first)
    began, folders, name_begins = 0, (b"", b""), begins.tolist()
    for row, (begin, top, below) in enumerate(
        zip(name_begins, first.tolist(), second.tolist(), strict=True)
    ):
        found = (names[begin:top], names[top + 1 : below])
        if found != folders:
            if row > began:
                yield Run(began, row, *folders)
            began, folders = row, found
    yield Run(began, len(rows), *folders)


def folders_of(runs: Iterable[Run]) -> dict[bytes, set[bytes]]:
    """Return top folder in small letters -> folders in it, both b"" for images beside them."""
    found: dict[bytes, set[bytes]] = {}
    for run in runs:
        found.setdefault(run.top.lower(), set()).add(run.below if run.below else NO_CLASS)
    return found
