"""A pool of actors that share out units: files, samples, measurements."""

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import ray
import ray.exceptions

from ddpm_core.cluster import pulse
from ddpm_core.cluster.connection import num_workers, one_line, uses_gpu
from ddpm_core.cluster.memory import POOL_KEYS, lack_of_memory
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, PipelineError
from ddpm_core.machine import keep_freed_memory

if TYPE_CHECKING:
    import torch

Unit = TypeVar("Unit")
Result = TypeVar("Result")
GetDevice: TypeAlias = "Callable[[], torch.device]"

_log = logging.getLogger(__name__)

_START_TIMEOUT_S = 300.0
_LOOK_EVERY_S = 10.0


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
    waiting = deque(range(len(units)))
    pool = _Pool(make_worker, payload, compute)
    deaths = 0
    idle: list[Any] = []

    def busy_again(actor: Any) -> None:  # noqa: ANN401
        position = waiting.popleft()
        pool.assign(actor, position, units[position])

    try:
        for _ in range(min(num_workers(compute), len(waiting))):
            pool.add()
        remaining = len(waiting)
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
        pool.close()


class StuckError(ray.exceptions.RayError):  # type: ignore[misc]  # Ray is untyped here
    """A worker has done nothing for as long as `pulse` allows."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"it computed nothing for {limit_s:g} s: does its file system or its device answer? "
            f"(limit: {pulse.LIMIT_VARIABLE})"
        )


class _PoolActor:
    """Makes its worker at the first unit, so that an error while making it is an answer too."""

    def __init__(self, make_worker: Any, payload: dict[str, Any], num_threads: int) -> None:  # noqa: ANN401
        self._make, self._payload, self._num_threads = make_worker, payload, num_threads
        self._worker: Callable[[Any], Any] | None = None

    def ready(self, name: str) -> None:
        """Answer, once the process is there; it shows its pulse under this name."""
        pulse.show(name)

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
        self._arguments = (make_worker, payload, compute.cpus_per_worker)
        self._actor_class = ray.remote(_PoolActor).options(
            num_cpus=compute.cpus_per_worker, num_gpus=1 if uses_gpu(compute) else 0
        )
        self._names: dict[Any, str] = {}
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._watch = pulse.Watch(pulse.limit_s())

    def add(self) -> None:
        actor = self._actor_class.remote(*self._arguments)
        self._names[actor] = uuid.uuid4().hex
        self._busy[actor.ready.remote(self._names[actor])] = (actor, None)

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
        try:
            return actor, position, ray.get(done[0])
        except ray.exceptions.RayTaskError:
            raise  # a defect in the worker: another actor would meet it too
        except ray.exceptions.RayError as error:
            return actor, position, error

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
