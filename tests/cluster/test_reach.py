"""An address is found to be a Ray's or not in half a minute, and what to set is said."""

import socket
import threading
from concurrent import futures

import grpc
import pytest

from ddpm_core import cluster
from ddpm_core.cluster import reach
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError

REMEDY = "Set RAY_ADDRESS to host:port of a running head node"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(reach, "_CONNECT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(reach, "_ANSWER_TIMEOUT_S", 0.3)


def refused(address):
    with pytest.raises(ClusterError, match=REMEDY) as caught:
        reach.require_answer(address)
    assert caught.value.exit_code == 7
    return str(caught.value)


def test_who_accepts_and_is_silent_is_no_ray(impatient):
    """Catches Ray's own wait of over ten minutes: a stopped head, a firewall that swallows."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        assert f"{where} is open, but no Ray answered within 0.3 s" in refused(where)


def test_a_port_where_nobody_listens_is_refused_at_once():
    """Catches a wait for somebody to come."""
    assert "ConnectionRefusedError" in refused("127.0.0.1:1")


def test_a_name_that_is_never_looked_up_is_given_up(impatient, monkeypatch):
    """Catches the resolver, which knows no limit, in the way of it."""
    never = threading.Event()

    def look_up(*_):
        never.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", look_up)
    assert "no connection within 0.3 s" in refused("ray-head:6379")
    never.set()


def serve(code):
    """Return a gRPC server, and its address, that answers every call with that status."""

    class Answer(grpc.GenericRpcHandler):
        def service(self, _details):
            def call(_request, context):
                if code is not None:
                    context.abort(code, "no")
                return b"\x08\x01"

            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Answer()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAUTHENTICATED])
def test_an_answer_is_an_answer_also_without_a_token(code):
    """Catches a cluster that wants a token, which Ray reports well, taken for none."""
    server, where = serve(code)
    reach.require_answer(where)
    server.stop(0)


def test_another_server_is_no_ray():
    """Catches a proxy or a web server at the address, with which Ray tries for a minute."""
    server, where = serve(grpc.StatusCode.UNIMPLEMENTED)
    assert "what answers is no Ray (unimplemented)" in refused(where)
    server.stop(0)


@pytest.mark.parametrize("address", ["ray-head", "ray-head:", ":6379", "h:70000", "h:x", "6379"])
def test_what_is_no_address_is_said_to_be_none(address):
    """Catches a traceback, and minutes of looking."""
    with pytest.raises(ClusterError, match="is no address: it must be host:port"):
        reach.require_answer(address)


def test_auto_without_a_cluster_is_refused_with_what_to_set(monkeypatch):
    """Catches Ray's search for two minutes, at an address that it has noted once."""

    def nowhere(_address):
        raise ConnectionError("Could not find any running Ray instance. Please specify the one")

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address_or_die", nowhere)
    assert "'auto': Could not find any running Ray instance. Set RAY_ADDRESS" in refused("auto")
    monkeypatch.setattr(
        "ray._private.services.canonicalize_bootstrap_address_or_die", lambda _: "127.0.0.1:1"
    )
    assert "ConnectionRefusedError" in refused("auto")


def test_a_stage_checks_the_address_before_ray_does(monkeypatch):
    """Catches a check that nobody calls."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(ClusterError, match=REMEDY):
        cluster.connect(ComputeConfig())
