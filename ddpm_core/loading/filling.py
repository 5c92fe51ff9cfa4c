"""A split that fits memory, read from its shards until it is decoded there.

Decoding a million images takes from seconds to minutes, and longer where shards have to be fetched.
A step needs those of one batch: until all are there, they are read one by one out of the shards. A
batch is the same whichever way it comes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.held import ImageSet
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.permutation import Order
from ddpm_core.shards.members import CAPTION, OtherMember

_SOON_S = 0.5
"""what is decoded within so many seconds is waited for: other processes would not start sooner"""
_LOOK_EVERY_S = 0.05  # whether it is closed
_SHARDS_AT_ONCE = 64
"""that are read from: a batch may be of any number of them, and 1024 files are all that are open"""


@final
class FillingImages:
    """Images by their number, out of the shards or, as soon as it is there, out of memory.

    Any thread may read. An error of the decoding is raised by whatever is read next. Between two
    shards the decoding waits for the first images that are read: disk, network and cores are
    theirs.

    Args:
        held: returns the images in memory, as soon as they are there; calls what it is given now
            and then, and ends with what that raises.
        from_shards: opens the shards.
        order: called with a seed, returns the order of training of the images in memory.
        counts: images of each shard.
        num_classes: of the data set.
        members: what the images come with, by name.
        has_captions: whether they come with captions too.
    """

    def __init__(
        self,
        held: Callable[[Callable[[], None]], ImageSet],
        from_shards: Callable[[], StreamedImages],
        *,
        order: Callable[[int], Order],
        counts: tuple[int, ...],
        num_classes: int,
        members: Mapping[str, OtherMember],
        has_captions: bool = False,
    ) -> None:
        self.num_classes = num_classes
        self._from_shards, self._order = from_shards, order
        self._counts, self._members = counts, members
        self._has_captions = has_captions
        self._shards: StreamedImages | None = None
        self._num_readers, self._lock, self._is_closed = 0, Lock(), Event()
        self._begun, self._is_first_read = Event(), Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="filling")
        self._held = self._pool.submit(held, self._go_on)

    def __len__(self) -> int:
        return sum(self._counts)

    def order(self, seed: int) -> Order:
        """Return the order of training: that of a split in memory."""
        return self._order(seed)

    def windows(self, seed: int) -> BlockOrder:
        """Return the order that it would have, were it read from its shards."""
        return BlockOrder(seed, self._counts)

    def num_ahead(self, batch_size: int) -> int:  # noqa: ARG002 - as of StreamedImages
        """Return how many batches to prefetch: few, since the first needs many shards as it is."""
        return 2

    def expect(self, position: int) -> None:
        """Nothing is fetched: batches are of images of all shards."""

    def take(self, numbers: NDArray[np.int64], *, pinned: bool = False) -> Tensor:
        """Return the images of these numbers, (b, channels, height, width).

        Raises:
            PipelineError: as `StreamedImages.take`, or as the decoding of the split.
        """
        with self._reader() as images:
            if not isinstance(images, StreamedImages):
                return images.take(numbers, pinned=pinned)
            # Out of the shards the channels come last in memory: convolutions could round
            # otherwise.
            return self._in_parts(images.take, numbers, pinned=pinned)

    def images(self, start: int, stop: int) -> Tensor:
        """Return images `start` to `stop` - 1."""
        with self._reader() as images:
            return images.images(start, stop)

    @property
    def members(self) -> Collection[str]:
        """What the images come with."""
        return {*self._members, *((CAPTION,) if self._has_captions else ())}

    def member(self, name: str, numbers: NDArray[np.int64]) -> Tensor:
        """Return a member of the images of these numbers, e.g. of `label` (b,) int64."""
        if not len(numbers):  # who only looks whether there is such a member waits for nothing
            return torch.from_numpy(self._members[name].decode([], str))
        with self._reader() as images:
            if not isinstance(images, StreamedImages):
                return images.member(name, numbers)
            return self._in_parts(partial(images.member, name), numbers, pinned=False)

    def captions(self, numbers: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return the captions of the images of these numbers; () of one that has none."""
        if not len(numbers) or not self._has_captions:
            return [()] * len(numbers)
        found: list[tuple[str, ...]] = [()] * len(numbers)
        with self._reader() as images:
            is_held = not isinstance(images, StreamedImages)
            parts = [np.arange(len(numbers))] if is_held else self._parts(numbers)
            for rows in parts:
                for row, one in zip(rows.tolist(), images.captions(numbers[rows]), strict=True):
                    found[row] = one
        return found

    def close(self) -> None:
        """End the decoding, unless it is done: what is made by then is lost; close the shards."""
        self._is_closed.set()
        self._pool.shutdown()
        if self._shards is not None:
            self._shards.close()

    def _in_parts(
        self,
        read: Callable[[NDArray[np.int64]], Tensor],
        numbers: NDArray[np.int64],
        *,
        pinned: bool,
    ) -> Tensor:
        """Return what is read of images of these numbers, of some shards after the other."""
        taken: Tensor | None = None
        for rows in self._parts(numbers):
            found = read(numbers[rows])
            if taken is None:
                size = (len(numbers), *found.shape[1:])
                taken = torch.empty(size, dtype=found.dtype, pin_memory=pinned)
            taken.numpy()[rows] = found.numpy()  # torch itself has no such index for 16 bits
        assert taken is not None  # noqa: S101 - one part at least was read
        return taken

    def _parts(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield which of the images are read at once: those of some shards after the other's."""
        shards = np.searchsorted(np.cumsum(self._counts), numbers, side="right")
        used, which = np.unique(shards, return_inverse=True)
        for first in range(0, max(1, len(used)), _SHARDS_AT_ONCE):
            yield np.flatnonzero((first <= which) & (which < first + _SHARDS_AT_ONCE))

    def _go_on(self) -> None:
        while not self._is_closed.is_set():
            if not self._begun.is_set() or self._is_first_read.wait(_LOOK_EVERY_S):
                return
        raise CancelledError

    @contextmanager
    def _reader(self) -> Iterator[ImageSet | StreamedImages]:
        """Give what images are read from now; the shards are closed behind the last who read there.

        Raises:
            PipelineError: of the decoding.
        """
        if not self._begun.is_set():
            wait([self._held], timeout=_SOON_S)
            self._begun.set()
        with self._lock:
            is_held = self._held.done()
            if not is_held:
                self._shards = shards = (
                    self._from_shards() if self._shards is None else self._shards
                )
                self._num_readers += 1
        if is_held:
            self._let_go()
            yield self._held.result()
            return
        try:
            yield shards
        finally:
            self._is_first_read.set()
            with self._lock:
                self._num_readers -= 1

    def _let_go(self) -> None:
        with self._lock:
            idle = self._shards if not self._num_readers else None
            if idle is not None:
                self._shards = None
        if idle is not None:
            idle.close()
