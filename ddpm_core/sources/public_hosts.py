"""Connections to hosts of the public Internet only, for addresses that a configuration gives.

A name may lead to this machine, to the network behind it, or to the address from which a cloud's
machines get their credentials (169.254.169.254), at once, after a redirect, or when it is looked up
a second time. So every connection is made to the very address that was looked up and checked.
"""

import http.client
import ipaddress
import socket
import ssl
from typing import Any

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NotPublicError(OSError):
    """A host leads to this machine, or to a network that is not the Internet."""


class PublicConnection(http.client.HTTPSConnection):
    """https, refused with `NotPublicError` where a host is not a public one.

    A proxy that the environment names is trusted with the check: it looks the name up.
    """

    def __init__(self, host: str, **words: Any) -> None:  # noqa: ANN401 - http.client's signature
        words["context"] = self._checked = ssl.create_default_context()
        super().__init__(host, **words)

    def connect(self) -> None:
        if self._is_tunnelled():
            super().connect()
            return
        raw = connect_publicly(self.host, self.port, self.timeout)
        self.sock = self._checked.wrap_socket(raw, server_hostname=self.host)

    def _is_tunnelled(self) -> bool:
        return getattr(self, "_tunnel_host", None) is not None


def connect_publicly(host: str, port: int, timeout_s: float | None) -> socket.socket:
    """Return a connection to `host`, made to an address that was checked to be public.

    Raises:
        NotPublicError: one of the host's addresses is not public.
        OSError: none of them can be reached.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not is_public(str(address[0])):
            raise NotPublicError(
                f"{host} is {address[0]}, which is no public address; fetch the file yourself and "
                "give its path"
            )
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public Internet, also inside of an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast
