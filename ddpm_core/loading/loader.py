"""What training and measuring see of a data set: images by their number, and batches made ahead.

A split of at most 4 GiB of pixels is decoded once and mapped into memory, a larger one is read from
its shards while it is used: see `decoded` and `stream`. Which of the two follows from the index
alone, and so does the order of training, which differs.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.config import TrainConfig
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.decoded import decoded_bytes, open_decoded
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.permutation import FullOrder, Order, images_at, slice_positions
from ddpm_core.shards.index import Index, Split
from ddpm_core.store.storage import Store

MAX_DECODED_BYTES = 4 * 2**30
"""pixels of a split that is held in memory; more are read from the shards"""
_CHUNK_IMAGES = (
    2**14
)  # whose order is computed at once: one by one it would take as long as reading


@dataclass(frozen=True)
class ImageSet:
    """A split of a data set in memory."""

    images_u8: Tensor
    """(N, channels, height, width) uint8"""
    labels: Tensor
    """(N,) int64"""
    num_classes: int
    """classes of the data set, whether they occur or not"""
    counts: tuple[int, ...]
    """images of each shard"""

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, seed: int) -> FullOrder:
        """Return the order of training: all images permuted with each other."""
        return FullOrder(seed, len(self))

    def windows(self, seed: int) -> BlockOrder:
        """Return the order that it would have, were it read from its shards."""
        return BlockOrder(seed, self.counts)

    def num_ahead(self, batch_size: int) -> int:  # noqa: ARG002 - as of StreamedImages
        """Return how many batches to make ahead: they are copies, and made in no time."""
        return 2

    def expect(self, position: int) -> None:
        """Nothing has to be fetched."""

    def take(self, numbers: NDArray[np.int64], *, pinned: bool = False) -> Tensor:
        """Return the images of these numbers, (b, channels, height, width) uint8."""
        images_u8 = batch(self, numbers)
        return images_u8.pin_memory() if pinned else images_u8

    def images(self, start: int, stop: int) -> Tensor:
        """Return images `start` to `stop` - 1."""
        return self.images_u8[start:stop]

    def labels_of(self, numbers: NDArray[np.int64]) -> Tensor:
        """Return the classes of the images of these numbers, (b,) int64."""
        return self.labels[torch.from_numpy(numbers)]

    def close(self) -> None:
        """Nothing is open."""


Images = ImageSet | StreamedImages
"""the images of a split by their number, wherever they are"""


def load_split(store: Store, index: Index, split: Split, *, num_decoders: int = 1) -> Images:
    """Return the images of a split; `close` them in the end.

    Args:
        store: where the data set is.
        index: what it is.
        split: which part of it.
        num_decoders: processes that decode, if it has to be read from its shards.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found. Of a split that does
            not fit memory this is found when the shard is first used.
        ConfigError: the local cache is too small.
    """
    cache = Cache.of_environment()
    if decoded_bytes(index, split) > MAX_DECODED_BYTES:
        return StreamedImages(store, index, split, cache, num_decoders=num_decoders)
    decoded = open_decoded(store, index, split, cache)
    return ImageSet(
        torch.from_numpy(decoded.images_u8),
        torch.from_numpy(decoded.labels),
        num_classes=len(index.classes),
        counts=tuple(shard.num_images for shard in index.shards[split]),
    )


def batch(image_set: ImageSet, indices: NDArray[np.int64]) -> Tensor:
    """Return the images at `indices`, (b, channels, height, width) uint8."""
    where = torch.from_numpy(indices).to(image_set.images_u8.device)
    return image_set.images_u8.index_select(0, where)


def to_unit_range(images_u8: Tensor, device: torch.device) -> Tensor:
    """Return what the network sees: x = u8 / 127.5 - 1 in [-1, 1], float32, on `device`.

    The bytes travel, not the floats: a quarter of the traffic.
    """
    return images_u8.to(device, non_blocking=True).to(torch.float32) / 127.5 - 1


def flip(images: Tensor, coin: Tensor) -> Tensor:
    """Mirror left and right the images (b, c, h, w) whose `coin` (b,) is True.

    Both are computed and one is chosen on the device: no wait for it.
    """
    return torch.where(coin[:, None, None, None], images.flip(-1), images)


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
    ) -> None:
        size = train.global_batch_size // world_size
        self._images, self._train, self._pinned = images, train, pinned
        self._rank, self._world_size = rank, world_size
        self._order: Order = images.order(train.seed)
        self._chunk_steps = max(1, min(_CHUNK_IMAGES, 4 * len(images)) // size)
        self._chunks: dict[int, NDArray[np.int64]] = {}
        self._lock = Lock()
        self._steps = iter(range(start, train.num_steps))
        num_ahead = images.num_ahead(size)
        self._pool = ThreadPoolExecutor(num_ahead, thread_name_prefix="batches")
        self._ready: deque[Future[Tensor]] = deque()
        for _ in range(num_ahead):
            self._submit()

    def take(self) -> Tensor:
        """Return the next slice, (b, c, h, w) uint8."""
        images_u8 = self._ready.popleft().result()
        self._submit()
        return images_u8

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

    def _make(self, step: int) -> Tensor:
        self._images.expect(step * self._train.global_batch_size)
        return self._images.take(self._numbers(step), pinned=self._pinned)

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
