"""Which network interface the ranks of a group meet over."""

import os
import socket

import psutil
import ray


def choose_interface() -> None:
    """Let gloo and NCCL talk over the network interface by which Ray knows this node.

    Left to themselves they ask for the address of the host name, which many images map to
    loopback: then ranks on two nodes never meet. What the user has set stands.
    """
    address = ray.util.get_node_ip_address()
    interface = interface_of(address)
    if interface is None:
        return
    for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(key, interface)


def interface_of(address: str) -> str | None:
    """Return the name of the interface that holds `address`; None for loopback or unknown ones."""
    if address.startswith("127.") or address == "::1":
        return None
    families = (socket.AF_INET, socket.AF_INET6)
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family in families and entry.address.partition("%")[0] == address:
                return str(name)
    return None
