"""MLflow is dead, silent, says no, or is busy."""

import http.server
import shlex
import sqlite3
import threading

import pytest

from ddpm_core.runs import layout
from ddpm_core.runs.weights import Weights
from ddpm_core.tracking import opening, outbox
from tests.tracking.local import (
    closed_port,
    committed,
    history,
    log,
    open_quiet,
    wait_for_words,
)


def test_a_server_that_is_not_there_stops_nothing(store, config, monkeypatch, capsys):
    """Catches MLflow's own patience, 246 s for one call, and errors that reach the stage."""
    address = f"127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{address}")
    monkeypatch.setattr(opening, "SILENCE_S", 0.1)
    result = committed(store, config, grid=b"a PNG", ema=b"weights")
    tracker = open_quiet(store, config)
    for step in range(1, 200):
        tracker.log_points([{"step": step, "loss": 0.1}])
    tracker.log_metrics({"fid": 1.0}, step=3)
    tracker.log_image("grid.png", result, "grid")
    tracker.set_tags({"a": "b"})
    tracker.register_model(Weights(result, config), {})
    printed = wait_for_words("does not answer", capsys)
    assert not tracker.close()
    printed += capsys.readouterr().err
    assert "did not get the points of steps 1 to 199" in printed
    run_json = store.uri_of(layout.run_json_key(config.name))
    assert f"`{shlex.join(['python', '-m', 'ddpm_core', 'train', run_json])}`" in printed
    assert "secret" not in printed
    assert len(printed.splitlines()) == 2


class _Reply(http.server.BaseHTTPRequestHandler):
    status = 500

    def do_POST(self):
        self.send_response(self.status)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [403, 503])
def test_a_server_that_says_no_stops_nothing(store, config, monkeypatch, capsys, status):
    """Catches retries inside MLflow, and an error of another kind than a dead server's."""
    monkeypatch.setattr(_Reply, "status", status)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Reply)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(opening, "SILENCE_S", 0.1)
    tracker = open_quiet(store, config)
    tracker.log_points([{"step": 1, "loss": 0.1}])
    assert str(status) in wait_for_words("does not answer", capsys)
    assert not tracker.close()
    server.shutdown()
    server.server_close()


def test_an_outage_of_the_database_leaves_no_gap(store, config, monkeypatch):
    """Catches points lost while another program holds the database, and repeated ones after."""
    monkeypatch.setattr(outbox, "_FIRST_WAIT_S", 0.05)
    log(store, config, {"step": 1, "loss": 1.0})
    lock = sqlite3.connect(store.local_path("mlflow.db"), isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    tracker = open_quiet(store, config)
    tracker.log_points([{"step": step, "loss": 1 / step} for step in (1, 2, 3)])
    assert not tracker.close(0.5)
    tracker = open_quiet(store, config)
    tracker.log_points([{"step": step, "loss": 1 / step} for step in (1, 2, 3, 4)])
    lock.execute("ROLLBACK")
    lock.close()
    assert tracker.close(60)
    assert history(store, config) == [(step, 1 / step) for step in (1, 2, 3, 4)]
