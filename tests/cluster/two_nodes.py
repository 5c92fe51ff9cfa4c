"""Two machines in one: network namespaces, a cable between them, and a node of one Ray in each."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

_SUBNET = "10.213.77"
_NUM_CPUS = 2


class TwoNodes:
    """The machines "0", with the head of Ray, and "1"; at the end nothing of them is left.

    Raises:
        OSError: namespaces cannot be made here; says why.
    """

    def __init__(self):
        self._names = [f"ddpm-{os.getpid()}-{machine}" for machine in (0, 1)]
        self._commands = []
        # Short, and apart from pytest's: the path of a Unix socket has 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="ddpm-n"))
        token = self._folder / "token"
        token.touch(mode=0o600)
        token.write_text("0" * 64)
        self._environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # Half of what is the project's: a test need not wait for both.
            "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "30",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        try:
            self._make()
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise OSError((getattr(error, "stderr", None) or str(error)).strip()) from error

    def _make(self):
        first, second = self._names
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", second)
        for machine, name in enumerate(self._names):
            _ip("-n", name, "addr", "add", f"{self.address(machine)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End all processes of the machines, and the machines."""
        for machine, name in enumerate(self._names):
            self.kill(machine)
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip("netns", "del", name)
        for command in self._commands:
            command.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def address(self, machine):
        return f"{_SUBNET}.{machine + 1}"

    def start_ray(self, machine):
        """Start the head of Ray on machine 0, or a node that joins it on machine 1."""
        at = f"{self.address(0)}:6379"
        role = [f"--address={at}"] if machine else ["--head", "--port=6379"]
        own = [f"--node-ip-address={self.address(machine)}", f"--num-cpus={_NUM_CPUS}"]
        folder = self._folder / f"{machine}-{time.monotonic_ns()}"
        small = ["--object-store-memory=100000000", f"--temp-dir={folder}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, *own, *small]
        started = self.run(machine, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = started.communicate(timeout=120)
        if started.returncode:
            raise RuntimeError(said)
        self._environment["RAY_ADDRESS"] = at

    def run(self, machine, command, **how):
        """Start a command on a machine, which ends with it; Ray's address is in its environment."""
        inside = ["ip", "netns", "exec", self._names[machine]]
        started = subprocess.Popen([*inside, *command], env=self._environment, text=True, **how)
        self._commands.append(started)
        return started

    def cut(self):
        """Cut the cable, at the end of machine 1: on 0 there is no error, nothing passes."""
        _ip("-n", self._names[1], "link", "set", "eth0", "down")

    def mend(self):
        _ip("-n", self._names[1], "link", "set", "eth0", "up")

    def kill(self, machine):
        """Kill all that runs on a machine, as a loss of power does."""
        deadline = time.monotonic() + 20
        while (found := self._processes(machine)) and time.monotonic() < deadline:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def _processes(self, machine):
        try:
            found = _ip("netns", "pids", self._names[machine]).split()
        except (OSError, subprocess.CalledProcessError):
            return []
        return [int(pid) for pid in found if _is_alive(int(pid))]


def _is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ip(*arguments):
    command = ["ip", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
