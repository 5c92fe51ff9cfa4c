"""What a process has here: cores and memory, not more than a container is allowed; matrix units."""

import ctypes
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_CPUINFO = Path("/proc/cpuinfo")

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1


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


def memory_bytes() -> int | None:
    """Return how much memory this process may use, in bytes; None where the system does not say.

    The least of what the machine has and what the control groups around this process allow.
    """
    try:
        found = [int(_MEMINFO.read_text().split("MemTotal:")[1].split()[0]) * 1024]
    except (OSError, ValueError, IndexError):
        return None
    for group, _ in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                found.append(int((group / name).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return min(found)


def multiplies_bfloat16() -> bool:
    """Return whether the processor has matrix units for bfloat16 (AMX), as Linux names them."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return False
    return any("amx_bf16" in line.split() for line in lines if line.startswith("flags"))


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next allocation, to its end.

    A training step frees all activations, and the next takes as much again: each time the system
    would take the pages away, and hand out others with zeros in them, for 2 to 10 % of a step's
    time. Blocks of 1 GiB and more are given back, by glibc before 2.35 those of 32 MiB and more,
    and in threads but the first those that are too large for their arenas, of 64 MiB. Where there
    is no glibc, nothing is changed.
    """
    mallopt = _of_glibc("mallopt")
    # The second setting ends glibc's own adaptation: without the first it would make things worse.
    if mallopt is not None and any(mallopt(_MMAP_THRESHOLD, most) for most in (2**30, 2**25)):
        mallopt(_TRIM_THRESHOLD, _NEVER)


def give_back_memory() -> None:
    """Give the system the memory that this process has freed, also where it is kept.

    Where there is no glibc, nothing is done.
    """
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library of this process; None: it has none of this name."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except OSError:  # a program that is linked statically
        return None


def _quotas() -> list[float]:
    """Return the quotas, in cores, of our control group and those around it."""
    found: list[float] = []
    for group, is_version_1 in _groups("cpu"):
        found += _quota_1(group) if is_version_1 else _quota_2(group)
    return found


def _groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of our control group and those around it, and whether of version 1."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        home = _CGROUPS / controller if controllers else _CGROUPS
        # In a container the path is often that of the host, and the limit lies at the root.
        for group in dict.fromkeys([own, *own.parents, Path()]):
            yield home / group, bool(controllers)


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
