"""Checkpoints stored beside the training: the steps wait for a copy of the state, a thread does all
else.

Until a checkpoint is committed the one before it stands, and is what a training that is killed goes
on from. The thread makes sure first that the copy is sound and that all ranks hold equal weights.
What it raises the training raises: at its next point of the curves or checkpoint, or at its end.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from threading import Thread
from types import TracebackType
from typing import Self

from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.config.averages import has_snapshot, powers_of
from ddpm_core.errors import CheckpointError, PipelineError
from ddpm_core.progress import WARNING
from ddpm_core.store.storage import Store
from ddpm_core.training.stepping.parallel import Parallel
from ddpm_core.training.stepping.trainee import Trainee
from ddpm_core.training.storing import checkpoint, retention, snapshots
from ddpm_core.training.storing.checkpoint import Curve, Origin, Written
from ddpm_core.training.storing.elsewhere import Elsewhere
from ddpm_core.training.storing.host_copy import HostCopy
from ddpm_core.training.storing.soundness import require_equal, require_finite, weights_digest

_log = logging.getLogger(__name__)

LONG_S, MUCH_TIME = 1.0, 0.05
"""For so many seconds, or such a share of the time, steps may wait for a checkpoint unsaid."""
_WEIGHTS = "*"
"""in place of a role: the weights of all modules, which every rank holds"""


class Storing:
    """This rank's share in storing one checkpoint after the other; a context manager.

    All ranks make it, `take` and `finish` together. An error of the training waits for the
    checkpoint that is being stored, and gives way to that one's.

    Args:
        store: where the run lies.
        config: of the run.
        origin: what the checkpoints belong to.
        trainee: the state.
        parallel: the ranks.
        now: the time, in seconds.
    """

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        origin: Origin,
        trainee: Trainee,
        parallel: Parallel,
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store, self._config, self._origin = store, config, origin
        self._trainee, self._parallel, self._now = trainee, parallel, now
        self._beside = parallel.another()
        self._elsewhere = Elsewhere(trainee.parts(), self._beside)
        self._copy = HostCopy(self._held())
        self._stored: Future[float] | None = None
        self._step, self._taken_s, self._is_said = 0, now(), False

    def take(self, step: int, history: Curve, *, after: Sequence[Future[None]] = ()) -> None:
        """Begin to store a checkpoint of the state as it is now, once the one before is stored.

        Args:
            step: completed optimiser steps.
            history: the curves up to here; those of rank 0 count.
            after: what is to be done before it is committed.

        Raises:
            PipelineError: see `finish`; of the one before.
        """
        due_s = self._now()
        took_s = self._end()
        # All together: in the sum of the gradients none waits for another as long as here.
        self._parallel.wait()
        self._judge_interval(step, due_s, took_s)
        self._copy.take(self._held())
        self._step, self._taken_s, curve = step, self._now(), list(history)
        self._stored = _in_thread(lambda: self._store_copy(step, curve, after))

    def check(self) -> None:
        """Raise what the thread has ended with, if it has; wait for nothing."""
        if self._stored is not None and self._stored.done() and self._stored.exception():
            self._end()

    def finish(self) -> None:
        """Wait until the last checkpoint is stored.

        Raises:
            DivergenceError: the state is not sound, or the ranks differ.
            RunConflictError: another one of this step stands there.
            StorageError: the storage refuses or does not answer.
        """
        self._end()
        self._parallel.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = None if self._stored is None else self._stored.exception()
        if failed is None or error is None:
            return
        if isinstance(failed, PipelineError) and isinstance(error, Exception):
            raise failed from error  # it was there first
        error.add_note(f"The checkpoint of step {self._step} was not stored: {failed}")

    # -- what steps wait for -----------------------------------------------------------------

    def _held(self) -> dict[str, dict[str, Tensor]]:
        """Return what this rank holds of what is written, and what is compared: not copies."""
        parts = self._trainee.parts()
        held = {
            role: {name: one for name, one in part.items() if not one.is_meta}
            for role, part in parts.items()
            if self._parallel.writes(role)
        }
        for role, name in self._elsewhere.sent:
            held.setdefault(role, {})[name] = parts[role][name]
        return held | {_WEIGHTS: self._trainee.weights()}

    def _end(self) -> float | None:
        """Wait for the thread; return how many seconds it took, None if there is none."""
        if self._stored is None:
            return None
        wait([self._stored])
        stored, self._stored = self._stored, None
        return stored.result()

    def _judge_interval(self, step: int, due_s: float, took_s: float | None) -> None:
        """Say once that checkpoints come so often that steps wait for them, if they do."""
        waited_s, steps_s = self._now() - due_s, due_s - self._taken_s
        is_long = waited_s > max(LONG_S, MUCH_TIME * steps_s)
        if not is_long or self._is_said or self._parallel.rank:
            return
        if took_s is None or not took_s > steps_s > 0:
            return  # it was another rank that was waited for
        self._is_said = True
        every = math.ceil((step - self._step) * took_s / steps_s)
        _log.warning(
            "%sthe checkpoint of step %d took %.2g s to store, and the next was due after %.2g s: "
            "the steps waited for %.2g s; with train.checkpoint_every=%d they do not",
            WARNING, self._step, took_s, steps_s, waited_s, every,
        )  # fmt: skip

    # -- what a thread does ------------------------------------------------------------------

    def _store_copy(self, step: int, history: Curve, after: Sequence[Future[None]]) -> float:
        """Store the copy if it is sound; return how many seconds that took."""
        begun_s = self._now()
        self._copy.wait()
        require_finite(self._copy.parts, step=step)
        digest = weights_digest(self._copy.parts[_WEIGHTS])
        require_equal(self._beside.gather(digest), step=step)
        own = self._write(step)
        written = checkpoint.from_texts(self._beside.gather_text(checkpoint.to_text(own)))
        if not self._beside.rank:
            for one in after:
                one.result()
            self._commit(step, history, written)
        return self._now() - begun_s

    def _write(self, step: int) -> Written:
        """Write the parts that this rank writes, and on rank 0 the snapshot; or send for them."""
        run, train, copies = self._config.name, self._config.train, self._copy.parts
        parts = {
            # What is neither copied nor elsewhere is a KeyError here: the next step changes it.
            role: {name: one if one.is_meta else copies[role][name] for name, one in part.items()}
            for role, part in self._trainee.parts().items()
            if self._beside.writes(role)
        }
        if self._beside.rank:
            self._elsewhere.serve(copies)
        fetch = self._elsewhere.fetch
        try:
            written = checkpoint.write_parts(self._store, run, step, parts, fetch=fetch)
            if not self._beside.rank and has_snapshot(train, step):
                powers = powers_of(train)
                kept = {
                    role: part for role, part in parts.items() if role.partition(".")[0] in powers
                }
                snapshots.keep(self._store, run, self._origin, step, kept, fetch=fetch)
            return written
        finally:
            if not self._beside.rank:
                self._elsewhere.end()

    def _commit(self, step: int, history: Curve, written: Written) -> None:
        store, run, train = self._store, self._config.name, self._config.train
        if missing := self._trainee.parts().keys() - written.keys():
            raise CheckpointError(
                f"no rank has written {', '.join(sorted(missing))} of the checkpoint of step "
                f"{step}: it is not published; this is a mistake in `Parallel.writes`"
            )
        checkpoint.commit(
            store,
            run,
            self._origin,
            step=step,
            images_seen=step * train.global_batch_size,
            written=written,
            history=history,
        )
        retention.prune(store, run, train.keep_checkpoints)


def _in_thread(work: Callable[[], float]) -> Future[float]:
    """Begin `work` in a thread that keeps no process alive: after a lost rank none waits for it."""
    future: Future[float] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the training raises it
            future.set_exception(error)

    Thread(target=run, name="checkpoint", daemon=True).start()
    return future
