"""What is on this machine is reached without a proxy."""

import os
import sys
import time

import pytest

from ddpm_core.servers import server


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "a.example"}, "a.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a, localhost", "no_proxy": "b"}, "b,a,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_both_spellings_list_this_machine_and_what_was_there(env, expected):
    """Catches three minutes of waiting for a proxy, and a user's own exceptions that are lost."""
    assert server.reached_directly(env) == {"no_proxy": expected, "NO_PROXY": expected}


def test_requests_of_this_process_go_straight(monkeypatch):
    """Catches a variable that is set in no spelling that urllib and requests read."""
    import urllib.request

    import requests.utils

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    server.use_directly()
    assert urllib.request.proxy_bypass("127.0.0.1:8265")
    assert requests.utils.should_bypass_proxies("http://127.0.0.1:8265/x", no_proxy=None)
    assert not urllib.request.proxy_bypass("example.org")
    assert os.environ["no_proxy"] == "127.0.0.1,localhost,::1"


def test_a_server_ends_once_its_end_has_begun_and_may_still_be_closed(tmp_path, monkeypatch):
    """Catches a beginning that waits, one that ends nothing, and an end that cannot begin twice."""
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    serving = server.Server("a server", command, folder, dict(os.environ))
    assert serving.is_running()
    waited, wait = [], serving._process.wait
    monkeypatch.setattr(serving._process, "wait", lambda **given: (waited.append(1), wait(**given)))
    serving.begin_close()
    serving.begin_close()
    assert not waited
    while serving.is_running():
        time.sleep(0.01)
    serving.close()
    assert not folder.exists()
