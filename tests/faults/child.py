"""Work in a process of its own, which may be killed, and how that ended."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ddpm_core.errors import PipelineError

ENDLESS_S = 120
CRASHED, KILLED = 70, -signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a process ended that ran stages or a command."""

    status: int
    said: str
    seconds: float


def in_child(work: Callable[[], None], folder: Path, kill_after_s: float | None = None) -> Ended:
    """Call `work` in a process of its own; kill it after a while, if wanted."""
    report, began = folder / "said", time.monotonic()
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = CRASHED
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            # Torch makes its pool of threads anew after a fork, at the first use: two threads that
            # come to it at once, as those of the batches may, find none ("Invalid thread pool!").
            torch.set_num_threads(torch.get_num_threads())
            work()
            status = 0
        except PipelineError as error:
            report.write_text(str(error))
            status = error.exit_code
        except BaseException:  # noqa: BLE001 - a traceback is what this looks for
            report.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    limit = ENDLESS_S if kill_after_s is None else kill_after_s
    while (pid := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - began > limit:
            os.kill(child, signal.SIGKILL)
            pid = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    said = report.read_text() if report.exists() else ""
    return Ended(os.waitstatus_to_exitcode(pid[1]), said, time.monotonic() - began)
