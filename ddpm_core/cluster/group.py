"""A group of workers that train together: Ray Train, begun again when a worker is lost."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.torch
import torch
from ray.train.torch.config import (
    TorchConfig,
    _set_torch_distributed_env_vars,
    _TorchBackend,
)
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from ddpm_core.cluster import kept
from ddpm_core.cluster.connection import num_workers, one_line, scratch, uses_gpu
from ddpm_core.cluster.losses import RestartPolicy, by_rank, hush, is_of_a_lost_peer, is_of_ray
from ddpm_core.cluster.memory import TRAIN_KEYS, lack_of_memory
from ddpm_core.cluster.network import choose_interface, meet, open_meeting_place
from ddpm_core.cluster.silence import Silence
from ddpm_core.cluster.start import StartLimit, read_reason, release_places
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, PipelineError
from ddpm_core.machine import keep_freed_memory
from ddpm_core.servers.own_ray import GROUP_SETTINGS, IS_OURS

_log = logging.getLogger(__name__)

_MAX_CONTROLLER_FAILURES = 5
_ABORT_TIMEOUT_S = 15.0
"""seconds for workers to end in order; their job, which ends with this process, takes the others"""


def train_group(
    worker: Callable[[dict[str, Any]], None],
    payload: dict[str, Any],
    compute: ComputeConfig,
    *,
    name: str,
) -> None:
    """Run `worker(payload)` on every rank of a torch process group until all have returned.

    If a worker is lost the group is started again, at most `compute.max_failures` times; `worker`
    finds by itself where to continue. An error that would come again is not retried.

    Args:
        worker: a function of an importable module; calls `place()` for its rank and device.
        payload: JSON values.
        compute: how many workers, and with what.
        name: shown by Ray.

    Raises:
        PipelineError: the very error that a rank raised.
        ClusterError: if workers were lost too often.
    """
    kept.release()
    for key, value in GROUP_SETTINGS.items():
        os.environ.setdefault(key, value)
    losses = 0
    while True:
        # Ray's own record of a run is never read again, so it lies in a fresh folder that is
        # removed: what a run is continued from are our manifests alone.
        with tempfile.TemporaryDirectory(
            prefix="ddpm-ray-", dir=scratch(), ignore_cleanup_errors=True
        ) as folder:
            tally, reason = Path(folder, "losses"), Path(folder, "reason")
            try:
                _fit(_trainer(worker, payload, compute, name, Path(folder), losses), reason)
            except _GroupLostError as error:
                raise _lost_too_often(compute, str(error)) from error
            except _StartLostError as error:
                losses += (tally.stat().st_size if tally.exists() else 0) + 1
                if losses > compute.max_failures:
                    raise _lost_too_often(compute, str(error)) from error
                _log.warning("a worker was lost while the group started: %s", error)
            else:
                return


def _trainer(
    worker: Callable[[dict[str, Any]], None],
    payload: dict[str, Any],
    compute: ComputeConfig,
    name: str,
    folder: Path,
    losses: int,
) -> Any:  # noqa: ANN401 - Ray is untyped here
    gpu = uses_gpu(compute)
    resources = {"CPU": float(compute.cpus_per_worker)} | ({"GPU": 1.0} if gpu else {})
    return _Trainer(
        _Threads(worker, compute.cpus_per_worker),
        train_loop_config=payload,
        torch_config=_GroupConfig(timeout_s=compute.collective_timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers(compute), use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(
                max_failures=compute.max_failures - losses,
                controller_failure_limit=_MAX_CONTROLLER_FAILURES,
            ),
            callbacks=[
                RestartPolicy(folder / "losses"),
                StartLimit(compute, folder / "reason"),
                Silence(),
            ],
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        ),
    )


class _WorkerGroup(WorkerGroup):  # type: ignore[misc]  # Ray is untyped here
    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:  # noqa: ANN401
        if IS_OURS in os.environ:
            return custom_runtime_env
        return WorkerGroup._get_worker_runtime_env(custom_runtime_env)


class _Controller(TrainController):  # type: ignore[misc]  # Ray is untyped here
    worker_group_cls = _WorkerGroup


class _Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]  # Ray is untyped here
    """Ray's, ended by the first Ctrl-C, as an interruption; without callbacks that have no work."""

    def _register_sigint_handler(self, controller: Any) -> None:  # noqa: ANN401
        # Ray's own handler waits for a controller that, while a group starts, hears nothing; then
        # it ends the process with code 0, as if all were done.
        def interrupt(_number: int, _frame: object) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(controller.abort.remote(), timeout=_ABORT_TIMEOUT_S)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)

    def _initialize_and_run_controller(self, **words: Any) -> Any:  # noqa: ANN401
        # Ray's own gives controller and workers variables, which all processes of our own Ray have:
        # with any of them a process that was started ahead cannot be used.
        variables = {} if IS_OURS in os.environ else get_env_vars_to_propagate()
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        of_node = ray.remote(num_cpus=0, label_selector=here)(_Controller)
        if variables:
            of_node = of_node.options(runtime_env={"env_vars": variables})
        controller = of_node.remote(**words)
        if threading.current_thread() is threading.main_thread():
            self._register_sigint_handler(controller)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())

    def _create_default_callbacks(self) -> list[Any]:
        # Two seconds of a core each. One hands out data sets of Ray's, of which there are none. The
        # other gives back the places of a group whose controller was lost: so does the end of
        # this job, which follows from that, and before it `release_places`.
        idle = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, idle)]


def _lost_too_often(compute: ComputeConfig, what: str) -> ClusterError:
    return ClusterError(
        f"workers were lost more than compute.max_failures={compute.max_failures} times; the "
        f"last: {what}. If that was for lack of memory, lower {TRAIN_KEYS}. Run again to continue "
        "from the newest checkpoint"
    )


class _Threads:
    """The worker, on as many threads as it has cores; torch's own default is all of the node's."""

    def __init__(self, worker: Callable[[dict[str, Any]], None], num_threads: int) -> None:
        self._worker, self._num_threads = worker, num_threads

    def __call__(self, payload: dict[str, Any]) -> None:
        torch.set_num_threads(self._num_threads)
        keep_freed_memory()
        try:
            self._worker(payload)
        except (PipelineError, RuntimeError, MemoryError) as error:
            if (lack := lack_of_memory(error, TRAIN_KEYS)) is not None:
                hush()
                raise lack from None
            if isinstance(error, PipelineError) or is_of_a_lost_peer(error):
                hush()  # the driver says it in one line
            raise


class _StartLostError(Exception):
    """A worker was lost before all had started; Ray Train does not retry that by itself."""


class _GroupLostError(Exception):
    """Workers were lost more often than `compute.max_failures` allows."""


def _fit(trainer: Any, reason: Path) -> None:  # noqa: ANN401 - Ray is untyped here
    """Run to the end; `reason` is the file of `StartLimit`.

    Raises:
        Exception: the very error that a rank raised.
        ClusterError: Ray gave up for another reason than a lost worker.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit:
        # Ray's own handler of Ctrl-C ends the process with code 0, as if all were done.
        raise KeyboardInterrupt from None
    except ray.train.ControllerError as error:
        cause = error.controller_failure
        if isinstance(cause, PipelineError):
            raise cause from None
        if isinstance(cause, ray.exceptions.RayError) or is_of_a_lost_peer(cause):
            raise _StartLostError(one_line(cause)) from error
        if is_of_ray(cause):
            raise ClusterError(f"the group of workers did not start: {one_line(cause)}") from error
        raise cause from error
    except ray.train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        raise _GroupLostError(by_rank(failures) or one_line(error)) from error
    except ray.exceptions.RayError as error:
        if (why := read_reason(reason)) is not None:
            # A head that is gone by now must not replace the reason that is known.
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                release_places()
            text, lacks_room = why
            if not lacks_room:
                raise _StartLostError(text) from None
            raise ClusterError(
                f"{text}. Add nodes, or lower compute.num_workers or compute.cpus_per_worker; all "
                "up to the newest checkpoint is kept, and the same command continues"
            ) from None
        raise ClusterError(f"the cluster lost the run: {one_line(error)}. Run again") from error
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


class _GroupBackend(_TorchBackend):  # type: ignore[misc]  # Ray is untyped here
    """Torch's process group, met at an address of rank 0's node, within a time."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ANN401
        limit_s = backend_config.timeout_s

        def everywhere(function: Callable[..., Any]) -> None:
            ray.get(worker_group.execute_async(function), timeout=limit_s)

        try:
            everywhere(choose_interface)
            everywhere(_set_torch_distributed_env_vars)
            opened = worker_group.execute_single_async(0, open_meeting_place)
            address, port = ray.get(opened, timeout=limit_s)
            gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
            size = len(worker_group)
            how = {"backend": "nccl" if gpu else "gloo", "timeout_s": limit_s}
            met = [
                worker_group.execute_single_async(rank, meet, address, port, rank, size, **how)
                for rank in range(size)
            ]
            ray.get(met, timeout=limit_s)
        except (ray.exceptions.RayError, RuntimeError):
            worker_group.abort()  # as in RestartPolicy: Ray would not
            raise


@dataclass
class _GroupConfig(TorchConfig):  # type: ignore[misc]  # Ray is untyped here
    @property
    def backend_cls(self) -> type[_GroupBackend]:
        return _GroupBackend
