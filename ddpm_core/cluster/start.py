"""The time limit for the start of a group of workers: the wait is reported, then ended.

Ray waits for ever for a node that is gone, and for a worker that has stopped.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.util
from ray._raylet import PlacementGroupID
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.util.placement_group import PlacementGroup

from ddpm_core.cluster.connection import asked_and_there, num_slots, num_workers
from ddpm_core.config import ComputeConfig
from ddpm_core.output import say
from ddpm_core.progress import WARNING

_LOOK_EVERY_S = 1.0
_SAY_AFTER_S = 30.0
_SAY_EVERY_S = 30.0
_BUSY_LIMIT_S = 360.0
"""seconds to wait for cores that are there, but taken by others"""


class StartLimit(WorkerGroupCallback, ControllerCallback):  # type: ignore[misc]  # Ray is untyped here
    """Ends the controller, in whose process it runs, if a group has not started in time.

    Args:
        compute: the resources that are needed, and how long to wait: `collective_timeout_s` for
            nodes that are missing and for workers that do not answer.
        reason: the file, on the driver's node, that then says why; see `read_reason`.
    """

    def __init__(self, compute: ComputeConfig, reason: Path) -> None:
        self._compute, self._reason = compute, reason
        self._over: threading.Event | None = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:  # noqa: ANN401, ARG002
        """Begin to count."""
        self._end()
        self._over = threading.Event()
        threading.Thread(target=self._watch, args=(self._over,), daemon=True).start()

    def after_worker_group_training_start(self, worker_group: Any) -> None:  # noqa: ANN401, ARG002
        """Stop counting: all workers are at work."""
        self._end()

    async def before_controller_shutdown(self) -> None:
        """Stop counting."""
        self._end()

    def _end(self) -> None:
        if self._over is not None:
            self._over.set()
            self._over = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_over": None}

    def _watch(self, over: threading.Event) -> None:
        began, say_at = time.monotonic(), _SAY_AFTER_S
        while not over.wait(_LOOK_EVERY_S):
            waited = time.monotonic() - began
            try:
                what, limit_s, lacks_room = _state(self._compute)
            except (ray.exceptions.RayError, RuntimeError, OSError) as error:
                what = f"Ray, which does not say how the group is: {error}"
                limit_s, lacks_room = self._compute.collective_timeout_s, False
            if waited > limit_s:
                text = f"waited {waited:.0f} s for {what}"
                try:
                    self._reason.write_text(json.dumps({"lacks_room": lacks_room, "text": text}))
                finally:
                    os._exit(1)  # the only way out of a call of Ray's that has no end
            if waited > say_at:
                say_at += _SAY_EVERY_S
                say(
                    f"{WARNING}for {waited:.0f} s the training has been waiting for {what}; it "
                    f"ends after {limit_s:.0f} s",
                    stream=sys.stderr,
                )


def _state(compute: ComputeConfig) -> tuple[str, float, bool]:
    """Return what is being waited for, for how many seconds at most, and whether it is room."""
    if num_slots(compute) < num_workers(compute):
        return f"nodes: {asked_and_there(compute)}", compute.collective_timeout_s, True
    if any(state in _PENDING for state in _own_groups().values()):
        free = ray.available_resources()
        return (
            f"cores that others use: {asked_and_there(compute)}, of which "
            f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU are free",
            _BUSY_LIMIT_S,
            True,
        )
    what = "the answer of a worker: each has its place, and one does not start"
    return what, compute.collective_timeout_s, False


_PENDING = ("PENDING", "PREPARED", "RESCHEDULING")


def _own_groups() -> dict[str, str]:
    """Return the states of this job's placement groups; the cluster's table has everybody's."""
    table: Mapping[str, Any] = ray.util.placement_group_table()
    # An identity is 14 bytes of chance, then the job's: PlacementGroupID::Of in Ray's id.cc.
    job = ray.get_runtime_context().get_job_id()
    return {name: group["state"] for name, group in table.items() if name.endswith(job)}


def release_places() -> None:
    """Give back the places of a group whose controller `StartLimit` has ended.

    Ray Train does so for a group that has started. Else they stay reserved, unused, as long as this
    job lives, and the next group waits for them as if others used them.
    """
    for name, state in _own_groups().items():
        if state != "REMOVED":
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


def read_reason(path: Path) -> tuple[str, bool] | None:
    """Return why `StartLimit` ended the controller, and whether room was lacking; None: it did not.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return str(found["text"]), bool(found["lacks_room"])
