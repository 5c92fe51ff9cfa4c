"""The address of a cluster's dashboard is tried before anything is started, in half a minute."""

import http.server
import socket
import threading

import pytest

from ddpm_core.errors import ClusterError, ConfigError
from flows import ray_address


@pytest.fixture
def serve():
    """Start servers that answer with a status, or not at all (None)."""
    servers = []

    def start(status):
        if status is None:
            silent = socket.create_server(("127.0.0.1", 0))
            servers.append(silent.close)
            return f"http://127.0.0.1:{silent.getsockname()[1]}"

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status if self.path == "/api/version" else 500)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.extend([server.server_close, server.shutdown])
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for stop in reversed(servers):
        stop()


@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_ray_answers_or_requires_a_token(serve, status):
    """Catches a cluster behind a token that is taken for none."""
    ray_address.require_answer(serve(status))
    ray_address.require_answer(serve(status) + "/")


@pytest.mark.parametrize(
    ("status", "said"), [(404, "no Ray .404"), (503, "no Ray .503"), (None, "timed out|no answer")]
)
def test_a_server_that_is_no_ray_or_silent_is_reported_in_one_sentence(
    serve, monkeypatch, status, said
):
    """Catches five minutes of attempts, and a quarter of an hour where somebody is silent."""
    monkeypatch.setattr(ray_address, "_ANSWER_TIMEOUT_S", 0.3)
    address = serve(status)
    with pytest.raises(ClusterError, match=said) as caught:
        ray_address.require_answer(address)
    assert f"no Ray cluster answers at {address}: " in str(caught.value)
    assert "--ray-address must be the URL" in str(caught.value)


def test_a_server_that_drips_is_given_up(monkeypatch):
    """Catches a limit for each byte only, and a resolver that knows none."""
    never = threading.Event()
    monkeypatch.setattr(ray_address, "_LIMIT_S", 0.3)

    def drip(*_, **__):
        never.wait(60)
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", drip)
    with pytest.raises(ClusterError, match=r"no answer within 0\.3 s"):
        ray_address.require_answer("http://head:8265")
    never.set()


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "", "auto", "http://"])
def test_another_kind_of_address_is_refused(address):
    """Catches Ray Client's, and that of the cluster's head."""
    with pytest.raises(ConfigError, match="must be the URL of the cluster's dashboard"):
        ray_address.require_answer(address)
