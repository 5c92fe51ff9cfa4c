"""Prefetched batches: this rank's images and their conditioning, for each step."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import TrainConfig
from ddpm_core.errors import DataError
from ddpm_core.loading.loader import Images
from ddpm_core.loading.texts import Draw, Texts
from ddpm_core.permutation import Order, images_at, slice_positions
from ddpm_core.shards.members import require_members

_CHUNK_IMAGES = 2**14
"""whose order is computed at once: one by one it would take as long as reading them"""


@dataclass(frozen=True)
class Batch:
    """A slice of a batch: images, their conditioning, and their numbers."""

    images: Tensor
    """(b, channels, height, width), uint8 or uint16"""
    conditioning: Conditioning
    """of each image"""
    numbers: NDArray[np.int64]
    """(b,) of each image in its split"""


def conditioning_of(
    images: Images,
    numbers: NDArray[np.int64],
    accepts: frozenset[str],
    *,
    num_classes: int | None = None,
    texts: Texts | None = None,
    draw: Draw | None = None,
) -> Conditioning:
    """Return the conditioning of the images of these numbers.

    Args:
        images: the split.
        numbers: (b,) of the images.
        accepts: the parts that the network takes.
        num_classes: whose labels it takes; None: any.
        texts: how texts are made, for a network that takes some.
        draw: by which one caption of each image is chosen; None: it is the first.

    Raises:
        DataError: the images come without such a part, or what there is of it is damaged, or a
            label is none that the network takes: the number after the last is its null.
    """
    needed = texts.parts(accepts) if texts is not None else accepts
    require_members(images.members, needed, of="the data set")
    if not accepts:
        return NOTHING
    parts: dict[str, Any] = {
        name: images.member(name, numbers) for name in accepts if name != "text"
    }
    if "text" in accepts:
        if texts is None:
            raise ValueError("a network that takes texts is given none without `texts`")
        parts["text"] = texts.of(images, numbers, draw)
    given = Conditioning(**parts)
    if (
        num_classes is not None
        and given.label is not None
        and bool((given.label >= num_classes).any())
    ):
        raise DataError(
            f"an image has the label {int(given.label.max())}, and the network takes 0 to "
            f"{num_classes - 1}; give the run a data set of {num_classes} classes"
        )
    return given


class Batches:
    """This rank's slice of each batch, made ready by threads while the steps before run.

    A slice is a function of (index, seed, step, number of ranks, rank): it is the same whenever and
    wherever it is made, and all ranks together read the order of one.

    Args:
        images: the training images.
        train: seed, batch size and number of steps.
        start: the first batch is that of the step after `start` completed ones.
        rank: 0 ... world_size - 1.
        world_size: number of equal slices.
        pinned: whether the batches go to a GPU.
        accepts: parts of a conditioning that the network takes.
        texts: how texts are made of the images, for a network that takes some.

    Raises:
        DataError: the data set does not hold such a part.
    """

    def __init__(
        self,
        images: Images,
        train: TrainConfig,
        *,
        start: int,
        rank: int,
        world_size: int,
        pinned: bool,
        accepts: frozenset[str] = frozenset(),
        texts: Texts | None = None,
    ) -> None:
        conditioning_of(images, np.empty(0, np.int64), accepts, texts=texts)  # not in a thread
        size = train.global_batch_size // world_size
        self._images, self._train, self._pinned = images, train, pinned
        self._accepts, self._texts = accepts, texts
        self._positions = rank * size + np.arange(size)
        self._rank, self._world_size = rank, world_size
        self._order: Order = images.order(train.seed)
        self._chunk_steps = max(1, min(_CHUNK_IMAGES, 4 * len(images)) // size)
        self._chunks: dict[int, NDArray[np.int64]] = {}
        self._lock = Lock()
        self._steps = iter(range(start, train.num_steps))
        num_ahead = images.num_ahead(size)
        self._pool = ThreadPoolExecutor(num_ahead, thread_name_prefix="batches")
        self._ready: deque[Future[Batch]] = deque()
        for _ in range(num_ahead):
            self._submit()

    def take(self) -> Batch:
        """Return the next slice."""
        made = self._ready.popleft().result()
        self._submit()
        return made

    def close(self) -> None:
        """End the threads; the batches that are ready are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ready.append(self._pool.submit(self._make, step))

    def _make(self, step: int) -> Batch:
        self._images.expect(step * self._train.global_batch_size)
        numbers = self._numbers(step)
        images = self._images.take(numbers, pinned=self._pinned)
        draw = Draw(self._train.seed, step, self._positions)
        conditioning = conditioning_of(
            self._images, numbers, self._accepts, texts=self._texts, draw=draw
        )
        return Batch(images, conditioning.pinned() if self._pinned else conditioning, numbers)

    def _numbers(self, step: int) -> NDArray[np.int64]:
        """Return the images of this rank's slice; those of many steps are computed at once."""
        chunk, row = divmod(step, self._chunk_steps)
        with self._lock:
            if chunk not in self._chunks:
                first = chunk * self._chunk_steps
                steps = range(first, min(first + self._chunk_steps, self._train.num_steps))
                positions = slice_positions(
                    steps, self._train.global_batch_size, self._rank, self._world_size
                )
                self._chunks = {
                    **{old: rows for old, rows in self._chunks.items() if old >= chunk - 1},
                    chunk: images_at(self._order, positions),
                }
            numbers: NDArray[np.int64] = self._chunks[chunk][row]
        return numbers
