"""The loop over the steps: a generator that tells of points of the curves and of checkpoints due.

What is done with them (printing, tracking, storing) is the caller's. Between two events nothing
waits for the device.
"""

import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor

from ddpm_core.config import TrainConfig
from ddpm_core.data.loader import ImageSet, batch
from ddpm_core.data.order import global_batch_indices
from ddpm_core.errors import DivergenceError
from ddpm_core.training.step import Learner, learning_rate

_NUM_PREFETCHED = 2


@dataclass(frozen=True)
class Point:
    """A point of the curves, after `step` steps."""

    step: int
    values: dict[str, float]
    """the same however often the run was interrupted: `loss` and `loss_q0` ... `loss_q3` (mean
    since the last point), `grad_norm`, `learning_rate` (of the last step), `images_seen`"""
    timing: dict[str, float]
    """this time's speed: `images_per_s`, `step_s`, and `data_wait_s` (in all, since the last
    point; seconds in which the step waited for its batch)"""


@dataclass(frozen=True)
class Commit:
    """A checkpoint is due, of the state after `step` steps."""

    step: int


def run_steps(
    learner: Learner, batches: "Batches", train: TrainConfig, *, start: int
) -> Iterator[Point | Commit]:
    """Train from `start` completed steps to `train.num_steps`.

    A point comes after every `log_every` steps, a checkpoint after every `checkpoint_every`, both
    after the last step; a point before a checkpoint of the same step. All ranks see the same
    events and must take each before the next.

    Args:
        learner: in the state after `start` steps.
        batches: this rank's slices of the batches from `start` on.
        train: the optimisation.
        start: completed steps.

    Raises:
        DivergenceError: if loss or gradient are not finite at a point.
    """
    last_point, committed, begin, waited = start, start, time.perf_counter(), 0.0
    for step in range(start, train.num_steps):
        before = time.perf_counter()
        images_u8 = batches.take()
        waited += time.perf_counter() - before
        learner.step(step, images_u8)

        done = step + 1
        if _is_due(done, train.log_every, train):
            values = _values(learner, train, step, committed)
            elapsed = time.perf_counter() - begin
            num_steps = done - last_point
            timing = {
                "images_per_s": num_steps * train.global_batch_size / elapsed,
                "step_s": elapsed / num_steps,
                "data_wait_s": waited,
            }
            yield Point(done, values, timing)
            last_point, begin, waited = done, time.perf_counter(), 0.0
        if _is_due(done, train.checkpoint_every, train):
            learner.gather_window()
            before = time.perf_counter()
            yield Commit(done)
            committed = done
            begin += time.perf_counter() - before  # the time to store it is none of training


def _is_due(done: int, every: int, train: TrainConfig) -> bool:
    return done % every == 0 or done == train.num_steps


def _values(learner: Learner, train: TrainConfig, step: int, committed: int) -> dict[str, float]:
    point = learner.take_point()
    rate = learning_rate(step, train.learning_rate, train.warmup_steps)
    if not all(math.isfinite(value) for value in point.values()):
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in sorted(point.items()))
        raise DivergenceError(
            f"training diverged by step {step + 1}: {numbers}, learning rate {rate:.3g}; all must "
            f"be finite. The last checkpoint is of step {committed}. Lower train.learning_rate or "
            "raise train.warmup_steps, under another run name"
        )
    seen = float((step + 1) * train.global_batch_size)
    return point | {"learning_rate": rate, "images_seen": seen}


class Batches:
    """This rank's slice of each batch, made ready by a thread while the step before runs.

    Args:
        image_set: the training images, in memory.
        train: seed, batch size and number of steps.
        start: the first batch is that of the step after `start` completed ones.
        rank: 0 ... world_size - 1.
        world_size: number of equal slices.
        pinned: whether the batches go to a GPU.
    """

    def __init__(
        self,
        image_set: ImageSet,
        train: TrainConfig,
        *,
        start: int,
        rank: int,
        world_size: int,
        pinned: bool,
    ) -> None:
        size = train.global_batch_size // world_size
        self._slice = slice(rank * size, (rank + 1) * size)
        self._image_set, self._train, self._pinned = image_set, train, pinned
        self._steps = iter(range(start, train.num_steps))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ready: deque[Future[Tensor]] = deque()
        for _ in range(_NUM_PREFETCHED):
            self._order()

    def take(self) -> Tensor:
        """Return the next slice, (b, c, h, w) uint8."""
        images_u8 = self._ready.popleft().result()
        self._order()
        return images_u8

    def close(self) -> None:
        """End the thread; the batches that are ready are dropped."""
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

    def _order(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ready.append(self._pool.submit(self._make, step))

    def _make(self, step: int) -> Tensor:
        train = self._train
        indices = global_batch_indices(
            train.seed, step, train.global_batch_size, len(self._image_set)
        )
        images_u8 = batch(self._image_set, indices[self._slice])
        return images_u8.pin_memory() if self._pinned else images_u8
