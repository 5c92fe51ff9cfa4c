"""The loop over the steps: a generator of events: points of the curves, and checkpoints due.

The caller prints, tracks and stores them. Between two events nothing
waits for the device.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import TrainConfig
from ddpm_core.config.rates import learning_rate
from ddpm_core.errors import DivergenceError
from ddpm_core.loading.batches import Batches
from ddpm_core.training.stepping.scaling import FLOOR
from ddpm_core.training.stepping.trainee import Trainee


class Training(Protocol):
    """A kind of training: the trained state, and one step.

    What it counts must have a `loss`, which is shown while it runs.
    """

    @property
    def trainee(self) -> Trainee:
        """The state that the steps change; the same object from beginning to end."""

    @property
    def accepts(self) -> frozenset[str]:
        """Parts of a conditioning that the step takes."""

    def step(self, step: int, images_u8: Tensor, conditioning: Conditioning) -> None:
        """Move the weights by one step, and count it; nothing waits for the device.

        Args:
            step: number of steps completed before this one.
            images_u8: (b, c, h, w), this rank's slice of the global batch.
            conditioning: of each image.
        """


@dataclass(frozen=True)
class Point:
    """A point of the curves, after `step` steps."""

    step: int
    values: dict[str, float]
    """the same however often the run was interrupted: what the training counts (of denoising
    `loss` and `loss_q0` ... `loss_q3`, means since the last point, and `grad_norm` of the last
    step; in float16 `loss_scale` and, since step 0, `skipped_steps`), `learning_rate` (of the last
    step), `images_seen`"""
    timing: dict[str, float]
    """this time's speed: `images_per_s`, `step_s`, and `data_wait_s` (in all, since the last
    point; seconds in which the step waited for its batch)"""


@dataclass(frozen=True)
class Commit:
    """A checkpoint is due, of the state after `step` steps."""

    step: int


def run_steps(
    training: Training, batches: Batches, train: TrainConfig, *, start: int
) -> Iterator[Point | Commit]:
    """Train from `start` completed steps to `train.num_steps`.

    A point comes after every `log_every` steps, a checkpoint after every `checkpoint_every`, both
    after the last step; a point before a checkpoint of the same step. All ranks see the same
    events and must take each before the next.

    Args:
        training: in the state after `start` steps.
        batches: this rank's slices of the batches from `start` on.
        train: the optimisation.
        start: completed steps.

    Raises:
        DivergenceError: if loss or gradient are not finite at a point, or, in float16, are not
            whatever the scale.
    """
    last_point, committed, begin, waited = start, start, time.perf_counter(), 0.0
    for step in range(start, train.num_steps):
        before = time.perf_counter()
        batch = batches.take()
        waited += time.perf_counter() - before
        training.step(step, batch.images, batch.conditioning)

        done = step + 1
        if _is_due(done, train.log_every, train):
            values = _values(training, train, step, committed)
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
            training.trainee.counts.gather()
            before = time.perf_counter()
            yield Commit(done)
            committed = done
            begin += time.perf_counter() - before  # the time to store it is none of training


def _is_due(done: int, every: int, train: TrainConfig) -> bool:
    return done % every == 0 or done == train.num_steps


def _values(training: Training, train: TrainConfig, step: int, committed: int) -> dict[str, float]:
    point = training.trainee.counts.point()
    rate = learning_rate(step, train)
    if not all(math.isfinite(value) for value in point.values()):
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in sorted(point.items()))
        raise DivergenceError(
            f"training diverged by step {step + 1}: {numbers}, learning rate {rate:.3g}; all must "
            f"be finite. The last checkpoint is of step {committed}. Lower train.learning_rate or "
            "raise train.warmup_steps, under another run name"
        )
    if point.get("loss_scale") == FLOOR:
        raise DivergenceError(
            f"training diverged by step {step + 1}: its gradients overflow float16 even of a loss "
            f"times {FLOOR:.2g}, and {point['skipped_steps']:.0f} steps were left out. The last "
            f"checkpoint is of step {committed}. Set train.precision=float32 (or bfloat16), or "
            "lower train.learning_rate, under another run name"
        )
    seen = float((step + 1) * train.global_batch_size)
    return point | {"learning_rate": rate, "images_seen": seen}
