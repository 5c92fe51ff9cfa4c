"""Join the cluster of RAY_ADDRESS, or start a local one; refuse workers that it cannot hold."""

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import ray
import ray._private.ray_constants
import ray.exceptions
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # it is in C

from ddpm_core import machine
from ddpm_core.cluster import kept
from ddpm_core.cluster.autoscaling import patience_s, wait_for_nodes
from ddpm_core.cluster.reach import require_answer
from ddpm_core.cluster.relay import relay_worker_lines
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, ConfigError
from ddpm_core.output import say
from ddpm_core.progress import WARNING
from ddpm_core.servers.own_ray import OwnRay
from ddpm_core.servers.server import use_directly

_log = logging.getLogger(__name__)

_JOIN_GRACE_S = 15.0  # nodes of a cluster that was just started may still be on their way
_LOOK_EVERY_S = 0.5
# Ray read these when it was imported; in the processes that are started they are variables, see
# `OwnRay.environment`. This node's address is loopback; and workers use this process's Python, also
# below `uv run`, which would else be run for each of them, in a copy of the working folder.
_READ_AT_IMPORT = ("ENABLE_RAY_CLUSTER", "RAY_ENABLE_UV_RUN_RUNTIME_ENV")
_scratch: list[Path] = []


class Connection:
    """A cluster in use; closing it leaves the cluster, and ends it if `connect` started it."""

    def __init__(self, *, joined: bool, own: "_Own | None" = None) -> None:
        self._joined, self._own = joined, own

    def close(self) -> None:
        """Leave the cluster; a local one that this connection started ends."""
        if self._joined:
            self._joined = False
            if self._own is not None:
                self._own.forget()
            try:
                kept.release()
            finally:
                ray.shutdown()
        if self._own is not None:
            self._own.close()
            self._own = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect(compute: ComputeConfig) -> Connection:
    """Join the cluster of RAY_ADDRESS (set inside every Ray job), else start one on this machine.

    Does nothing but the check if this process is connected already.

    Raises:
        ClusterError: if it cannot be reached.
        ConfigError: if it cannot hold the workers of `compute`.
    """
    use_directly()
    address = os.environ.get("RAY_ADDRESS") or "local"
    is_new = not ray.is_initialized()
    if not is_new:
        connection = Connection(joined=False)
    elif address == "local":
        connection = _start(compute)
    else:
        _join(address)
        connection = Connection(joined=True)
    try:
        # Of our own all is there, also where a stage within another finds it started.
        if scratch() is not None:
            _preflight(compute, patience_s=0.0)
        else:
            _request_nodes(compute)
            _preflight(compute, patience_s=_JOIN_GRACE_S)
    except BaseException:
        connection.close()
        raise
    if is_new:
        _say_what_is_ignored(compute)
    return connection


def _say_what_is_ignored(compute: ComputeConfig) -> None:
    # Not refused: configurations travel between machines.
    if compute.cuda_graphs and not uses_gpu(compute):
        _log.warning("%scompute.cuda_graphs=true changes nothing here: no GPU is used", WARNING)


def scratch() -> Path | None:
    """Return a folder for temporary files that goes with this process's own Ray, if it has one."""
    return _scratch[0] if _scratch else None


def uses_gpu(compute: ComputeConfig) -> bool:
    """Return whether each worker gets a GPU; call it when connected."""
    if compute.use_gpu is not None:
        return compute.use_gpu
    return bool(ray.cluster_resources().get("GPU", 0) >= 1)


def num_workers(compute: ComputeConfig) -> int:
    """Return how many workers a stage starts; call it when connected.

    As many as `compute` says, but not more than there are GPUs if they are used because they
    are there: so that a recipe made for two CPU cores runs on a machine of one GPU. What is left
    divides the configured number, as batches must be divided.
    """
    if compute.use_gpu is not None or not uses_gpu(compute):
        return compute.num_workers
    return _fitting(compute, num_slots(compute))


def _fitting(compute: ComputeConfig, num_slots: int) -> int:
    wanted = compute.num_workers
    if num_slots < 1:
        return wanted
    return max(n for n in range(1, wanted + 1) if wanted % n == 0 and n <= num_slots)


def num_slots(compute: ComputeConfig) -> int:
    """Return for how many workers the nodes that are alive have room; call it when connected."""
    nodes, gpu = _nodes(), uses_gpu(compute)
    return sum(_slots(node, compute.cpus_per_worker, gpu=gpu) for node in nodes)


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


class _Own:
    """A Ray of this process's own, the variables by which it is reached, and an eye on it."""

    def __init__(self, compute: ComputeConfig) -> None:
        wanted = compute.num_workers * compute.cpus_per_worker
        use_directly()
        self._ray = OwnRay(num_cpus=min(wanted, machine.cores()), takes_jobs=False)
        self._before: dict[str, str | None] = {}
        self._is_watched = True
        self._constants = ray._private.ray_constants
        self._read = {name: getattr(self._constants, name) for name in _READ_AT_IMPORT}

    def join(self) -> None:
        """Connect this process to it, once it answers."""
        address = self._ray.address()
        ours = self._ray.environment | {"RAY_AUTH_TOKEN": None}
        self._before = {key: os.environ.get(key) for key in ours}
        _set_for_ray(ours)
        for name in self._read:
            setattr(self._constants, name, False)
        _init(address)
        _scratch.append(self._ray.scratch)
        threading.Thread(target=self._watch, name="own-ray", daemon=True).start()

    def forget(self) -> None:
        """Stop watching: that it ends is meant from here on."""
        self._is_watched = False

    def close(self) -> None:
        self.forget()
        _scratch.clear()
        self._ray.close()
        _set_for_ray(self._before)
        for name, value in self._read.items():
            setattr(self._constants, name, value)

    def _watch(self) -> None:
        """End this process if its Ray ends first: Ray itself would wait for it, or abort."""
        while self._is_watched and self._ray.is_running():
            time.sleep(_LOOK_EVERY_S)
        if not self._is_watched:
            return
        say(
            "the Ray that was started here for this command has ended: a process of it was killed "
            "or died, mostly for lack of memory. The same command continues what was saved",
            stream=sys.stderr,
        )
        self._ray.close()
        os._exit(ClusterError.exit_code)


def _set_for_ray(variables: Mapping[str, str | None]) -> None:
    """Set variables (None: unset), and have Ray, which keeps what it has read, read them again."""
    for key, value in variables.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start(compute: ComputeConfig) -> Connection:
    own = _Own(compute)
    try:
        own.join()
    except BaseException:
        own.close()
        raise
    return Connection(joined=True, own=own)


def _join(address: str) -> None:
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={address} is the address of the Jobs API or of Ray Client; a stage joins "
            "its cluster directly. Submit the stage with `ray job submit`, or unset RAY_ADDRESS"
        )
    require_answer(address)
    _init(address)


def _init(address: str) -> None:
    relay_worker_lines()
    try:
        ray.init(address=address, log_to_driver=True, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises its base class itself: "node timed out"
        raise ClusterError(
            f"no Ray cluster at {address!r}: {one_line(error)}. Start one, or unset RAY_ADDRESS "
            "to use this machine alone"
        ) from error


def _request_nodes(compute: ComputeConfig) -> None:
    """Have a cluster with an autoscaler start what is missing; see `autoscaling`."""
    patience = patience_s()
    if patience is None or num_slots(compute) >= compute.num_workers:
        return
    each = {"CPU": compute.cpus_per_worker} | ({"GPU": 1} if compute.use_gpu else {})
    needed = [each] * compute.num_workers
    wait_for_nodes(needed, lambda: num_slots(compute) >= compute.num_workers, patience)


def _preflight(compute: ComputeConfig, *, patience_s: float) -> None:
    """Refuse what would never start; Ray itself waits for ever.

    Raises:
        ConfigError: naming what is needed, what is there and the keys to change.
    """
    deadline = time.monotonic() + patience_s
    while (slots := num_slots(compute)) < compute.num_workers and time.monotonic() < deadline:
        time.sleep(1.0)
    if slots >= compute.num_workers:
        return
    gpu = uses_gpu(compute)
    if compute.use_gpu is None and gpu and (fitting := _fitting(compute, slots)) <= slots:
        _log.warning(
            "%sthe cluster has GPUs for %d of compute.num_workers=%d worker(s): %d will work; "
            "set compute.use_gpu=false to use its CPUs instead",
            WARNING,
            slots,
            compute.num_workers,
            fitting,
        )
        return
    raise ConfigError(
        f"{asked_and_there(compute)}. Lower compute.num_workers or compute.cpus_per_worker"
        + (", set compute.use_gpu=false" if gpu else "")
        + ", or add nodes"
    )


def asked_and_there(compute: ComputeConfig) -> str:
    """Return in words what `compute` needs and what the nodes have; call it when connected."""
    gpu = uses_gpu(compute)
    each = f"{compute.cpus_per_worker} CPU" + (" and 1 GPU" if gpu else "")
    have = ", ".join(f"{n.get('CPU', 0):g} CPU {n.get('GPU', 0):g} GPU" for n in _nodes())
    return (
        f"compute asks for {compute.num_workers} worker(s) with {each} each; the cluster has room "
        f"for {num_slots(compute)} (its nodes: {have or 'none'})"
    )


def _slots(node: Mapping[str, float], cpus_per_worker: int, *, gpu: bool) -> int:
    slots = node.get("CPU", 0) // cpus_per_worker
    return int(min(slots, node.get("GPU", 0)) if gpu else slots)


def one_line(error: BaseException) -> str:
    """Return class and last line of a message, cut: Ray's have tracebacks and advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else ''}"
