"""What the environment names answers, or the report says which variable to change."""

import http.server
import threading

import pytest

from ddpm_core.doctor import services
from ddpm_core.store.storage import S3Store, open_store

VARIABLES = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS", "AWS_ENDPOINT_URL")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    for key in (*VARIABLES, *PROXIES, *(one.upper() for one in PROXIES)):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def server():
    """A server that answers with `server.code`."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as found:
        found.code = 200
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        found.url = f"http://127.0.0.1:{found.server_address[1]}"
        yield found
        found.shutdown()


def test_without_anything_named_all_is_fit(tmp_path):
    """Catches a service that a single machine does not need, and is missed."""
    found = list(services.examined(open_store(str(tmp_path))))
    assert [one.verdict for one in found] == ["ok"] * 5, [one.line for one in found]


@pytest.mark.parametrize(
    ("code", "verdict"), [(200, "ok"), (401, "ok"), (404, "bad"), (500, "bad")]
)
def test_a_service_is_there_if_it_answers_or_refuses_a_stranger(code, verdict, server, monkeypatch):
    """Catches another server on that port, and one that wants a token taken for none."""
    server.code = code
    monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
    assert services._prefect().verdict == verdict


def test_a_service_that_is_not_there_is_named_without_its_password(server, tmp_path, monkeypatch):
    """Catches a password in a report that people paste into an issue."""
    server.shutdown()
    server.server_close()
    address = server.url.replace("http://", "http://me:hunter2@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    found = services._mlflow(open_store(str(tmp_path)))
    assert found.verdict == "bad"
    assert "MLFLOW_TRACKING_URI" in found.remedy
    assert "hunter2" not in found.line


def test_a_ray_that_is_not_there_is_named(monkeypatch):
    """Catches Ray's own wait of minutes, and its traceback."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    found = services._ray()
    assert found.verdict == "bad"
    assert "RAY_ADDRESS" in found.remedy


def test_a_proxy_between_us_and_our_own_services_is_said(monkeypatch):
    """Catches a proxy that is reported although no request goes through it, and the reverse."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert services._proxy().verdict == "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.internal:5000")
    assert "MLFLOW_TRACKING_URI (mlflow.internal)" in services._proxy().said
    assert services._proxy().verdict == "look"
    monkeypatch.setenv("no_proxy", "mlflow.internal")
    assert services._proxy().verdict == "ok"


def test_a_bucket_without_a_server_of_mlflow_is_said():
    """Catches a run whose curves nobody finds."""
    assert services._mlflow(S3Store("s3://bucket/prefix")).verdict == "look"


def test_what_is_no_address_is_named(monkeypatch, tmp_path):
    """Catches the traceback of urllib, here and in every stage."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@[")
    assert services._proxy().verdict == "ok"
    found = services._mlflow(open_store(str(tmp_path)))
    assert found.verdict == "bad"
    assert "MLFLOW_TRACKING_URI='http://***@[' is no address" in found.remedy


def test_a_proxy_that_does_not_pass_a_request_on_is_named_with_its_remedy(monkeypatch, tmp_path):
    """Catches "connection refused" of a proxy, told as the server's own; and its password."""
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.internal:5000")
    found = services._mlflow(open_store(str(tmp_path)))
    assert found.verdict == "bad"
    assert "mlflow.internal:5000 through the proxy http://127.0.0.1:9: " in found.said
    assert "no_proxy" in found.remedy
    assert "secret" not in found.line
    monkeypatch.setenv("no_proxy", "mlflow.internal")
    assert services._proxy_of("http://mlflow.internal:5000/health") is None


@pytest.mark.parametrize("url", ["http://[mlflow", "mlflow.internal"])
def test_what_is_no_address_goes_through_no_proxy(url, monkeypatch):
    """Catches a traceback where the doctor looks which proxy an address has."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert services._proxy_of(url) is None
