"""A pool of actors that share out units: files, samples, measurements.

Actors that are left go to the next pool of this process (`kept`), with all that they imported and
nothing of what they did.
"""

import contextlib
import gc
import logging
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import ray
import ray.exceptions

from ddpm_core.cluster import kept, pulse
from ddpm_core.cluster.connection import num_workers, one_line, uses_gpu
from ddpm_core.cluster.memory import POOL_KEYS, lack_of_memory
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, PipelineError
from ddpm_core.machine import give_back_memory, keep_freed_memory

if TYPE_CHECKING:
    import torch

Unit = TypeVar("Unit")
Result = TypeVar("Result")
GetDevice: TypeAlias = "Callable[[], torch.device]"

_log = logging.getLogger(__name__)

_START_TIMEOUT_S = 300.0
_LOOK_EVERY_S = 10.0
_FORGET_TIMEOUT_S = 10.0


def map_units(
    make_worker: Callable[[dict[str, Any], GetDevice], Callable[[Unit], Result]],
    payload: dict[str, Any],
    units: Sequence[Unit],
    compute: ComputeConfig,
    *,
    on_done: Callable[[Unit, Result], None],
) -> None:
    """Run every unit once, on one of `compute.num_workers` actors.

    An actor that dies, or computes nothing for too long (see `pulse`), is replaced and its unit is
    made again, so a unit's result must be a function of the unit, and publishing it twice must do
    no harm.

    Args:
        make_worker: called once in each actor as `make_worker(payload, get_device)`; returns the
            function that is called with each unit. Both must be importable or picklable. Who
            computes calls `get_device()`; one that does not is spared the import of torch.
        payload: JSON values.
        units: small values; what they stand for is read by the worker. Asked for one by one, so
            that they may be made then.
        compute: how many workers, and with what.
        on_done: called here, in the caller's thread, with each unit and its result, in the order
            in which they are finished. Results are small; large ones go to the storage.

    Raises:
        PipelineError: the very error that a worker raised; it is not retried.
        ConfigError: a worker's memory, or its device's, is too small.
        ClusterError: after more than `compute.max_failures` deaths, or if no actor starts.
    """
    waiting, remaining = deque(range(len(units))), len(units)
    pool = _Pool(make_worker, payload, compute)
    deaths = 0
    idle: list[Any] = []

    def busy_again(actor: Any) -> None:  # noqa: ANN401
        position = waiting.popleft()
        pool.assign(actor, position, units[position])

    try:
        for _ in range(min(num_workers(compute), len(waiting))):
            pool.add()
        while remaining:
            actor, position, outcome = pool.next_event()
            if isinstance(outcome, PipelineError):
                raise outcome
            if isinstance(outcome, ray.exceptions.RayError):
                deaths += 1
                if deaths > compute.max_failures:
                    raise ClusterError(
                        f"workers died {deaths} times, compute.max_failures={compute.max_failures} "
                        f"allows no more; the last: {one_line(outcome)}. If that was for lack of "
                        f"memory, lower {POOL_KEYS}. Run again: finished units are kept"
                    ) from outcome
                _log.warning("a worker died (%s); starting another", one_line(outcome))
                if position is not None:
                    waiting.appendleft(position)
                pool.discard(actor)
                # An actor that has nothing to do holds what a new one would wait for.
                if waiting and idle:
                    busy_again(idle.pop())
                elif waiting:
                    pool.add()
                continue
            if position is not None:
                on_done(units[position], outcome)
                remaining -= 1
            if waiting:
                busy_again(actor)
            else:
                idle.append(actor)
    finally:
        if remaining:
            pool.close()
            kept.release()
        else:
            pool.hand_on(idle)


class StuckError(ray.exceptions.RayError):  # type: ignore[misc]  # Ray is untyped here
    """A worker has done nothing for as long as `pulse` allows."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"it computed nothing for {limit_s:g} s: does its file system or its device answer? "
            f"(limit: {pulse.LIMIT_VARIABLE})"
        )


class _PoolActor:
    """Makes its worker at the first unit, so that an error while making it is an answer too."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._make: Any = None
        self._payload: dict[str, Any] = {}
        self._worker: Callable[[Any], Any] | None = None

    def show(self, name: str) -> None:
        """Show the pulse of this process under this name."""
        pulse.show(name)

    def begin(self, make_worker: Any, payload: dict[str, Any]) -> None:  # noqa: ANN401
        """Work for a pool from now on."""
        self._make, self._payload, self._worker = make_worker, payload, None

    def forget(self) -> None:
        """Drop what was made for the units of a pool, and give its memory back."""
        self._make, self._payload, self._worker = None, {}, None
        gc.collect()  # networks with hooks are cycles
        give_back_memory()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def run(self, unit: Any) -> Any:  # noqa: ANN401 - whatever the caller's units are
        """Return the worker's result, or the PipelineError that it raised or ran into."""
        try:
            if self._worker is None:
                self._worker = self._make(self._payload, self._device)
            return self._worker(unit)
        except PipelineError as error:
            return error
        except (MemoryError, RuntimeError) as error:
            if (lack := lack_of_memory(error, POOL_KEYS)) is None:
                raise
            return lack

    def _device(self) -> "torch.device":
        """Return the device of this actor, after limiting torch to its cores."""
        import torch  # here, because it takes three seconds

        torch.set_num_threads(self._num_threads)
        keep_freed_memory()
        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        return torch.device("cuda:0" if gpus else "cpu")


class _Pool:
    """The actors, and what each is doing."""

    def __init__(self, make_worker: Any, payload: dict[str, Any], compute: ComputeConfig) -> None:  # noqa: ANN401
        self._begin = (make_worker, payload)
        self._kind = kept.Kind(compute.cpus_per_worker, 1 if uses_gpu(compute) else 0)
        # What compiled or recorded networks leave in torch grows with each network of a process.
        self._may_be_kept = not (compute.compile or compute.cuda_graphs)
        kept.release(other_than=self._kind)
        self._names: dict[Any, str] = {}
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._unanswered: set[Any] = set()  # of those that were kept
        self._watch = pulse.Watch(pulse.limit_s())

    def add(self) -> None:
        taken = kept.take(self._kind)
        actor, name = taken or self._new()
        self._names[actor] = name
        if taken is not None:
            self._unanswered.add(actor)
        self._busy[actor.begin.remote(*self._begin)] = (actor, None)

    def _new(self) -> kept.Named:
        actor = ray.remote(_PoolActor).options(**self._kind._asdict()).remote(self._kind.num_cpus)
        name = uuid.uuid4().hex
        actor.show.remote(name)
        return kept.Named(actor, name)

    def assign(self, actor: Any, position: int, unit: Any) -> None:  # noqa: ANN401
        self._watch.begin(self._names[actor])
        self._busy[actor.run.remote(unit)] = (actor, position)

    def next_event(self) -> tuple[Any, int | None, Any]:
        """Wait for an actor; return it, its unit's position (None: it has started), the result.

        The result is an error of Ray's if the actor died or is stuck.

        Raises:
            ClusterError: if none works and none has started within five minutes.
        """
        began = time.monotonic()
        while True:
            done, _ = ray.wait(list(self._busy), num_returns=1, timeout=_LOOK_EVERY_S)
            if done:
                break
            if (stuck := self._stuck()) is not None:
                return stuck
            working = any(position is not None for _, position in self._busy.values())
            if not working and time.monotonic() - began > _START_TIMEOUT_S:
                raise ClusterError(
                    f"no worker started within {_START_TIMEOUT_S:g} s; the cluster has "
                    f"{ray.available_resources()} free. Free some, or lower compute.num_workers"
                )
        actor, position = self._busy.pop(done[0])
        was_kept = actor in self._unanswered
        self._unanswered.discard(actor)
        try:
            return actor, position, ray.get(done[0])
        except ray.exceptions.RayTaskError:
            raise  # a defect in the worker: another actor would meet it too
        except ray.exceptions.RayError as error:
            if not was_kept:
                return actor, position, error
        # It ended between two pools, with no work of this one: none of the deaths that are counted.
        self.discard(actor)
        self.add()
        return self.next_event()

    def _stuck(self) -> tuple[Any, int, StuckError] | None:
        for answer, (actor, position) in self._busy.items():
            if position is not None and self._watch.is_stuck(self._names[actor]):
                del self._busy[answer]
                return actor, position, StuckError(self._watch.limit)
        return None

    def discard(self, actor: Any) -> None:  # noqa: ANN401
        self._watch.end(self._names.pop(actor))
        ray.kill(actor)

    def close(self) -> None:
        for actor in list(self._names):
            self.discard(actor)

    def hand_on(self, idle: Sequence[Any]) -> None:
        """Keep the actors that have nothing to do for the next pool, and end the others."""
        forgotten = {one: one.forget.remote() for one in idle if self._may_be_kept}
        for actor, answer in forgotten.items():
            with contextlib.suppress(ray.exceptions.RayError):  # it has died, or does not answer
                ray.get(answer, timeout=_FORGET_TIMEOUT_S)
                kept.keep(self._kind, kept.Named(actor, self._names.pop(actor)))
        self.close()
