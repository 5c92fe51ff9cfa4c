"""Check within half a minute that a Ray answers at an address: Ray itself waits for minutes."""

import os
import socket
import threading

import grpc  # type: ignore[import-untyped]  # its types are a package of their own
import ray._private.services

from ddpm_core.errors import ClusterError

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 15.0


def require_answer(address: str) -> None:
    """Return if a Ray answers at RAY_ADDRESS=`address`, host:port or "auto".

    Raises:
        ClusterError: none does, or `address` is none of a Ray's; says what to set. After half a
            minute at the latest, also where a port is open and silent.
    """
    where = _resolved(address)
    host, _, port = where.rpartition(":")
    _connect(address, host.strip("[]"), int(port))
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # with certificates that only Ray itself knows how to use
    if (what := _said(where)) is not None:
        raise _unreachable(address, f"{where} is open, but {what}")


def _said(where: str) -> str | None:
    """Return what is wrong with the answer, or None if it is a Ray's."""
    with grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)]) as channel:
        # The question that every server of Ray's answers, whatever the token: how it is.
        ask = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            ask(b"", timeout=_ANSWER_TIMEOUT_S, wait_for_ready=True)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return None
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no Ray answered within {_ANSWER_TIMEOUT_S:g} s"
            return f"what answers is no Ray ({code.name.lower()})"
    return None


def _resolved(address: str) -> str:
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ClusterError(
                f"RAY_ADDRESS={address!r} is no address: it must be host:port of the head node, "
                "e.g. ray-head:6379, or auto; unset it to use this machine alone"
            )
        return address
    try:
        return str(ray._private.services.canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, RuntimeError) as error:
        raise _unreachable(address, str(error).partition(".")[0]) from None


def _connect(address: str, host: str, port: int) -> None:
    """Connect once. In a thread, since the look-up of a name cannot be given a time."""
    outcome: list[str] = [f"no connection within {_CONNECT_TIMEOUT_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
            outcome[0] = ""
        except OSError as error:
            outcome[0] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_TIMEOUT_S)
    if outcome[0]:
        raise _unreachable(address, outcome[0])


def _unreachable(address: str, what: str) -> ClusterError:
    return ClusterError(
        f"no Ray cluster at {address!r}: {what}. Set RAY_ADDRESS to host:port of a running head "
        "node (`ray start --head` prints it), or unset it to use this machine alone"
    )
