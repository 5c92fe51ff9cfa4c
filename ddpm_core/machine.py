"""How many cores this machine gives to a process: not more than a container is allowed."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """Return how many CPU cores this process may use, at least 1.

    The fewest of what the machine has, what the affinity mask (taskset, a batch system) leaves,
    and what the time quota of the control groups (a container's limit) is worth.
    """
    counts: list[float] = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        counts.append(len(os.sched_getaffinity(0)))
    counts.extend(_quotas())
    return max(1, math.floor(min(counts)))


def _quotas() -> list[float]:
    """Return the quotas, in cores, of our control group and those around it."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    found: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        # In a container the path is often that of the host, and the limit lies at the root.
        for group in dict.fromkeys([own, *own.parents, Path()]):
            if controllers:  # version 1
                found += _quota_1(_CGROUPS / "cpu" / group)
            else:
                found += _quota_2(_CGROUPS / group)
    return found


def _quota_1(folder: Path) -> list[float]:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return []
    return [quota / period] if quota > 0 and period > 0 else []


def _quota_2(folder: Path) -> list[float]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return [int(quota) / int(period)] if quota != "max" else []
    except (OSError, ValueError, ZeroDivisionError):
        return []
