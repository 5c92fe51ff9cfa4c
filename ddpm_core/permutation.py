"""The order of the images: a keyed permutation per epoch, computed and never stored.

The training sees one endless stream of images: epoch 0, then epoch 1, and so on, each a
permutation of 0..N-1 of its own. Step s takes the positions s*B .. s*B+B-1 of that stream. The
whole state of the order is therefore the step: resuming costs nothing, and the number of workers
does not enter. Nothing here is proportional to N.

The permutation is a Feistel network, a bijection whatever its round function does, on the smallest
power of four that holds N. What falls outside 0..N-1 is sent through again until it falls inside
(cycle walking: Black and Rogaway 2002), which is a bijection again and takes under four rounds of
walking on average.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# A Feistel network of 4 rounds is a strong pseudorandom permutation if its halves are wide (Luby
# and Rackoff 1988); ours are as narrow as one bit, and 12 rounds make those uniform too.
_NUM_ROUNDS = 12
_MAX_SIZE = 2**62


def keyed_permutation(key: bytes, size: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where a permutation of 0..size-1, chosen by `key`, sends each position.

    Args:
        key: any bytes; another key is another permutation.
        size: number of things permuted, 1..2**62.
        positions: (b,) values in 0..size-1.

    Raises:
        ValueError: if size or a position is out of range.
    """
    if not 1 <= size <= _MAX_SIZE:
        raise ValueError(f"size={size} must be 1..2**62")
    if positions.size and (positions.min() < 0 or positions.max() >= size):
        raise ValueError(
            f"positions {positions.min()}..{positions.max()} must lie in 0..{size - 1}"
        )
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    round_keys = np.array(
        [
            int.from_bytes(hashlib.sha256(key + bytes([number])).digest()[:8], "little")
            for number in range(_NUM_ROUNDS)
        ],
        dtype=np.uint64,
    )
    values = _feistel(positions.astype(np.uint64), half_bits, round_keys)
    while (outside := values >= np.uint64(size)).any():
        values[outside] = _feistel(values[outside], half_bits, round_keys)
    return values.astype(np.int64)


def epoch_permutation(
    seed: int, epoch: int, num_images: int, positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the images at these positions of an epoch: a permutation keyed by (seed, epoch)."""
    return keyed_permutation(f"order:{seed}:{epoch}:".encode(), num_images, positions)


class Order(Protocol):
    """What stands where in every epoch: a permutation of the images 0..num_images-1 for each."""

    @property
    def num_images(self) -> int:
        """N, at least 1."""

    def images(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the images at these positions, each in 0..N-1, of an epoch."""


@dataclass(frozen=True)
class FullOrder:
    """All images permuted with each other: what a data set held in memory is read in."""

    seed: int
    num_images: int

    def images(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return epoch_permutation(self.seed, epoch, self.num_images, positions)


def images_at(order: Order, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the images at these positions of the stream of all epochs, of the same shape.

    Args:
        order: of each epoch.
        positions: >= 0, rising.
    """
    epochs, within = np.divmod(positions.ravel(), order.num_images)
    pieces = [order.images(epoch, within[begin:end]) for epoch, begin, end in runs(epochs)]
    return np.concatenate([np.empty(0, np.int64), *pieces]).reshape(positions.shape)


def slice_positions(
    steps: range, global_batch_size: int, rank: int, world_size: int
) -> NDArray[np.int64]:
    """Return the positions of the stream that one rank takes in each of consecutive steps.

    Rank r of W takes the r-th of W equal contiguous slices of the global batch.

    Returns:
        (len(steps), global_batch_size // world_size)
    """
    size = global_batch_size // world_size
    first = np.arange(steps.start, steps.stop, dtype=np.int64) * global_batch_size + rank * size
    return first[:, None] + np.arange(size, dtype=np.int64)


def global_batch_indices(
    seed: int, step: int, global_batch_size: int, num_images: int
) -> NDArray[np.int64]:
    """Return the images of one step of all workers together, where all are permuted at once.

    Every image comes exactly once per epoch. A batch may straddle two epochs, or hold several
    where it is larger than the data set: no image is dropped at the end of an epoch.

    Args:
        seed: chooses the order.
        step: optimiser step, from 0.
        global_batch_size: images per step, all workers together.
        num_images: size of the data set.

    Returns:
        (global_batch_size,) indices in 0..num_images-1.
    """
    positions = slice_positions(range(step, step + 1), global_batch_size, 0, 1)
    return images_at(FullOrder(seed, num_images), positions[0])


def runs(values: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return (value, begin, end) of each run of equal ones in rising values >= 0."""
    begins = np.flatnonzero(np.diff(values, prepend=-1))
    ends = np.append(begins[1:], len(values))
    return list(zip(values[begins].tolist(), begins.tolist(), ends.tolist(), strict=True))


def _feistel(
    values: NDArray[np.uint64], half_bits: int, round_keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """(left, right) -> (right, left ^ mix(right, key)), once for each key."""
    shift, mask = np.uint64(half_bits), np.uint64(2**half_bits - 1)
    left, right = values >> shift, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << shift) | right


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
