"""The interface over which ranks meet is the one by which Ray knows the node."""

import os
import socket
from types import SimpleNamespace

import psutil
import pytest
import ray.util
import torch.distributed

from ddpm_core.cluster import network


def address(text, family=socket.AF_INET):
    return SimpleNamespace(family=family, address=text)


@pytest.fixture
def interfaces(monkeypatch):
    found = {
        "lo": [address("127.0.0.1")],
        "eth0": [address("02:42:ac:11:00:02", psutil.AF_LINK), address("10.0.0.7")],
        "ib0": [address("fe80::1%ib0", socket.AF_INET6), address("10.1.0.7")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("10.0.0.7", "eth0"),
        ("10.1.0.7", "ib0"),
        ("fe80::1", "ib0"),
        ("10.0.0.70", None),
        ("127.0.0.1", "lo"),
        ("::1", None),
    ],
)
def test_the_interface_is_the_one_that_ray_uses(interfaces, ip, name):
    """Catches a comparison by prefix, and ranks of one machine that listen on the network."""
    assert network.interface_of(ip) == name


def test_what_the_user_chose_stands(interfaces, monkeypatch):
    """Catches an environment that is overwritten; the other variable is still set."""
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    network.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    assert os.environ.pop("NCCL_SOCKET_IFNAME") == "eth0"


def test_the_meeting_place_is_at_the_node_s_address_alone(monkeypatch):
    """Catches torch's own store, which listens on every interface of the machine."""
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    address, port = network.open_meeting_place()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    before = listening()
    assert before[port] == "127.0.0.1"
    try:
        network.meet(address, port, 0, 1, backend="gloo", timeout_s=20)
        assert set(listening().values()) == {"127.0.0.1"}
        assert listening()[port] == "127.0.0.1", "handed on, not opened anew"
    finally:
        torch.distributed.destroy_process_group()


def listening():
    """Return {port: address} of this process's listening sockets."""
    found = psutil.Process().net_connections("tcp")
    return {c.laddr.port: c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}
