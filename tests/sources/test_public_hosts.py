import socket
import threading
import urllib.error

import pytest

from ddpm_core.errors import StorageError
from ddpm_core.sources import public_hosts
from ddpm_core.sources.download import RemoteFile, fetch
from ddpm_core.sources.public_hosts import connect_publicly, is_public

ADDRESSES = {
    "8.8.8.8": True,
    "2606:4700:4700::1111": True,
    "127.0.0.1": False,
    "0.0.0.0": False,  # noqa: S104
    "10.1.2.3": False,
    "172.16.0.1": False,
    "192.168.1.1": False,
    "100.64.0.1": False,
    "169.254.169.254": False,
    "224.0.0.1": False,
    "255.255.255.255": False,
    "::": False,
    "::1": False,
    "fd00::1": False,
    "fe80::1": False,
    "fe80::1%eth0": False,
    "ff02::1": False,
    "::ffff:127.0.0.1": False,
    "::ffff:169.254.169.254": False,
    "::ffff:8.8.8.8": True,
    "64:ff9b::7f00:1": False,
    "64:ff9b::808:808": True,
    "2002:7f00:1::": False,
}


@pytest.mark.parametrize(("address", "expected"), ADDRESSES.items(), ids=ADDRESSES)
def test_addresses_of_this_machine_and_its_network_are_not_public(address, expected):
    """Catches the address of a cloud's credentials, also where it is wrapped into an IPv6 one."""
    assert is_public(address) is expected


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1"]
)
def test_names_are_checked_by_where_they_lead(host):
    """Catches a check of the text of a name: these are all this machine."""
    with pytest.raises(OSError, match="no public address"):
        connect_publicly(host, 443, 1)


def test_one_private_address_among_others_is_enough(monkeypatch):
    """Catches a name with two addresses, of which only the first is looked at."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 1)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_words: found)
    with pytest.raises(OSError, match=r"some\.host is 10\.0\.0\.1"):
        connect_publicly("some.host", 1, 1)


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch):
    """Catches a name that is looked up a second time, and leads elsewhere then (DNS rebinding)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        looked_up = []

        def once(host, port, **_words):
            looked_up.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]

        monkeypatch.setattr(socket, "getaddrinfo", once)
        monkeypatch.setattr(public_hosts, "is_public", lambda _address: True)
        with connect_publicly("some.host", 1, 1) as connection:
            assert connection.getpeername() == address
    assert looked_up == ["some.host"]


def test_a_host_that_does_not_answer_is_an_outage(monkeypatch):
    """Catches a connection that is never closed, and a bare error."""
    monkeypatch.setattr(public_hosts, "is_public", lambda _address: True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            connect_publicly("127.0.0.1", taken.getsockname()[1], 1)


def test_a_certificate_is_still_required(tmp_path, monkeypatch):
    """Catches encryption to whoever answers: a server that speaks no TLS is not read."""
    monkeypatch.setattr(public_hosts, "is_public", lambda _address: True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx")

        thread = threading.Thread(target=answer)
        thread.start()
        file = RemoteFile("x", None, "0" * 64, (f"https://127.0.0.1:{port}/x",), public_only=True)
        with pytest.raises(StorageError, match="SSL"):
            fetch(file, tmp_path)
        thread.join()


def test_every_connection_of_a_download_goes_through_the_check(tmp_path, monkeypatch):
    """Catches urllib's own handler left beside ours, for the first request or a redirected one."""
    asked = []

    def answer(self):
        asked.append(self.host)
        raise urllib.error.URLError("refused by the test")

    monkeypatch.setattr(public_hosts.PublicConnection, "connect", answer)
    file = RemoteFile("x", None, "0" * 64, ("https://169.254.169.254/x",), public_only=True)
    with pytest.raises(StorageError, match="refused by the test"):
        fetch(file, tmp_path)
    assert asked == ["169.254.169.254"]  # every https request, the first and a redirected one
