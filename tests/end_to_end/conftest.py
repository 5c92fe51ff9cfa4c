"""The commands of the README, run as a user runs them: another process, an empty HOME."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

PROJECT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")
# Small enough for a test, and still every part of the real thing.
SMALL = {
    "diffusion.num_timesteps": 50,
    "model.base_channels": 8,
    "train.num_steps": 30,
    "train.global_batch_size": 16,
    "train.warmup_steps": 10,
    "train.log_every": 10,
    "train.checkpoint_every": 10,
    "sample.num_images": 48,
    "sample.unit_size": 12,
    "sample.batch_size": 12,
    "sample.num_grid_images": 36,
    "evaluate.num_likelihood_images": 8,
    "evaluate.feature_steps": 50,
    # Each worker costs seconds of imports. What two have to prove is proved on a cluster.
    "compute.num_workers": 1,
}


@dataclass
class Shell:
    """Runs commands in an environment of its own, and knows every process that came of them."""

    home: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen] = field(default_factory=list)
    born_at: float = field(default_factory=time.time)
    shared_before: set[str] = field(default_factory=lambda: names_in(SHARED_MEMORY))

    @property
    def env(self) -> dict[str, str]:
        foreign = ("PREFECT_", "MLFLOW_", "RAY_", "AWS_", "S3_", "VIRTUAL_ENV", "MAKE")
        env = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        env |= {"HOME": str(self.home), "PATH": path, "DDPM_TEST_MARK": self.mark}
        return env | {"TMPDIR": str(self.temp)}

    @property
    def temp(self) -> Path:
        """Our own place for temporary files; short, since sockets lie below it."""
        return Path(f"/tmp/{self.mark[:3]}")

    def run(self, *command: str, timeout_s: float = 600, **extra: str) -> str:
        """Run to the end, return stdout; a failure shows both streams."""
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env=self.env | extra,
            text=True,
            timeout=timeout_s,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        report = f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, report
        return done.stdout

    def start(self, *command: str, log: Path, **extra: str) -> subprocess.Popen:
        """Run in the background, as a terminal does: a shell's `&` would have it ignore Ctrl-C."""
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ("env", "--default-signal=INT", *command),
                cwd=PROJECT,
                env=self.env | extra,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """Return every living process that inherited our mark, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("DDPM_TEST_MARK") == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def commands(self) -> list[str]:
        """Return number and command of each of these processes; some may end meanwhile."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
        return found

    def listeners(self) -> list[str]:
        """Return each port that something of ours listens on, with its command.

        What lost our mark with its environment is known by where it runs.
        """
        ours, found = self.processes(), []
        for one in psutil.net_connections("inet"):
            if one.status != psutil.CONN_LISTEN or one.pid is None:
                continue
            try:
                process = psutil.Process(one.pid)
                is_here = Path(process.cwd()).is_relative_to(PROJECT) and not of_other_tests(
                    process
                )
                if process in ours or (is_here and process.create_time() > self.born_at):
                    found.append(f"{one.laddr}: {' '.join(process.cmdline())[:200]}")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def leftovers(self) -> dict[str, list[str]]:
        """Return all that is there of what our commands started, by kind."""
        found = {
            "processes": self.commands(),
            "ports": self.listeners(),
            "temporary files": sorted(names_in(self.temp)),
            "shared memory": sorted(self.shared_memory()),
        }
        return {kind: left for kind, left in found.items() if left}

    def shared_memory(self) -> set[str]:
        """Return the names in shared memory that are new, and not of the tests that run beside."""
        new = names_in(SHARED_MEMORY) - self.shared_before
        for process in psutil.process_iter() if new else ():
            with contextlib.suppress(psutil.Error, OSError):
                if of_other_tests(process):
                    maps = Path(f"/proc/{process.pid}/maps").read_text()
                    new -= {name for name in new if f"{SHARED_MEMORY}/{name}\n" in maps}
        return new

    def assert_nothing_is_left(self, within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left, json.dumps(left, indent=1)


@pytest.fixture
def shell(tmp_path):
    """Give a shell with an empty HOME; end whatever a failed test left running."""
    with shell_in(tmp_path) as shell:
        yield shell


@contextlib.contextmanager
def shell_in(folder: Path):
    home = folder / "home"
    home.mkdir()
    shell = Shell(home)
    shell.temp.mkdir()
    try:
        yield shell
    finally:
        for process in shell.processes():
            process.kill()
        for started in shell.started:
            started.wait()
        shutil.rmtree(shell.temp, ignore_errors=True)


@dataclass(frozen=True)
class Finished:
    """What `make run` made and printed."""

    root: Path
    out: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    """Give a small run that nothing disturbed: others are held to its bytes."""
    folder = tmp_path_factory.mktemp("finished")
    root = folder / "root"
    with shell_in(folder) as shell:
        out = shell.run("make", "run", f"ROOT={root}", f"ARGS={' '.join(small_sets())}")
        shell.assert_nothing_is_left()
    return Finished(root, out)


@pytest.fixture
def sets() -> list[str]:
    """Give the options that make a run small."""
    return small_sets()


def small_sets(changes: Mapping[str, object] | None = None) -> list[str]:
    values = SMALL | dict(changes or {})
    given = (f"{key}={json.dumps(value)}" for key, value in values.items())
    return [part for text in given for part in ("--set", text)]


def wait_for(condition, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.2)


def of_other_tests(process: psutil.Process) -> bool:
    """Return whether another process of xdist started it; ours hands its name on as well."""
    name = "PYTEST_XDIST_WORKER"
    return process.environ().get(name) not in (None, os.environ.get(name))


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetched(url: str, body: bytes | None = None, **headers: str) -> bytes | None:
    """Return what a URL on loopback answers, to JSON if given; None while nobody answers well."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        url, data=body, headers={"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
            return reply.read()
    except OSError:
        return None


@contextlib.contextmanager
def ended(process):
    """Ask a server to end when the block is left, and see that it does."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)
