"""The cores of this machine are those that this process may use."""

import os
import subprocess
import sys

import pytest

from ddpm_core import machine
from ddpm_core.machine import (
    cores,
    keep_freed_memory,
    memory_bytes,
    multiplies_bfloat16,
)  # cores: tests/conftest.py says two for one


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """A machine of 64 cores whose control groups lie in a folder."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "fs" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_a_container_s_quota_is_the_limit(limits):
    """Catches the cores of the whole node: 64 workers in a container of two and a half."""
    limits(
        "0::/a/b\n", **{"a__b__cpu_dot_max": "max 100000\n", "a__cpu_dot_max": "250000 100000\n"}
    )
    assert cores() == 2


def test_a_quota_at_the_container_s_root_is_found(limits):
    """Catches a look at the host's path only, which a container does not have."""
    limits("0::/kubepods/pod1/c\n", cpu_dot_max="400000 100000\n")
    assert cores() == 4


def test_the_first_version_of_control_groups(limits):
    """Catches a reader of the second version only."""
    limits(
        "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
        **{"cpu__cpu_dot_cfs_quota_us": "300000\n", "cpu__cpu_dot_cfs_period_us": "100000\n"},
    )
    assert cores() == 3


@pytest.mark.parametrize("quota", ["max 100000", "50000 100000", "0 0", "nonsense", ""])
def test_what_is_no_whole_core_is_one_and_what_is_no_limit_is_none(limits, quota):
    """Catches zero cores, a division by zero, and a crash at what a kernel writes differently."""
    limits("0::/\n", cpu_dot_max=quota)
    assert cores() == (1 if quota.startswith("50000") else 64)


def test_an_affinity_mask_is_the_limit(limits, monkeypatch):
    """Catches a batch system's share (taskset, Slurm) that is not seen."""
    limits("0::/\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64


def test_tests_see_the_two_cores_that_recipes_ask_for(limits, monkeypatch):
    """Catches tests that hold on two cores only: on one, each met "this machine has 1"."""
    limits("0::/\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert (cores(), machine.cores()) == (1, 2)


def test_a_container_s_memory_is_the_limit(limits, monkeypatch, tmp_path):
    """Catches the node's memory, kB taken for bytes, and "max" taken for none at all."""
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemTotal:       2048 kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    limits("0::/a/b\n", **{"a__b__memory_dot_max": "max\n"})
    assert memory_bytes() == 2**21
    limits("0::/a/b\n", **{"a__memory_dot_max": "1000\n"})
    assert memory_bytes() == 1000
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    assert memory_bytes() is None


_FAULTS = """
import resource
from ddpm_core.machine import keep_freed_memory
{call}
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_taken_again_without_asking_the_system():
    """Catches a threshold that is refused or reset: 64 MB are 16,384 pages, mapped every time."""

    def faults(call):
        command = [sys.executable, "-c", _FAULTS.format(call=call)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    if faults("") < 1000:
        pytest.skip("this allocator keeps what is freed")
    assert faults("keep_freed_memory()") < 1000


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (2**62, [(-3, 2**30), (-1, -1)]),
        (2**25, [(-3, 2**30), (-3, 2**25), (-1, -1)]),
        (0, [(-3, 2**30), (-3, 2**25)]),
    ],
)
def test_a_threshold_that_an_older_glibc_refuses_is_lowered(most, expected, monkeypatch):
    """Catches glibc before 2.35, which then maps every block of 128 KiB anew: 2**25 is its most."""
    said = []

    class Libc:
        def mallopt(self, parameter, value):
            said.append((parameter, value))
            return int(value <= most)

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _name: Libc())
    keep_freed_memory()
    assert said == expected


def test_without_glibc_nothing_is_changed(monkeypatch):
    """Catches the end of every worker on musl, on macOS, and in a static program."""
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _name: object())
    keep_freed_memory()

    def absent(_name):
        raise OSError("Dynamic loading not supported")

    monkeypatch.setattr(machine.ctypes, "CDLL", absent)
    keep_freed_memory()


@pytest.mark.parametrize(
    ("flags", "has"), [("fpu amx_bf16 amx_tile", True), ("fpu avx512_bf16", False), (None, False)]
)
def test_matrix_units_are_those_of_the_processor_s_flags(flags, has, tmp_path, monkeypatch):
    """Catches AVX-512's bfloat16, which is no faster, and a system without that file."""
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert multiplies_bfloat16() == has
