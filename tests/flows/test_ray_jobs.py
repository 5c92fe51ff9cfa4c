"""What is an answer of the cluster's, what is an outage, and what is never sent to it."""

import os
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from ddpm_core.errors import RETRYABLE_EXIT_CODES, ClusterError, ConfigError
from flows import ray_jobs
from flows.embedded import Cluster
from flows.ray_jobs import ClusterLostError, RayJobs

EMBEDDED = Cluster("http://127.0.0.1:1", "t")


class FakeClient:
    """The parts of Ray's client that are used, with a plan of failures."""

    def __init__(self):
        self.jobs, self.failures, self.submissions = {}, [], []

    def _maybe_fail(self):
        if self.failures:
            raise self.failures.pop(0)

    def list_jobs(self):
        self._maybe_fail()
        return [*self.jobs.values(), SimpleNamespace(submission_id=None)]

    def get_job_info(self, name):
        self._maybe_fail()
        if name not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")
        return self.jobs[name]

    def submit_job(self, *, submission_id, entrypoint, runtime_env, metadata):
        self._maybe_fail()
        if submission_id in self.jobs:
            text = f"ValueError: Job with submission_id {submission_id} already exists. Please"
            # As Ray's client says it: the answer, which ends in a new line, and a full stop.
            raise RuntimeError(f"Request failed with status code 500: Traceback...\n{text}\n.")
        self.submissions.append((submission_id, entrypoint, runtime_env))
        self.jobs[submission_id] = details(submission_id)


def details(name, status="RUNNING", code=None):
    return SimpleNamespace(
        submission_id=name,
        status=SimpleNamespace(value=status),
        driver_exit_code=code,
        message=None,
    )


@pytest.fixture
def client(monkeypatch):
    client = FakeClient()
    monkeypatch.setattr(ray_jobs, "_client", lambda _: client)
    monkeypatch.setattr(ray_jobs, "POLL_S", 0.01)
    monkeypatch.setattr(ray_jobs, "LOST_AFTER_S", {True: 0.3, False: 0.3})
    return client


@pytest.fixture
def jobs(client):
    return RayJobs(Cluster("http://ray-head:8265"))


def test_attempts_are_counted_not_sorted_as_text(client, jobs):
    """Catches: a10 before a9, so that attempt 10 is submitted for ever."""
    for number in range(1, 11):
        client.jobs[f"r-train-1-a{number}"] = details(f"r-train-1-a{number}", "FAILED", 6)
    client.jobs["r-train-12-a99"] = details("r-train-12-a99")
    job, attached = jobs.ensure("r-train-1", ["python", "-m", "ddpm_core"])
    assert (job.submission_id, attached) == ("r-train-1-a11", False)
    assert jobs.ensure("r-train-1", []) == (job, True)


def test_lost_race_attaches_to_the_winner(client, jobs):
    """Catches: two trainings of one run, or a flow that fails since it was second."""
    first = client.list_jobs

    def nobody_yet():
        client.list_jobs = first
        answer = first()
        client.jobs["r-train-1-a1"] = details("r-train-1-a1")
        return answer

    client.list_jobs = nobody_yet
    job, attached = jobs.ensure("r-train-1", ["python"])
    assert (job.submission_id, attached) == ("r-train-1-a1", True)
    assert not client.submissions


def test_races_without_end_are_given_up(client, jobs, monkeypatch):
    """Catches: a flow that spins for ever on a cluster whose list of jobs is behind."""
    monkeypatch.setattr(jobs, "_submit", lambda *_: False)
    with pytest.raises(ClusterError, match="r-train-1"):
        jobs.ensure("r-train-1", ["python"])


def test_reply_lost_after_submitting_does_not_submit_twice(client, jobs):
    """Catches: a repeated request that becomes a second job."""
    submit = client.submit_job

    def loses_the_reply(**words):
        client.submit_job = submit
        submit(**words)
        raise ConnectionResetError("gone")

    client.submit_job = loses_the_reply
    job, _ = jobs.ensure("r-train-1", ["python"])
    assert job.submission_id == "r-train-1-a1"
    assert len(client.submissions) == 1


def test_short_outage_is_waited_out(client, jobs):
    """Catches: a day of training given up for a restarted dashboard."""
    client.jobs["x-a1"] = details("x-a1")
    busy = RuntimeError("Request failed with status code 503: busy")
    client.failures = [ConnectionError("refused"), busy, TimeoutError()]
    assert jobs.job("x-a1").status == "RUNNING"


def test_long_outage_is_a_lost_cluster(client, jobs):
    """Catches: waiting for ever, or an error of a class that is not tried again."""
    client.failures = [ConnectionError("no route") for _ in range(1000)]
    with pytest.raises(ClusterLostError, match="no route") as caught:
        jobs.job("x-a1")
    assert 900 < len(client.failures) < 999, "asked again, and not for ever"
    assert caught.value.exit_code == 7


def test_unknown_job_is_lost_at_once(jobs, monkeypatch):
    """Catches: minutes of patience with a restarted head that has forgotten everything."""
    monkeypatch.setattr(ray_jobs, "LOST_AFTER_S", {True: 60, False: 60})
    with pytest.raises(ClusterLostError, match="x-a1"):
        jobs.job("x-a1")


def test_other_refusals_are_reported_as_they_are(client, jobs):
    """Catches: a refusal repeated until the patience is over, or by the flow after that."""
    client.failures = [RuntimeError("Request failed with status code 400: no such runtime_env")]
    with pytest.raises(ConfigError, match="no such runtime_env") as caught:
        jobs.job("x-a1")
    assert caught.value.exit_code not in RETRYABLE_EXIT_CODES


def test_refused_token_says_which_variable(client, jobs):
    """Catches: three retries of a wrong token."""
    client.failures = [AuthenticationError("Invalid authentication token")]
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH"):
        jobs.job("x-a1")


@pytest.mark.parametrize("address", ["ray-head:8265", "ray://head:10001", "auto", ""])
def test_address_must_be_the_dashboard_s_url(address):
    """Catches: a Ray Client address, which Ray's client would take for another thing."""
    with pytest.raises(ConfigError, match="http://ray-head:8265"):
        RayJobs(Cluster(address))


def test_job_brings_no_secret(client, jobs, monkeypatch):
    """Catches: credentials in what the Jobs API shows to everybody and Ray logs in clear."""
    for name in ("AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:canary@mlflow.example")
    jobs.ensure("r-train-1", ["python"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    jobs.ensure("r-train-2", ["python"])
    (_, _, first), (_, _, second) = client.submissions
    assert "canary" not in repr(client.submissions)
    assert first["env_vars"] == {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "10"}
    assert second["env_vars"]["MLFLOW_TRACKING_URI"] == "https://mlflow.example"
    assert second["env_vars"]["MLFLOW_EXPERIMENT_NAME"] == "mine", "or it is logged elsewhere"
    assert first["working_dir"].endswith(".zip")


def test_embedded_ray_is_sent_nothing(client):
    """Catches: a laptop that runs a copy instead of the files being edited; a job whose variables
    keep it from the workers that were started ahead.
    """
    jobs = RayJobs(EMBEDDED)
    jobs.ensure("r-train-1", ["python"])
    assert client.submissions[0][2] == {}


def test_entry_point_is_quoted_for_the_shell_that_ray_runs_it_in(client, jobs):
    """Catches: a root with a space, or a value with a semicolon, as a command of its own."""
    jobs.ensure("r-train-1", ["python", "/my runs/run.json", "--set", 'a="; rm -rf ~"'])
    assert client.submissions[0][1] == """python '/my runs/run.json' --set 'a="; rm -rf ~"'"""


def test_environment_does_not_beat_the_address(monkeypatch):
    """Catches: jobs sent to the cluster of RAY_ADDRESS although another was given."""
    asked = []

    class Client:
        def __init__(self, address, headers):
            asked.append((address, headers, os.environ.get("RAY_ADDRESS")))

    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    monkeypatch.setattr(ray_jobs, "_BoundedClient", Client)
    RayJobs(EMBEDDED)
    assert asked == [("http://127.0.0.1:1", {"Authorization": "Bearer t"}, None)]
    assert os.environ["RAY_ADDRESS"] == "http://other:8265"


def test_every_request_is_bounded_the_first_ones_too(monkeypatch):
    """Catches Ray's client, which waits for ever: also while it is made, when it asks a version."""
    asked = []

    def request(_self, method, endpoint, **options):
        asked.append((method, endpoint, options.pop("timeout")))
        return SimpleNamespace(
            status_code=200, json=lambda: {"ray_version": "2.60.0"}, raise_for_status=lambda: None
        )

    monkeypatch.setattr(ray_jobs.JobSubmissionClient, "_do_request", request)
    jobs = RayJobs(EMBEDDED)
    jobs._client._do_request("GET", "/x")
    assert ("GET", "/api/version", (10, 15)) in asked
    assert asked[-1] == ("GET", "/x", (10, 60))


def test_a_node_without_its_agent_yet_is_waited_for(client, jobs, monkeypatch):
    """Catches a head that was started a moment ago, and a job refused for that."""
    monkeypatch.setattr(ray_jobs, "_AGENT_PATIENCE_S", 3)
    starting = "Request failed with status code 500: No available agent to submit job, try again."
    client.failures = [RuntimeError(starting) for _ in range(15)]
    client.jobs["x-a1"] = details("x-a1")
    assert jobs.job("x-a1").status == "RUNNING"
    client.failures = [RuntimeError(starting) for _ in range(10_000)]
    with pytest.raises(ClusterLostError, match="No available agent"):
        jobs.job("x-a1")
