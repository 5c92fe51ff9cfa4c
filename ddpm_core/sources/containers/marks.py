"""What shows, without reading it, that a file has changed; and where that cannot be trusted.

A file that is written twice within one tick of its file system's clock has the same times, and
perhaps the same length: what was written shortly before it was listed, or by a clock that is ahead
of ours, is not known by its times (Git calls such entries of its index racy). The time of the last
change of the inode (ctime) counts beside that of the content, since programs that copy files set
the latter.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COARSE_NS = 2 * 10**9
"""the coarsest clock of a file system that is in use: FAT's, of two seconds"""
MISSING = 0
"""the mark of an object whose server gives it no ETag"""


class Marks(NamedTuple):
    """Of each of N files."""

    values: NDArray[np.int64]
    """(N, numbers) that differ once the file has changed"""
    are_trusted: NDArray[np.bool_]
    """(N,) whether they differ for sure"""


class FileMark(NamedTuple):
    """Of one file."""

    values: tuple[int, int]
    is_trusted: bool


def now_ns() -> int:
    """Return the time that listings are compared with."""
    return time.time_ns()


def of_times(times: NDArray[np.int64], listed_ns: int) -> Marks:
    """Return the marks of files by (N, 2) their two times, listed at this time."""
    return Marks(times, np.all(times <= listed_ns - COARSE_NS, axis=1))


def times_of(found: os.stat_result) -> tuple[int, int]:
    """Return when the content and when the inode of a file were changed, in ns."""
    return found.st_mtime_ns, found.st_ctime_ns


def of_text(text: str) -> int:
    """Return a number that stands for a text, such as an ETag; MISSING for none."""
    if not text:
        return MISSING
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1


def of_file(path: Path, identities: Mapping[str, str]) -> FileMark:
    """Return the mark of a file as it is now.

    Args:
        path: of the file.
        identities: of copies in the cache: what identifies their content, by their paths; "" where
            nothing does.

    Raises:
        OSError: it cannot be looked at.
    """
    identity = identities.get(str(path))
    if identity is not None:
        value = of_text(identity)
        return FileMark((value, 0), value != MISSING)
    listed_ns = now_ns()
    times = times_of(path.stat())
    return FileMark(times, max(times) <= listed_ns - COARSE_NS)


def of_members(mark: FileMark, count: int) -> Marks:
    """Return the marks of so many members of one archive: its own."""
    values = np.broadcast_to(np.array(mark.values, np.int64), (count, 2))
    return Marks(values, np.full(count, mark.is_trusted))
