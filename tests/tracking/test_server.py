"""A real MLflow server that is killed and comes back, while a run goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ddpm_core.recipes import digits
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import open_tracker
from tests.quiet_mlflow import mlflow
from tests.tracking.local import committed

pytestmark = [pytest.mark.slow, pytest.mark.long]


class Server:
    def __init__(self, folder):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._process = folder, None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", f"{self._folder}/files"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):  # noqa: S310
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise TimeoutError((self._folder / "log").read_text()[-2000:])

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(tmp_path):
    one = Server(tmp_path)
    one.start()
    yield one
    one.kill()


def deliver(store, config, stage, result):
    tracker = open_tracker(store, config, stage=stage, machine_every_s=None)
    tracker.deliver(result, lambda: tracker.log_image("grid.png", result, "grid"))
    return tracker.close()


def run_there(server):
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("ddpm")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_a_server_killed_in_between_ends_up_with_each_point_once(server, tmp_path, monkeypatch):
    """Catches points lost in the outage, or sent twice after it, over HTTP: what the tests with a
    database cannot show; and files that the server's storage does not get."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    store, config = open_store(str(tmp_path / "root")), digits()
    curve = [{"step": step, "loss": 1 / step} for step in range(10, 410, 10)]
    grid = committed(store, config, grid=b"a PNG")
    tracker = open_tracker(store, config, stage="train", machine_every_s=0.3)
    tracker.begin()
    for number, point in enumerate(curve):
        if number == 20:
            server.kill()
        tracker.log_points([point])
        time.sleep(0.05)
    server.start()
    assert tracker.close(60)
    # Away at the end of a stage: what it has is kept, and the next stage brings it.
    server.kill()
    assert not deliver(store, config, "sample", grid)
    server.start()
    tracker = open_tracker(store, config, stage="evaluate", machine_every_s=None)
    tracker.begin()
    tracker.log_points(curve)
    tracker.deliver(grid, lambda: tracker.log_image("grid.png", grid, "grid"))
    tracker.log_metrics({"fid": 12.5}, step=400)
    assert tracker.close(60)
    before = run_there(server)
    server.kill()
    assert deliver(store, config, "sample", grid), "it has arrived: nobody is contacted"
    server.start()
    client, run = mlflow.MlflowClient(server.uri), run_there(server)
    assert run.info.end_time == before.info.end_time
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(p["step"], p["loss"]) for p in curve]
    steps = [
        one.step
        for one in client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    ]
    assert len(steps) == len(set(steps)) > 0
    assert run.info.status == "FINISHED"
    assert run.data.params["train.seed"] == "0"
    found = client.download_artifacts(run.info.run_id, "pictures/grid.png", str(tmp_path))
    assert Path(found).read_bytes() == b"a PNG"
