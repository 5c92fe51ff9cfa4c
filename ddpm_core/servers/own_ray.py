"""A Ray of this machine's own: on loopback, behind a random token, gone when its owner is gone.

For a stage or a flow that was given no cluster. `ray start` under a guardian, not `ray.init`: that
leaves processes behind when it is killed, writes its token into the user's home, and takes the
fixed port of Ray's agent, without which a second Ray of this machine cannot run jobs.
"""

import contextlib
import os
import random
import re
import secrets
import socket
import sys
import urllib.request
from pathlib import Path

from ddpm_core import machine
from ddpm_core.servers.folders import is_plain, private_folder, roomy
from ddpm_core.servers.server import Server, reached_directly

OBJECT_STORE_BYTES = 256 * 2**20
"""shared memory of our own Ray; stages pass URIs, not arrays, so little is needed"""
PROJECT = Path(__file__).resolve().parents[2]
_ANSWER_TIMEOUT_S = 10.0
_MAX_AHEAD = 8
"""cores up to which Ray may start a worker for each ahead, of 80 MB each: it saves two seconds"""
STOP_SIGNAL_WAIT_S = 10
"""seconds a stopped job has to wind up before it is killed; what its checkpoints hold is kept"""
JOB_STOPS = {
    # SIGINT, so that the stage ends its workers and says so; Ray's own wait is 3 s.
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SIGNAL_WAIT_S),
}
"""how a job ends that is stopped: variables of its cluster, or of the job"""
GROUP_SETTINGS = {
    # Ray's own limits are 600 s and none: one stopped worker would hold up the others as long.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    # `cluster.start` knows better what is being waited for, and says it.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3600",
    # Relative paths in the environment (MLFLOW_TRACKING_URI) mean the same on every worker.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # How soon it is seen that all ranks are done; Ray's own 2 s are a second of each training.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # It would only wait for a checkpoint ahead of time, which our workers do not make.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Printed lines go to the log as they are, once.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Its controller waits for what it starts; Ray would warn of that.
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
}
"""how a group of workers is led: variables of whoever starts it, its controller and its workers"""
IS_OURS = "DDPM_OWN_RAY"
"""variable of all processes of such a Ray, and of its drivers: they have `GROUP_SETTINGS`"""
# One for all Rays of this process: a driver's connections keep the first that they were given.
_TOKEN = secrets.token_hex(32)
# A cluster of the user's would be joined; Prefect's keys are none of a job's business.
_UNWANTED = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")


class OwnRay:
    """A Ray that begins to start when made, and ends with `close` or with this process.

    Args:
        num_cpus: how many cores it hands out, and workers it starts ahead; None: this machine's.
        takes_jobs: whether jobs are submitted to it. If not, it comes without the nine processes of
            the dashboard, of which the Jobs API is a part.

    Raises:
        ConfigError: there is no place for its files.
    """

    def __init__(self, *, num_cpus: int | None = None, takes_jobs: bool = True) -> None:
        folder = private_folder()
        self.token = _TOKEN
        self._rays, more = roomy(folder, "r")
        self.scratch, more_tmp = roomy(folder, "t")
        """for temporary files of its owner and its jobs: removed with it, also after kill -9"""
        token_path = folder / "token"
        token_path.touch(mode=0o600)
        token_path.write_text(self.token)
        self.environment = _environment(token_path)
        """variables that a process needs to connect to it, beside the address"""
        # Of the whole Ray, not of each job: a job with variables of its own, and its workers, can
        # use none of the processes that were started ahead.
        env = _inherited() | self.environment | JOB_STOPS | {"TMPDIR": str(self.scratch)}
        num_cpus = num_cpus or machine.cores()
        if num_cpus > _MAX_AHEAD:
            env |= {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
        arguments = _arguments(self._rays, num_cpus, takes_jobs=takes_jobs)
        command = [_python(folder), "-m", "ray.scripts.scripts", *arguments]
        self._server = Server(
            "the embedded Ray", command, folder, env, more_folders=[*more, *more_tmp]
        )
        self.folder = folder

    def is_running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._server.is_running()

    def address(self) -> str:
        """Return host:port that a driver joins, once it answers.

        Raises:
            ClusterError: it does not start.
        """
        return self._server.wait_for(self._address)

    def jobs_url(self) -> str:
        """Return the URL that jobs are submitted to, once they can be.

        Raises:
            ClusterError: it does not start.
        """
        return self._server.wait_for(self._jobs_url)

    def close(self) -> None:
        """End it and all it started, and remove its files."""
        self._server.close()

    def _address(self) -> str | None:
        if "Ray runtime started" not in self._server.log():
            return None
        return (self._rays / "ray_current_cluster").read_text().strip() or None

    def _jobs_url(self) -> str | None:
        # Only that Ray writes to its log, so no other process on that port gets the token.
        said = re.search(r"RAY_API_SERVER_ADDRESS='(http://\S+)'", self._server.log())
        if said is None:
            return None
        request = urllib.request.Request(  # noqa: S310 - http on loopback
            f"{said[1]}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with directly.open(request, timeout=_ANSWER_TIMEOUT_S):
                return said[1]
        except OSError:
            return None


def _python(folder: Path) -> str:
    """Return this interpreter by a path without a space: Ray's raylet ends at one that has any."""
    executable = Path(sys.executable)
    if is_plain(sys.executable) or executable.parent != Path(sys.prefix, "bin"):
        return sys.executable
    # The environment as a whole, so that Ray's own files, beside it, have such paths too.
    link = folder / "v"
    link.symlink_to(sys.prefix, target_is_directory=True)
    return str(link / "bin" / executable.name)


def _arguments(rays: Path, num_cpus: int, *, takes_jobs: bool) -> list[str]:
    options = {
        "port": 0,
        "num-cpus": num_cpus,
        "include-dashboard": takes_jobs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": _free_port(),
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": _free_port(),
        # Any port, as of `ray.init`; the usual range is shared by all Rays of this machine.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": rays,
        "log-style": "record",
    }
    # The monitor would tell an autoscaler what is needed: there is none.
    flags = ["--head", "--block", "--no-monitor"]
    return ["start", *flags, *(f"--{key}={value}" for key, value in options.items())]


def _free_port() -> int:
    """Return a port that is free now, and that nothing else is given by the system meanwhile."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 - below the ephemeral ports
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _environment(token_path: Path) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        # Despite its name: 0 makes this node's address 127.0.0.1, on Linux too, and with it every
        # port of Ray one that only this machine reaches. It also survives a change of network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Started by `uv run` it would run that for each worker: a lock, a look at the network.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **{key: os.environ.get(key) or value for key, value in GROUP_SETTINGS.items()},
        IS_OURS: "1",
        **reached_directly(os.environ),
    }


def _inherited() -> dict[str, str]:
    """Return this process's environment, made fit for a private Ray and the jobs on it."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in _UNWANTED and not key.startswith("PREFECT_")
    }
    if (PROJECT / "pyproject.toml").exists():
        # A checkout that is not installed: jobs import ddpm_core from it.
        paths = [str(PROJECT), *filter(None, [kept.get("PYTHONPATH")])]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    return kept
