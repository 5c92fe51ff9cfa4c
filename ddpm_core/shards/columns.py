"""Where the files of a shard's images lie, looked up for all images at once.

What `tar.members` finds file by file, at some microseconds each, is found here by comparing columns
of headers. It is for shards that are laid out as this program does it; of any other it says so, and
the long way finds out what is wrong with it, if anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.images.image_facts import MAX_MEMBER_BYTES
from ddpm_core.shards.index import Shard, key_of
from ddpm_core.shards.members import IMAGE_ENDINGS
from ddpm_core.shards.tar import BLOCK_BYTES, USTAR

_NAME_BYTES = 100
_SIZE, _TYPE, _MAGIC, _PREFIX = slice(124, 136), 156, slice(257, 265), slice(345, 500)
_SIZE_DIGITS = 11  # octal, and an end
_REGULAR = ord("0")
_END_BLOCKS = 2
_EIGHT_DIGITS = 10**8  # numbers of images from here on have nine


@dataclass(frozen=True)
class Column:
    """The files of one ending, of all images of a shard, in order."""

    offsets: NDArray[np.int64]
    """(n,) byte at which each begins"""
    sizes: NDArray[np.int64]
    """(n,) bytes of each"""

    def rows(self, archive: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
        """Return the first bytes of all, (n, width), whatever follows a shorter file."""
        windows = np.lib.stride_tricks.sliding_window_view(archive, width)
        rows: NDArray[np.uint8] = windows[self.offsets]
        return rows


def columns(
    archive: NDArray[np.uint8], shard: Shard, split: str, endings: Sequence[str]
) -> list[Column] | None:
    """Return the files of the images, and those of each ending that follows, in this order.

    None if the archive is anything but these files, each where the shard says. The checksums of its
    headers are not looked at: for archives whose SHA-256 was.

    Args:
        archive: (bytes,) all of it.
        shard: what the index says of it.
        split: train or test.
        endings: of the files that follow an image's, in order.
    """
    last = shard.first_number + shard.num_images
    if len(archive) % BLOCK_BYTES or not shard.num_images or last > _EIGHT_DIGITS:
        return None
    blocks = archive.reshape(-1, BLOCK_BYTES)
    offsets = np.array(shard.offsets, np.int64)
    firsts = offsets // BLOCK_BYTES - 1  # blocks of headers
    if firsts[0] != 0 or (offsets % BLOCK_BYTES).any():
        return None
    keys = _keys(split, shard.first_number, shard.num_images)
    found, at = [], firsts
    for names in (IMAGE_ENDINGS, *((ending,) for ending in endings)):
        if at.min() < 0 or at.max() >= len(blocks):
            return None
        sizes = _sizes(blocks, at, keys, names)
        if sizes is None:
            return None
        found.append(Column((at + 1) * BLOCK_BYTES, sizes))
        at = at + 1 + -(-sizes // BLOCK_BYTES)
    follows = np.array_equal(at[:-1], firsts[1:])
    ends = len(blocks) - at[-1] >= _END_BLOCKS and not blocks[at[-1] :].any()
    is_index_s = np.array_equal(found[0].sizes, np.array(shard.sizes, np.int64))
    return found if follows and ends and is_index_s else None


def _keys(split: str, first: int, count: int) -> NDArray[np.uint8]:
    """Return what the images are called, in ASCII, (count, letters)."""
    start = key_of(split, 0)[:-8].encode()
    keys = np.empty((count, len(start) + 8), np.uint8)
    keys[:, : len(start)] = np.frombuffer(start, np.uint8)
    numbers = np.arange(first, first + count, dtype=np.int64)
    for place in range(8):
        keys[:, -1 - place] = ord("0") + numbers // 10**place % 10
    return keys


def _sizes(
    blocks: NDArray[np.uint8],
    at: NDArray[np.int64],
    keys: NDArray[np.uint8],
    endings: Sequence[str],
) -> NDArray[np.int64] | None:
    """Return what headers say of the sizes; None unless all are plain, and of these files."""
    names = blocks[at, :_NAME_BYTES]
    width = keys.shape[1]
    is_named = np.zeros(len(at), np.bool_)
    for ending in endings:
        rest = np.frombuffer(f".{ending}".encode().ljust(_NAME_BYTES - width, b"\0"), np.uint8)
        is_named |= (names[:, width:] == rest).all(axis=1)
    digits = blocks[at, _SIZE]
    values: NDArray[Any] = digits[:, :_SIZE_DIGITS].astype(np.int64) - ord("0")
    is_plain = (
        is_named.all()
        and np.array_equal(names[:, :width], keys)
        and (blocks[at, _TYPE] == _REGULAR).all()
        and (blocks[at, _MAGIC] == np.frombuffer(USTAR, np.uint8)).all()
        and not blocks[at, _PREFIX].any()
        and ((values >= 0) & (values < 8)).all()
        and not (digits[:, _SIZE_DIGITS:] & ~np.uint8(ord(" "))).any()  # NUL or a space
    )
    if not is_plain:
        return None
    sizes: NDArray[np.int64] = values @ (8 ** np.arange(_SIZE_DIGITS, dtype=np.int64)[::-1])
    return sizes if sizes.max() <= MAX_MEMBER_BYTES else None
