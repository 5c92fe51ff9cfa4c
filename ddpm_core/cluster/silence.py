"""Report a worker that does not answer in training, before Ray Train counts it as lost.

A process that was stopped, a file system or a link that is dead: there is no error until then.
"""

import sys
import time
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from ddpm_core.output import say
from ddpm_core.progress import WARNING

_SAY_AFTER_S = 20.0


class Silence(WorkerGroupCallback):  # type: ignore[misc]  # Ray is untyped here
    """Reports once which worker has not answered the controller, in whose process this runs.

    It is Ray Train that gives the worker up, and starts the group again.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._said: set[int] = set()

    def after_worker_group_start(self, worker_group: Any) -> None:  # noqa: ANN401
        """Watch this group from now on."""
        self._group, self._said = worker_group, set()

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:  # noqa: ANN401, ARG002
        """Report workers that are silent for too long."""
        workers = self._group.get_workers()
        # Private, since Ray's public API does not distinguish a silent worker from one at work.
        pending = self._group._world_rank_to_ongoing_poll
        self._said &= pending.keys()
        for rank in sorted(pending.keys() - self._said):
            waited = time.monotonic() - pending[rank].start_time
            if waited < _SAY_AFTER_S:
                continue
            self._said.add(rank)
            say(
                f"{WARNING}for {waited:.0f} s the training has been waiting for an answer of rank "
                f"{rank} on {workers[rank].metadata.node_ip}: of {len(workers)} worker(s) "
                f"{len(workers) - len(pending)} answer(s); after "
                f"{self._group._worker_health_check_timeout_s:.0f} s it counts as lost, and the "
                "group starts again from the newest checkpoint, if compute.max_failures allows it",
                stream=sys.stderr,
            )
