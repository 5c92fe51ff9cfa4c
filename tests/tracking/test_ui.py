import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress

import pytest

from ddpm_core.recipes import digits
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import open_tracker, ui
from tests.tracking.local import closed_port


@pytest.fixture(autouse=True)
def _no_desktop(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def with_a_run(root):
    tracker = open_tracker(open_store(str(root)), digits(), stage="train", machine_every_s=None)
    tracker.begin()
    assert tracker.close()
    return root


@pytest.mark.slow
def test_the_page_of_the_runs_is_served_until_ctrl_c(tmp_path):
    """Catches the page for agents, a root with a space that is not found, another port, a
    traceback or a failure at Ctrl-C, and processes that outlive it, also a second signal."""
    root, port = with_a_run(tmp_path / "my runs"), closed_port()
    command = [sys.executable, "-m", "ddpm_core.tracking.ui", str(root), "--port", str(port)]
    # Started by a shell's `&`, the tests ignore Ctrl-C, and so would what they start.
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        start_new_session=True,
    ) as server:  # fmt: skip
        try:
            # What a server prints as it starts comes before.
            line = next(one for one in server.stdout if one.startswith("MLflow: "))
            address = f"http://127.0.0.1:{port}"
            page = f"{address}/#/experiments/1/runs?workflowType=machine_learning"
            assert line.split()[1] == page
            with urllib.request.urlopen(f"{address}/health") as answer:  # noqa: S310
                assert answer.status == 200
            # As a terminal does: to all that stand in the foreground.
            os.killpg(server.pid, signal.SIGINT)
            # And as an impatient one does, while the server ends.
            os.killpg(server.pid, signal.SIGTERM)
            rest = server.stdout.read()
            assert server.wait(60) == 0, rest
            assert "Traceback" not in rest
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my runs"]


def test_a_port_that_is_taken_is_said(tmp_path, capsys):
    """Catches a server that starts workers again and again, and exit code 0 where there is no
    page."""
    with_a_run(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ui.main([str(tmp_path), "--port", str(port)]) == 2
    assert f"port {port} of this machine cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "5e3"])
def test_a_port_that_is_none_is_refused(tmp_path, capsys, port):
    """Catches a traceback for what a person mistypes."""
    assert ui.main([str(tmp_path), f"--port={port}"]) == 2
    assert f"port {port!r} must be a number" in capsys.readouterr().err


def test_a_service_has_a_page_of_its_own(tmp_path, monkeypatch, capsys):
    """Catches a database server that is started on the address of a service."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    assert ui.main([str(tmp_path)]) == 2
    assert "a service with a page of its own" in capsys.readouterr().err


def test_a_root_without_results_is_said(tmp_path, capsys):
    """Catches an empty MLflow on a database that was only just made."""
    assert ui.main([str(tmp_path)]) == 2
    assert "mlflow.db yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_server_that_fails_is_not_a_success(tmp_path, monkeypatch):
    """Catches exit code 0 of a page that nobody could see."""
    with_a_run(tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    handlers = {number: signal.getsignal(number) for number in ui._SIGNALS}
    try:
        assert ui.main([str(tmp_path), "--port", str(closed_port())]) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_the_page_of_a_server_is_named_without_its_password(tmp_path, monkeypatch, capsys):
    """Catches the bare address, and a password on the screen."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:canary@mlflow.example/path")
    home_of = []
    monkeypatch.setattr(
        ui, "page_of_experiment", lambda _store, home, base: home_of.append(home) or f"{base}/#/x"
    )
    assert ui.main([str(tmp_path)]) == 0
    assert capsys.readouterr().err == "MLflow: https://mlflow.example/path/#/x\n"
    assert home_of[0].uri.startswith("https://me:canary@")


def test_a_server_that_does_not_answer_is_said(tmp_path, monkeypatch, capsys):
    """Catches a page that is not there, called open; and a traceback with a password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:canary@127.0.0.1:{closed_port()}")
    assert ui.main([str(tmp_path)]) == 6
    printed = capsys.readouterr().err
    assert "does not answer" in printed
    assert "canary" not in printed
