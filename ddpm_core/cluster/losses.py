"""What a group's errors say: a worker that was lost, which another start cures, or a defect."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.exceptions
import ray.train
import torch
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from ddpm_core.cluster.connection import one_line
from ddpm_core.errors import ClusterError, PipelineError
from ddpm_core.output import say
from ddpm_core.progress import WARNING

_TRACEBACK_LOGGERS = (
    "ray.train.v2._internal.util",
    "ray.train.v2._internal.execution.failure_handling.default",
)
_PATIENCE_LOGGER = "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client"


class RestartPolicy(WorkerGroupCallback, ControllerCallback):  # type: ignore[misc]  # Ray is untyped here
    """Lets Ray restart after a lost worker, ends the run at any other error; counts the losses.

    Runs in Ray's controller, which is on the driver's node.
    """

    def __init__(self, tally: Path) -> None:
        self._tally = tally
        self._group: Any = None

    def after_controller_start(self, train_run_context: Any) -> None:  # noqa: ANN401, ARG002
        # This logger prints tracebacks when an actor takes over five seconds to start, and goes on.
        logging.getLogger(_PATIENCE_LOGGER).setLevel(logging.ERROR)

    def after_worker_group_start(self, worker_group: Any) -> None:  # noqa: ANN401
        self._group = worker_group

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:  # noqa: ANN401
        if not worker_group_status.errors:
            return
        error = incurable(worker_group_status.errors)
        if error is None:
            with self._tally.open("ab") as file:
                file.write(b"x")
            lost = by_rank(worker_group_status.errors)
            say(f"{WARNING}the group has lost a worker: {lost}", stream=sys.stderr)
            return
        if isinstance(error, PipelineError):
            hush()
        # As this class the controller neither retries it nor logs a traceback of its own.
        raise ray.train.ControllerError(error)

    async def before_controller_shutdown(self) -> None:
        # Ray forgets a group that loses a worker while it is started: the others would go on,
        # and their resources stay taken as long as the job lives.
        if self._group is not None and self._group.has_started():
            self._group.abort()


def incurable(errors: Mapping[int, Exception]) -> Exception | None:
    """Return the error that another start would meet again, or None if workers were just lost.

    Args:
        errors: by rank, of those that failed.
    """
    ordered = [error for _, error in sorted(errors.items())]
    for error in ordered:
        if isinstance(error, PipelineError) and not isinstance(error, ClusterError):
            return error
    # A rank raises ClusterError for a process of its own that was lost, as one that decodes images.
    if any(is_of_ray(error) or isinstance(error, ClusterError) for error in ordered):
        return None  # a worker is gone; whatever the others say follows from that
    return next((error for error in ordered if not is_of_a_lost_peer(error)), None)


def hush() -> None:
    """Keep Ray Train from printing tracebacks of an error that is meant for the user."""
    for name in _TRACEBACK_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def is_of_ray(error: Exception) -> bool:
    return isinstance(error, ray.exceptions.RayError) or type(error).__module__.startswith("ray.")


def is_of_a_lost_peer(error: Exception) -> bool:
    # Gloo reports a peer that is gone as a plain RuntimeError with the place in its sources.
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def by_rank(errors: Mapping[int, Exception]) -> str:
    return "; ".join(f"rank {rank}: {_briefly(error)}" for rank, error in sorted(errors.items()))


def _briefly(error: Exception) -> str:
    if isinstance(error, WorkerHealthCheckTimeoutError):  # ends with advice about Ray's variables
        return "it did not answer for so long that it counts as lost"
    return one_line(error)
