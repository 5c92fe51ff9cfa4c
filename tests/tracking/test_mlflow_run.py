"""How long who closes is to wait for MLflow, as the requests to it say."""

import math
import os
from types import SimpleNamespace

import pytest

from ddpm_core.errors import DataError
from ddpm_core.tracking import place
from ddpm_core.tracking.receiver import Refused
from tests.quiet_mlflow import mlflow  # noqa: F401 - before what imports it

MIB = 2**20


class Watch:
    def __init__(self):
        self.allowed = []

    def heard(self):
        self.allowed.append(0.0)

    allow = property(lambda self: self.allowed.append)


@pytest.fixture
def run(monkeypatch):
    """A run whose client notes what an upload was allowed, and the client's own timeout."""
    from ddpm_core.tracking.mlflow_run import Listening, MlflowRun

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    place.prepare_environment()
    watch, seen = Watch(), []

    def log_artifact(*_):
        seen.append((watch.allowed[-1], int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])))

    info = SimpleNamespace(experiment_id="1", run_id="2", start_time=0)
    client = SimpleNamespace(log_artifact=log_artifact)
    heard = Listening(client, watch.heard)
    yield MlflowRun(heard, None, None, SimpleNamespace(info=info), watch=watch), watch, seen
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")


def test_an_upload_is_given_the_time_of_its_bytes(run):
    """Catches a limit that is the same for a page and for weights; one that cuts a line of 64 KiB/s
    off; a client that gives up where the server first stores the file; and one left patient."""
    run, watch, seen = run
    run.log_file("report.html", bytes(1000))
    run.log_file("weights", bytes(8 * MIB))
    (small_s, _), (large_s, timeout_s) = seen
    assert large_s - small_s > 8 * MIB / 2**16 - 1
    assert timeout_s >= 120
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"
    assert watch.allowed[-1] == 0


def test_work_before_a_request_counts_as_nobody_s_silence(run):
    """Catches a model given up as not answered while it was packed, on a busy machine."""
    run, watch, _ = run
    allowed = watch.allowed

    def make():
        assert allowed[-1] == math.inf
        return 7

    assert run.made(make) == 7
    assert allowed[-1] == 0

    def fail():
        raise DataError("damaged")

    with pytest.raises(Refused, match="damaged"):
        run.made(fail)
    assert allowed[-1] == 0
