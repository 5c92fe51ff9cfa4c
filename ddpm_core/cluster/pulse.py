"""Detect stuck workers: those of a pool report their CPU time, and are watched.

    DDPM_STUCK_AFTER_S   seconds without progress after which a worker is given up; default 900

A worker that waits for a dead file system or device uses no CPU time, for ever. A long wait alone
is no fault: it may be for a file that another process fetches. So the limit is generous.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable

import psutil
import ray
import ray.exceptions
from ray.experimental import internal_kv

from ddpm_core.errors import ConfigError

LIMIT_VARIABLE = "DDPM_STUCK_AFTER_S"
_DEFAULT_LIMIT_S = 900.0
_BEAT_EVERY_S = 10.0
_PROGRESS_S = 1.0
"""CPU seconds, of a worker and its processes, that count as progress"""
_SPACE = b"ddpm-pulse"


def limit_s() -> float:
    """Return the limit that the environment names.

    Raises:
        ConfigError: it is no number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(_DEFAULT_LIMIT_S)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ConfigError(
            f"{LIMIT_VARIABLE}={text!r} must be a number of seconds above 0, e.g. 900: a worker "
            "that computes nothing for so long is replaced"
        )
    return limit


def show(name: str) -> None:
    """Show from now on, in a thread of this worker's, how much CPU time it has used."""

    def beat() -> None:
        while True:
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):  # it ends with Ray
                internal_kv._internal_kv_put(name, f"{_used_s():.3f}", namespace=_SPACE)
            time.sleep(_BEAT_EVERY_S)

    threading.Thread(target=beat, name="pulse", daemon=True).start()


def _used_s() -> float:
    """Return the CPU seconds of this process's Python threads but the caller, and of its children.

    Ray's own threads in an idle worker use some 4.5 s in 900 s, the beat 2.5 s: they are no work.
    """
    own = psutil.Process()
    at_work = {one.native_id for one in threading.enumerate()} - {threading.get_native_id()}
    total = sum(one.user_time + one.system_time for one in own.threads() if one.id in at_work)
    for process in own.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return float(total)


def _shown(name: str) -> float | None:
    value = internal_kv._internal_kv_get(name, namespace=_SPACE)
    return None if value is None else float(value)


def forget(name: str) -> None:
    """Remove what a worker has shown."""
    internal_kv._internal_kv_del(name, namespace=_SPACE)


class Watch:
    """The pulses of workers, as seen by the driver.

    Args:
        limit: seconds without progress after which a worker is stuck.
        now: the time, in seconds.
        shown: what a worker has shown last, in CPU seconds; None: nothing yet.
        forget: removes what it has shown.
    """

    def __init__(
        self,
        limit: float,
        *,
        now: Callable[[], float] = time.monotonic,
        shown: Callable[[str], float | None] = _shown,
        forget: Callable[[str], None] = forget,
    ) -> None:
        self.limit, self._now, self._shown, self._forget = limit, now, shown, forget
        self._seen: dict[str, tuple[float, float]] = {}

    def begin(self, name: str) -> None:
        """Count from now: the worker has been given something to do."""
        self._seen[name] = (self._now(), self._shown(name) or 0.0)

    def end(self, name: str) -> None:
        """Stop watching, and remove what it has shown."""
        self._seen.pop(name, None)
        self._forget(name)

    def is_stuck(self, name: str) -> bool:
        """Return whether a worker that has something to do has done nothing for too long."""
        since, used = self._seen[name]
        shown = self._shown(name)
        # Less than before is another process's: the clock of the first is not ours to read.
        if shown is not None and abs(shown - used) >= _PROGRESS_S:
            self._seen[name] = (self._now(), shown)
            return False
        return self._now() - since > self.limit
