"""A process by machine, number and start: whether one that left its name is still there."""

import os
import socket
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Process:
    """A process of some machine."""

    host: str
    pid: int
    started: float
    """seconds since the epoch at which the process began, by its own machine: a process number is
    given again"""

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == _this_host()

    @property
    def is_running(self) -> bool:
        """Whether the process is there; of one of this machine."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started) < 1
            return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


def this_process() -> Process:
    """Return the process that calls this."""
    return Process(_this_host(), os.getpid(), psutil.Process().create_time())


def _this_host() -> str:
    """Return a name that no other machine, container or boot of this machine has."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            boot = file.read().strip()
    except OSError:
        boot = str(psutil.boot_time())
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} ({boot[:8]}{namespace})"
