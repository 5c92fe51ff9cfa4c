"""Joining the cluster that is there, or starting one here; refusing what it cannot hold."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import ray
import ray.exceptions

from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, ConfigError
from ddpm_core.progress import WARNING

_log = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 10.0
_JOIN_GRACE_S = 15.0  # nodes of a cluster that was just started may still be on their way


class Connection:
    """A cluster in use; closing it shuts down what `connect` started, and only that."""

    def __init__(self, *, started: bool) -> None:
        self._started = started

    def close(self) -> None:
        """Leave the cluster; a local one that this connection started ends."""
        if self._started:
            self._started = False
            ray.shutdown()

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
        ConfigError: if it cannot hold the workers that `compute` asks for.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    connection = Connection(started=not ray.is_initialized())
    if not ray.is_initialized():
        _start(address)
    try:
        _preflight(compute, patience_s=0.0 if address == "local" else _JOIN_GRACE_S)
    except BaseException:
        connection.close()
        raise
    return connection


def uses_gpu(compute: ComputeConfig) -> bool:
    """Return whether each worker gets a GPU; call it when connected."""
    if compute.use_gpu is not None:
        return compute.use_gpu
    return bool(ray.cluster_resources().get("GPU", 0) >= 1)


def num_workers(compute: ComputeConfig) -> int:
    """Return how many workers a stage starts; call it when connected.

    As many as `compute` asks for, but not more than there are GPUs if they are used because they
    are there: so that a recipe made for two CPU cores runs on a machine of one GPU. What is left
    divides the number asked for, as batches must be divided.
    """
    if compute.use_gpu is not None or not uses_gpu(compute):
        return compute.num_workers
    return _fitting(compute, _num_slots(compute))


def _fitting(compute: ComputeConfig, num_slots: int) -> int:
    wanted = compute.num_workers
    if num_slots < 1:
        return wanted
    return max(n for n in range(1, wanted + 1) if wanted % n == 0 and n <= num_slots)


def _num_slots(compute: ComputeConfig) -> int:
    nodes, gpu = _nodes(), uses_gpu(compute)
    return sum(_slots(node, compute.cpus_per_worker, gpu=gpu) for node in nodes)


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _start(address: str) -> None:
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={address} is the address of the Jobs API or of Ray Client; a stage joins "
            "its cluster directly. Submit the stage with `ray job submit`, or unset RAY_ADDRESS"
        )
    try:
        if address == "local":
            _protect_token()
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # Without the dashboard Ray Train complains every second that it cannot ask for the
            # state of its actors. It listens on loopback.
            ray.init(address="local", include_dashboard=True, log_to_driver=True)
        else:
            _require_answer(address)
            ray.init(address=address, log_to_driver=True)
    except Exception as error:  # Ray raises its base class itself: "node timed out"
        raise ClusterError(
            f"no Ray cluster at {address!r}: {one_line(error)}. Start one, or unset RAY_ADDRESS "
            "to use this machine alone"
        ) from error


def _require_answer(address: str) -> None:
    """Raise OSError if nobody listens there: Ray itself was seen to wait over ten minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():  # else "auto": Ray looks up its own notes on this machine
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_TIMEOUT_S).close()


def _protect_token() -> None:
    """Make the folder of Ray's token ours alone: Ray writes the token readable by everyone."""
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        folder = Path.home() / ".ray"
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def _preflight(compute: ComputeConfig, *, patience_s: float) -> None:
    """Refuse what would never start; Ray itself waits for ever.

    Raises:
        ConfigError: naming what is needed, what is there and the keys to change.
    """
    deadline = time.monotonic() + patience_s
    while (slots := _num_slots(compute)) < compute.num_workers and time.monotonic() < deadline:
        time.sleep(1.0)
    if slots >= compute.num_workers:
        return
    gpu, nodes = uses_gpu(compute), _nodes()
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
    each = f"{compute.cpus_per_worker} CPU" + (" and 1 GPU" if gpu else "")
    have = ", ".join(f"{node.get('CPU', 0):g} CPU {node.get('GPU', 0):g} GPU" for node in nodes)
    raise ConfigError(
        f"compute asks for {compute.num_workers} worker(s) with {each} each; the cluster has room "
        f"for {slots} (its nodes: {have or 'none'}). Lower compute.num_workers or "
        "compute.cpus_per_worker" + (", set compute.use_gpu=false" if gpu else "") + ", or add "
        "nodes"
    )


def _slots(node: Mapping[str, float], cpus_per_worker: int, *, gpu: bool) -> int:
    slots = node.get("CPU", 0) // cpus_per_worker
    return int(min(slots, node.get("GPU", 0)) if gpu else slots)


def one_line(error: BaseException) -> str:
    """Return class and last line of a message, cut: Ray's have tracebacks and advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else ''}"
