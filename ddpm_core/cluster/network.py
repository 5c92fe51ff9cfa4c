"""The rendezvous of the ranks of a group: at an address of this node, closed to others."""

import os
import socket
from datetime import timedelta

import psutil
import ray
import torch.distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed

_listener: socket.socket | None = None


def choose_interface() -> None:
    """Let gloo and NCCL talk over the network interface by which Ray knows this node.

    Left to themselves they ask for the address of the host name, which many images map to
    loopback: then ranks on two nodes never meet. Or they listen on the network although all ranks
    are on this machine. What the user has set stands.
    """
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is None:
        return
    for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(key, interface)


def interface_of(address: str) -> str | None:
    """Return the name of the interface that holds `address`; None if none does.

    Loopback only where Ray knows the node by it, which it does if there is no other.
    """
    families = (socket.AF_INET, socket.AF_INET6)
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family in families and entry.address.partition("%")[0] == address:
                return str(name)
    return None


def open_meeting_place() -> tuple[str, int]:
    """Listen, as rank 0, at the address by which Ray knows this node; return it and the port.

    Torch's own store would listen on every interface.
    """
    global _listener
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _listener = socket.create_server((address, 0), family=family, backlog=1024)
    return address, int(_listener.getsockname()[1])


def meet(
    address: str, port: int, rank: int, world_size: int, *, backend: str, timeout_s: int
) -> None:
    """Become this rank of the process group that meets at `address`, and wait for the others.

    Raises:
        torch.distributed.DistError: they have not come within `timeout_s` seconds.
    """
    global _listener
    timeout = timedelta(seconds=timeout_s)
    if rank == 0 and _listener is not None:
        handed, _listener = _listener.detach(), None
        store = TCPStore(address, port, world_size, True, timeout, False, master_listen_fd=handed)
    else:
        store = TCPStore(address, port, world_size, False, timeout, False)
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=timeout
    )
