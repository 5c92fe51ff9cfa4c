"""What the tests run on workers of Ray; importable there."""

import contextlib
import os
import signal
import time
import weakref
from ipaddress import ip_address
from pathlib import Path

import psutil
import torch
from torch import distributed

from ddpm_core import cluster
from ddpm_core.errors import DivergenceError, StorageError


def meet(payload):
    """Add up the ranks, and write down what was found; rank 0 also who can be reached from where.

    While all are at work, the processes of the driver, its Ray and its workers are looked at.
    """
    place = cluster.place()
    total = torch.tensor(float(place.rank))
    if place.world_size > 1:
        distributed.all_reduce(total)
    if place.rank == 0:
        Path(payload["folder"], "open").write_text("\n".join(open_to_others(payload["driver"])))
    distributed.barrier()
    words = [place.rank, place.world_size, place.device, total.item(), torch.get_num_threads()]
    Path(payload["folder"], str(place.rank)).write_text(" ".join(map(str, words)))


def open_to_others(pid):
    """Return the listening sockets, not on loopback, of a process and all that come from it."""
    own = psutil.Process(pid)
    found = []
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [
                f"{process.name()} {c.laddr.ip}:{c.laddr.port}"
                for c in process.net_connections("inet")
                if c.status == psutil.CONN_LISTEN
                and not ip_address(c.laddr.ip.removeprefix("::ffff:")).is_loopback
            ]
    return found


def fail_on_rank_1(payload):
    """End one rank with an error for the user, while the other waits for it."""
    place = cluster.place()
    with Path(payload["folder"], f"attempts{place.rank}").open("a") as file:
        file.write("x")
    if place.rank == 1:
        if payload["defect"]:
            raise KeyError("a defect")
        raise DivergenceError("step 3: the loss is nan; lower the rate")
    distributed.all_reduce(torch.ones(1))


def die_on_rank_1(payload):
    """Lose rank 1 at every attempt."""
    place = cluster.place()
    with Path(payload["folder"], f"attempts{place.rank}").open("a") as file:
        file.write("x")
    if place.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_reduce(torch.ones(1))


def squares(payload, get_device):
    """Make a worker of the pool, which does to a unit what the payload says of it."""
    if payload.get("refuse_to_start"):
        raise StorageError("s3://nowhere does not answer")
    device = get_device()

    def square(unit):
        with Path(payload["folder"], f"unit{unit}").open("a") as file:
            file.write("x")
        deadly = unit in payload.get("deadly", [])
        first = Path(payload["folder"], f"unit{unit}").stat().st_size == 1
        if deadly and (first or payload.get("always")):
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == payload.get("stuck") and first:
            os.kill(os.getpid(), signal.SIGSTOP)
        if unit == payload.get("bad"):
            raise DivergenceError(f"unit {unit} is not finite")
        if unit == payload.get("defect"):
            raise KeyError("a defect")
        return unit * unit, str(device)

    return square


HELD = weakref.WeakSet()


class Held:
    """What a worker of a pool holds on to as long as it works for that pool."""

    def __init__(self, number):
        self.number, self.itself = number, self  # only the collector of cycles ends it
        HELD.add(self)


def holders(payload, get_device):
    """Make a worker that says which process it is, and what is held there of this pool and others.

    The first unit waits for the second, so that each of two actors has one.
    """
    held = Held(payload["number"])

    def look(unit):
        Path(payload["folder"], f"{held.number}-{unit}").touch()
        while not Path(payload["folder"], f"{held.number}-{1 - unit}").exists():
            time.sleep(0.01)
        if payload.get("bad") == unit:
            raise DivergenceError("not finite")
        return os.getpid(), sorted(one.number for one in HELD)

    return look
