"""The plain headers of a tar: a run of them is found and checked at once.

Archives of small images are headers above all, and a listing takes each of them. Plain is a header
of a regular file with a short name, its size and checksum written as nearly all programs write
them; of everything else `tar_walk` says what it is, or what is wrong with it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_core.shards.tar import BLOCK_BYTES, MAGICS

_ZERO, _SPACE, _SLASH = ord("0"), ord(" "), ord("/")
_NAME = slice(0, 100)
_SIZE = slice(124, 135)
_CHECKSUM = slice(148, 154)
_KIND, _PREFIX = 156, 345
_MAGIC = slice(257, 265)
_NUM_SPACES = 8  # bytes of the checksum, which it counts as spaces
_MAGICS = np.array([int.from_bytes(one, "little") for one in MAGICS], np.uint64)
_OCTAL = 8 ** np.arange(5, -1, -1)


class Plain(NamedTuple):
    """One regular file."""

    name: bytes
    at: int
    """byte of its header"""
    size: int


def plain_run(data: bytes, begin: int) -> list[Plain]:
    """Return the files of the plain headers that stand in a row, from a header on.

    The content of the last may end beyond `data`.

    Args:
        data: a part of an archive.
        begin: byte of a header in it.
    """
    starts, sizes = [], []
    at, last = begin, len(data) - BLOCK_BYTES
    try:
        while at <= last:
            size = int(data[at + 124 : at + 135], 8)
            if size < 0:
                break
            starts.append(at)
            sizes.append(size)
            at += BLOCK_BYTES + size + -size % BLOCK_BYTES
    except ValueError:
        pass  # the end, or what is not plain
    if not starts:
        return []
    heads = _rows(data, begin, np.array(starts))
    names = heads[:, _NAME].copy().view("S100")[:, 0].tolist()
    are_plain = _are_plain(heads, np.array(sizes))
    count = len(starts) if are_plain.all() else int(are_plain.argmin())
    return list(map(Plain, names[:count], starts[:count], sizes[:count]))


def _rows(data: bytes, begin: int, starts: NDArray[np.int64]) -> NDArray[np.uint8]:
    num_blocks = (len(data) - begin) // BLOCK_BYTES
    blocks = np.frombuffer(data, np.uint8, num_blocks * BLOCK_BYTES, begin)
    return blocks.reshape(num_blocks, BLOCK_BYTES)[(starts - begin) // BLOCK_BYTES]


def _are_plain(heads: NDArray[np.uint8], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    are_digits = (heads[:, _SIZE] - _ZERO < 8).all(axis=1)
    ends_well = (heads[:, _SIZE.stop] == 0) | (heads[:, _SIZE.stop] == _SPACE)
    checksum = heads[:, _CHECKSUM] - _ZERO
    is_written_so = (checksum < 8).all(axis=1) & (heads[:, 154] == 0) & (heads[:, 155] == _SPACE)
    sums = heads.sum(axis=1, dtype=np.int64) - heads[:, 148:156].sum(axis=1, dtype=np.int64)
    fits = checksum @ _OCTAL == sums + _NUM_SPACES * _SPACE
    is_known = np.isin(heads[:, _MAGIC].copy().view("<u8")[:, 0], _MAGICS)
    is_regular = (heads[:, _KIND] == _ZERO) | (heads[:, _KIND] == 0)
    # A name is all that is there, and no folder's, which before POSIX was a file without content.
    is_letter = heads[:, _NAME] != 0
    lengths = is_letter.sum(axis=1)
    is_whole = (lengths > 0) & (is_letter.argmin(axis=1) % 100 == lengths % 100)
    is_folder = (sizes == 0) & (heads[np.arange(len(heads)), lengths - 1] == _SLASH)
    is_file = is_regular & is_whole & ~is_folder & (heads[:, _PREFIX] == 0)
    result: NDArray[np.bool_] = are_digits & ends_well & is_written_so & fits & is_known & is_file
    return result
