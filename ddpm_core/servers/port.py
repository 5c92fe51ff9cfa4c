"""A port of this machine at which a page is to be served: refused before anything is loaded."""

import socket

from ddpm_core.errors import ConfigError

HOST = "127.0.0.1"
_LAST = 2**16 - 1


def require_free(port: int, *, option: str) -> None:
    """Return if a server can listen at a port of loopback.

    Args:
        port: which.
        option: what gives another, up to its number, e.g. "--port ".

    Raises:
        ConfigError: the number is none of a port, the port is taken, or not allowed to this user.
    """
    if not 0 < port <= _LAST:
        raise ConfigError(f"port {port} must be from 1 to {_LAST}; give another: {option}7861")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of this machine cannot be used ({error.strerror}); give another: "
                f"{option}{port + 1 if port < _LAST else port - 1}"
            ) from error
