"""A training with previews between its steps: a piece of one at a time, so that no step waits long.

The weights are copied when a preview is due, and drawn from while the training goes on. What is
drawn a thread publishes: a storage that does not answer holds up the next checkpoint and no step.

Nothing of it reaches the training: other weights, other numbers (`seeding`), another network.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from torch import Tensor

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import first_share
from ddpm_core.config.doubts import MUCH_KEPT
from ddpm_core.config.model_ref import EMA, RAW
from ddpm_core.inference.weights import MODEL
from ddpm_core.progress import WARNING
from ddpm_core.training.loop import Training
from ddpm_core.training.preview import Preview, Seen
from ddpm_core.training.stepping.trainee import Trainee

_log = logging.getLogger(__name__)

MUCH_TIME = 0.05
"""Share of the time of a training that previews may take unsaid."""

Publish = Callable[[int, str, Seen], None]
"""Called in a thread with step, average and what was seen."""


class Interleaved:
    """A `Training` that makes previews; a context manager. Used by rank 0 alone.

    Args:
        training: what is trained.
        config: of the run.
        preview: what is made.
        publish: keeps it.
        made: the steps whose previews are there.
        now: the time, in seconds.
    """

    def __init__(
        self,
        training: Training,
        config: RunConfig,
        preview: Preview,
        publish: Publish,
        *,
        made: Collection[int],
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._training, self._config, self._preview = training, config, preview
        self._publish, self._made, self._now = publish, made, now
        self._num_steps = config.train.num_steps
        self._every = config.train.preview_every or self._num_steps
        self._pieces_a_step = math.ceil(preview.num_pieces / self._every)
        self._work: Iterator[None] = iter(())
        self._begun_s, self._cost_s, self._is_said = 0.0, 0.0, False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="previews")
        self._publishing: list[Future[None]] = []

    @property
    def trainee(self) -> Trainee:
        """That of the training."""
        return self._training.trainee

    @property
    def accepts(self) -> frozenset[str]:
        """That of the training."""
        return self._training.accepts

    def step(self, step: int, images_u8: Tensor, conditioning: Conditioning) -> None:
        """Do some pieces of the preview that is being made, if any; then the training's step.

        A preview is begun before the step that follows it: behind the checkpoint of its own step,
        from which a training that is killed meanwhile goes on and makes it anew.
        """
        self._begin_if_due(step)
        self._advance(self._pieces_a_step)
        self._training.step(step, images_u8, conditioning)

    def settle(self, completed: int) -> list[Future[None]]:
        """Draw what is left of the previews of earlier steps; after the last step its own, too.

        Args:
            completed: steps, of which a checkpoint is about to be made.

        Returns:
            What publishes them, and raises StorageError if one cannot be kept: to be done before
            that checkpoint is committed, since nothing before it is made again.
        """
        if completed == self._num_steps:
            self._begin_if_due(completed)
        self._advance(None)
        publishing, self._publishing = self._publishing, []
        return publishing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin_if_due(self, completed: int) -> None:
        is_due = completed % self._every == 0 or completed == self._num_steps
        if not is_due or completed in self._made:
            return
        self._advance(None)
        self._judge_cost()
        first = first_share(self._config.train, EMA, completed) if completed else None
        average = RAW if first is None or first > MUCH_KEPT else EMA
        raw = dict(self.trainee.modules[MODEL].named_parameters())
        self._preview.take(raw if average == RAW else self.trainee.averaged())
        self._work = self._make(completed, average)

    def _make(self, step: int, average: str) -> Iterator[None]:
        seen = yield from self._preview.pieces()
        if seen.loss is not None and not math.isfinite(seen.loss):
            _log.warning(
                "%sthe preview of step %d is left out: its loss is %s", WARNING, step, seen.loss
            )
            return
        self._publishing.append(self._thread.submit(self._publish, step, average, seen))

    def _advance(self, num_pieces: int | None) -> None:
        """Do so many pieces of what is being made; None: all that are left."""
        before = self._now()
        for _ in itertools.islice(self._work, num_pieces):
            pass
        self._cost_s += self._now() - before

    def _judge_cost(self) -> None:
        """Say once how much of the time previews take, if it is much."""
        now, cost_s = self._now(), self._cost_s
        since_s, self._begun_s, self._cost_s = now - self._begun_s, now, 0.0
        if not cost_s or self._is_said or cost_s <= MUCH_TIME * since_s:
            return
        self._is_said = True
        wanted = math.ceil(self._every * (cost_s / MUCH_TIME - cost_s) / (since_s - cost_s))
        _log.warning(
            "%sa preview took %.2g s, %.0f %% of the time since the one before, with "
            "train.preview_every=%d; with train.preview_every=%d it is %.0f %%",
            WARNING, cost_s, 100 * cost_s / since_s, self._every, wanted, 100 * MUCH_TIME,
        )  # fmt: skip
