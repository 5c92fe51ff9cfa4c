"""One Prefect server for all tests of this folder, and a cluster in memory."""

import contextlib

import pytest

from flows import artifacts, plan
from flows.embedded import Cluster
from tests.flows.fakes import FakeJobs, finish

MARKS = [
    pytest.mark.prefect,
    pytest.mark.long,
    # Prefect's own test harness and server, not ours.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WAITS_S = [0.0, 0.0]


@pytest.fixture(scope="package", autouse=True)
def prefect_api():
    """A Prefect server of these tests' own."""
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=240):
            yield


@pytest.fixture
def jobs(store, config, monkeypatch):
    """Give the cluster on which all stages of `config` would run."""
    from flows import one_stage, stages

    def work(name):
        finish(store, config, name.removeprefix(f"{config.name}-").split("-")[0])

    fake = FakeJobs(work)
    entered = []

    @contextlib.contextmanager
    def cluster_at(address):
        entered.append(address)
        yield Cluster(address or "http://127.0.0.1:1", None if address else "token")

    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)  # nothing here computes
    monkeypatch.setattr(plan, "require_answer", lambda _address: None)
    monkeypatch.setattr(one_stage, "cluster_at", cluster_at)
    monkeypatch.setattr(one_stage, "RayJobs", lambda _cluster: fake)
    monkeypatch.setattr(
        stages, "run_stage", stages.run_stage.with_options(retry_delay_seconds=WAITS_S)
    )
    fake.entered = entered
    return fake


@pytest.fixture
def given(store, config):
    return {"recipe": "digits", "root": store.uri, "run": config.name, "overrides": {}}


def artifact_of(*words):
    """Return the latest artifact of that key from Prefect's API."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        key = artifacts.artifact_key(*words)
        return client.request("GET", "/artifacts/{key}/latest", path_params={"key": key}).json()
