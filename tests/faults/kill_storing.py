"""Kill this process at the n-th call with which the thread of checkpoints changes the store.

Half of the kills come before the call is done and half behind it. Each waits for a step beyond that
of the checkpoint, unless there is none any more: so the training has gone on when it is lost.
"""

import os
import signal
import threading
from typing import Any

from ddpm_core.store.storage import LocalStore
from ddpm_core.training.stepping.denoising import Denoising

CALLS_OF_ONE, CALLS = 4, 20
"""how many such calls a training makes of one checkpoint, and of four, of which one is retired"""
NAMES = ("write", "create", "delete")
STEP_S = 1.0
"""for how long a step is waited for: behind the last checkpoint there is none"""


def install(call: int) -> None:
    """Have this process killed at that call, counted from 1; for a process of its own."""
    true_step, stepped, seen = Denoising.step, threading.Event(), [0]

    def noted_step(self: Denoising, *args: Any) -> None:
        true_step(self, *args)
        stepped.set()

    def struck(true: Any) -> Any:
        def instead(self: LocalStore, *args: Any, **more: Any) -> Any:
            if threading.current_thread().name != "checkpoint":
                return true(self, *args, **more)
            seen[0] += 1
            if seen[0] != call:
                return true(self, *args, **more)
            stepped.clear()
            stepped.wait(STEP_S)
            if call % 2:
                true(self, *args, **more)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        return instead

    Denoising.step = noted_step  # type: ignore[method-assign]
    for name in NAMES:
        setattr(LocalStore, name, struck(getattr(LocalStore, name)))
