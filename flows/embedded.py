"""A Ray of this machine's own, for a flow that is told of no cluster; gone when the flow is gone.

It runs under a guardian, on loopback only, behind a random token, with its files in a private
folder. So a laptop runs the pipeline exactly as a cluster does: as jobs, through an API.
"""

import contextlib
import os
import random
import re
import secrets
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ddpm_core.errors import ClusterError
from flows.guardian import LOG, guarded, private_folder

START_TIMEOUT_S = 180.0
"""seconds that a server may take to start; an idle machine with two cores takes ten"""
GRACE_S = 1.0
"""seconds between asking a server to end and killing it: neither holds anything worth saving"""
OBJECT_STORE_BYTES = 256 * 2**20
"""shared memory of the embedded Ray; stages pass URIs, not arrays, so little is needed"""
PROJECT = Path(__file__).resolve().parent.parent

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """Where jobs are submitted to."""

    address: str
    """URL of the Ray dashboard, e.g. http://ray-head:8265"""
    token: str | None = field(default=None, repr=False)
    """the embedded Ray's token; None: whatever RAY_AUTH_* in the environment say"""

    @property
    def is_embedded(self) -> bool:
        """Whether it is this machine's own, and ends with this process."""
        return self.token is not None


class Server:
    """A command that serves until `close`, under a guardian."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]
    ) -> None:
        self._name, self.folder = name, folder
        self._exit = contextlib.ExitStack()
        serving = guarded(command, folder=folder, env=env, grace_s=GRACE_S)
        self._process = self._exit.enter_context(serving)

    def is_running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def log(self) -> str:
        """Return what it has printed so far."""
        return (self.folder / LOG).read_text(errors="replace")

    def wait_for(self, ready: Callable[[], T | None]) -> T:
        """Return what `ready` returns once it is not None.

        Raises:
            ClusterError: if the server ends before, or takes too long; with the end of its log.
        """
        deadline, log = time.monotonic() + START_TIMEOUT_S, ""
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):  # its folder goes when it ends
                log = self.log()
                if (found := ready()) is not None:
                    return found
            if not self.is_running():
                break
            time.sleep(0.1)
        how = f"in {START_TIMEOUT_S:.0f} s" if self.is_running() else "and ended"
        raise ClusterError(f"{self._name} did not start {how}; its log ends:\n{log[-2000:]}")

    def close(self) -> None:
        """End it and all it started, and remove its folder."""
        self._exit.close()


class EmbeddedRay:
    """A Ray of this machine's own: started when first asked for, or again when it was lost."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._cluster: Cluster | None = None
        self._token = ""

    def start(self) -> None:
        """Begin to start it, if it does not run; does not wait."""
        if self._server is not None and self._server.is_running():
            return
        self.close()
        folder, self._token = private_folder(), secrets.token_hex(32)
        command = [sys.executable, "-m", "ray.scripts.scripts", *_ray_start(folder)]
        env = _ray_environment(folder, self._token)
        self._server = Server("the embedded Ray", command, folder, env)

    def cluster(self) -> Cluster:
        """Return where its jobs are submitted, once they can be.

        Raises:
            ClusterError: if it does not start.
        """
        self.start()
        if self._cluster is None and self._server is not None:
            address = self._server.wait_for(self._jobs_api)
            self._cluster = Cluster(address, self._token)
        if self._cluster is None:
            raise ClusterError("the embedded Ray was closed while it started; run again")
        return self._cluster

    def close(self) -> None:
        """End it; `cluster` would start another."""
        server, self._server, self._cluster = self._server, None, None
        if server is not None:
            server.close()

    def _jobs_api(self) -> str | None:
        # Nobody else can write to its log, so the token is shown to no stranger on that port.
        said = re.search(r"RAY_API_SERVER_ADDRESS='(http://\S+)'", self._server_log())
        if said is None:
            return None
        request = urllib.request.Request(  # noqa: S310 - http on loopback
            f"{said[1]}/api/jobs/", headers={"Authorization": f"Bearer {self._token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10):  # noqa: S310
                return said[1]
        except OSError:
            return None

    def _server_log(self) -> str:
        return self._server.log() if self._server is not None else ""


_shared: ContextVar[EmbeddedRay | None] = ContextVar("_shared", default=None)


@contextlib.contextmanager
def shared_ray() -> Iterator[EmbeddedRay]:
    """Let all stages within the block use one embedded Ray, if they use any."""
    if (outer := _shared.get()) is not None:
        yield outer
        return
    ray = EmbeddedRay()
    token = _shared.set(ray)
    try:
        yield ray
    finally:
        _shared.reset(token)
        ray.close()


@contextlib.contextmanager
def cluster_at(ray_address: str | None) -> Iterator[Cluster]:
    """Yield the cluster at `ray_address`; None is a Ray of this machine's own."""
    if ray_address is not None:
        yield Cluster(ray_address)
        return
    with shared_ray() as ray:
        yield ray.cluster()


def _ray_start(folder: Path) -> list[str]:
    """Return the arguments of `ray`.

    Not `ray.init`: that fixes the port of Ray's agent, and a second Ray of this machine, whoever
    started it, then has no agent to give its jobs to.
    """
    options = {
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": _free_port(),
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": _free_port(),
        # Any port, as of `ray.init`; the usual range is shared by all Rays of this machine.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": folder / "r",
        "log-style": "record",
    }
    return ["start", "--head", "--block", *(f"--{key}={value}" for key, value in options.items())]


def _free_port() -> int:
    """Return a port that is free now, and that nothing else is given by the system meanwhile."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 - below the ephemeral ports
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _ray_environment(folder: Path, token: str) -> dict[str, str]:
    """Return this process's environment, made fit for a private Ray and the jobs on it."""
    token_path = folder / "token"
    token_path.touch(mode=0o600)
    token_path.write_text(token)
    (folder / "t").mkdir()
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        # Despite its name: 0 makes this node's address 127.0.0.1, on Linux too, and with it every
        # port of Ray one that only this machine reaches. It also survives a change of network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # What a killed job leaves in its temporary folder goes with ours.
        "TMPDIR": str(folder / "t"),
    }
    # A cluster of the user's would be joined; Prefect's keys are none of a job's business.
    unwanted = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in unwanted and not key.startswith("PREFECT_")
    }
    if (PROJECT / "pyproject.toml").exists():
        # A checkout that is not installed: jobs import ddpm_core from it.
        paths = [str(PROJECT), *filter(None, [kept.get("PYTHONPATH")])]
        ours["PYTHONPATH"] = os.pathsep.join(paths)
    return kept | ours
