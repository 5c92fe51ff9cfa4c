"""Submit, follow and stop jobs: the only file that knows the Ray Jobs API."""

import contextlib
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp  # Ray's log stream is an aiohttp websocket, and raises its errors
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from ddpm_core.errors import ClusterError, ConfigError, PipelineError
from ddpm_core.package import write_package
from ddpm_core.servers.own_ray import JOB_STOPS, STOP_SIGNAL_WAIT_S
from ddpm_core.tracking.place import job_environment
from flows.embedded import Cluster
from flows.job_log import JobLog
from flows.links import page_metadata
from flows.ray_address import require_url

POLL_S = 1.0
LOST_AFTER_S = {True: 15.0, False: 90.0}
"""seconds without an answer after which a cluster counts as lost; True: the embedded one"""
FIRST_PATIENCE_S = 10.0
"""seconds in which a cluster must answer for the first time; an address may be wrong"""
_AGENT_PATIENCE_S = 120.0
_MAX_RACES = 10
_REQUEST_TIMEOUT_S = (10, 60)
_FIRST_REQUEST_TIMEOUT_S = (10, 15)
_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
# These beat the address that the client is given; here the argument is what the user said last.
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")

# They report each upload and the end of each log stream, in the middle of a person's screen.
for _name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
    logging.getLogger(_name).setLevel(logging.WARNING)

T = TypeVar("T")


class ClusterLostError(ClusterError):
    """The cluster, or its record of the job, is gone; the results it saved are not."""


@dataclass(frozen=True)
class Job:
    """One attempt at a stage."""

    submission_id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED"""
    exit_code: int | None
    """of the stage's process; None before the end, and if the process was never seen to end"""
    message: str

    @property
    def has_ended(self) -> bool:
        """Whether its status is final."""
        return self.status in _ENDED

    @property
    def prefix(self) -> str:
        """Its id without the number of the attempt."""
        return self.submission_id.rpartition("-a")[0]

    @property
    def attempt(self) -> int:
        """Its number, from 1."""
        return int(self.submission_id.rpartition("-a")[2])


class RayJobs:
    """The jobs of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        """Connect.

        Raises:
            ConfigError: the address is no URL of a dashboard, or the token is refused.
            ClusterLostError: there is no answer.
        """
        require_url(cluster.address)
        self._cluster = cluster
        self._client: Any = self._call(lambda: _client(cluster), patience_s=FIRST_PATIENCE_S)

    def attempts(self, prefix: str) -> list[Job]:
        """Return the jobs `prefix`-a1, -a2 ... that the cluster knows, oldest first."""
        pattern = re.compile(re.escape(prefix) + r"-a\d+")
        found = [_job(details) for details in self._list(pattern.fullmatch)]
        return sorted(found, key=lambda job: job.attempt)

    def alive(self, beginning: str) -> list[Job]:
        """Return the jobs whose id begins so and that have not ended."""
        jobs = [_job(details) for details in self._list(lambda name: name.startswith(beginning))]
        return [job for job in jobs if not job.has_ended]

    def ensure(self, prefix: str, command: Sequence[str]) -> tuple[Job, bool]:
        """Return the attempt that is alive, and True; else submit the next one, and False.

        Safe to call from two places at once: the cluster refuses a second job of the same id.

        Raises:
            ClusterError: others keep being faster, and their jobs end at once.
        """
        for _ in range(_MAX_RACES):
            attempts = self.attempts(prefix)
            alive = [job for job in attempts if not job.has_ended]
            if alive:
                return alive[-1], True
            number = attempts[-1].attempt + 1 if attempts else 1
            submission_id = f"{prefix}-a{number}"
            if self._submit(submission_id, command):
                return self.job(submission_id), False
        raise ClusterError(
            f"could not submit {prefix}: {_MAX_RACES} times another attempt came first and ended; "
            "see what else runs this run, then run again"
        )

    def job(self, submission_id: str) -> Job:
        """Return what the cluster knows of a job.

        Raises:
            ClusterLostError: it knows no such job (any more).
        """
        return _job(self._call(lambda: self._client.get_job_info(submission_id)))

    def follow(self, submission_id: str, on_line: Callable[[str], None]) -> Job:
        """Hand each line of the job's log to `on_line`, from its beginning, until the job ends."""
        log = JobLog(
            lambda: self._client.tail_job_logs(submission_id),
            (OSError, RuntimeError, aiohttp.ClientError),
        )
        try:
            while not (job := self.job(submission_id)).has_ended:
                for line in log.lines(timeout_s=POLL_S):
                    on_line(line)
                if log.is_over:
                    time.sleep(POLL_S)  # the log ends a moment before the job
            for line in log.lines(timeout_s=3 * POLL_S):
                on_line(line)
            missing = None if log.is_complete else self._call(self._logs_of(submission_id))
            for line in log.rest(missing):
                on_line(line)
        finally:
            log.close()
        return job

    def stop(self, submission_id: str) -> Job:
        """Interrupt a job, and wait until it has ended (killed, if it does not in time)."""
        self._call(lambda: self._client.stop_job(submission_id))
        deadline = time.monotonic() + STOP_SIGNAL_WAIT_S + 10
        while not (job := self.job(submission_id)).has_ended and time.monotonic() < deadline:
            time.sleep(0.2)
        return job

    def _logs_of(self, submission_id: str) -> Callable[[], str]:
        return lambda: str(self._client.get_job_logs(submission_id))

    def _list(self, wanted: Callable[[str], object]) -> list[Any]:
        jobs = self._call(lambda: self._client.list_jobs())
        return [job for job in jobs if job.submission_id and wanted(job.submission_id)]

    def _submit(self, submission_id: str, command: Sequence[str]) -> bool:
        """Submit; False if there is a job of that id already."""
        with tempfile.TemporaryDirectory(prefix="ddpm-") as folder:
            runtime_env = _runtime_env(self._cluster, Path(folder))
            try:
                self._call(
                    lambda: self._client.submit_job(
                        entrypoint=shlex.join(command),
                        submission_id=submission_id,
                        runtime_env=dict(runtime_env),  # the client writes into it
                        # On the job's page in Ray's dashboard, and known to its command.
                        metadata=page_metadata(self._cluster, submission_id),
                    )
                )
            except _RefusedError as error:
                if "already exists" in error.answer:
                    return False
                raise
        return True

    def _call(self, request: Callable[[], T], *, patience_s: float | None = None) -> T:
        """Make a request that can be repeated, through outages of limited length."""
        if patience_s is None:
            patience_s = LOST_AFTER_S[self._cluster.is_embedded]
        began = time.monotonic()
        while True:
            try:
                return request()
            except AuthenticationError as error:
                raise ConfigError(
                    f"the Ray cluster at {self._cluster.address} refuses access; set RAY_AUTH_MODE="
                    "token and RAY_AUTH_TOKEN_PATH (a file with its token). It said: "
                    f"{str(error).partition(chr(10))[0][:200]}"
                ) from None
            except (OSError, RuntimeError) as error:
                refused = _refusal(error)
                if refused is not None:
                    raise refused from None
                if "No available agent" in str(error):  # the node is there, and still starting
                    patience_s = max(patience_s, _AGENT_PATIENCE_S)
                if time.monotonic() - began > patience_s:
                    raise ClusterLostError(
                        f"the Ray cluster at {self._cluster.address} did not answer for "
                        f"{patience_s:.0f} s: {_brief(error)}. Is it running, and is this the URL "
                        "of its dashboard? The same command continues what was saved"
                    ) from None
                time.sleep(min(POLL_S, patience_s / 10))


class _RefusedError(ConfigError):
    """The cluster answered, and will answer the same again: the request has to change."""

    def __init__(self, answer: str) -> None:
        super().__init__(f"the Ray cluster refused: {_brief(answer, 600)}")
        self.answer = answer


def _refusal(error: Exception) -> PipelineError | None:
    """Tell an answer from an outage. The client has but one error for all statuses."""
    answer = re.match(r"Request failed with status code (\d+): (.*)", str(error), re.DOTALL)
    if answer is None or "No available agent" in answer[2]:  # a node that is still starting
        return None
    if answer[1] == "404":
        return ClusterLostError(
            f"the cluster does not know this job (any more): {_brief(answer[2])}. Was it "
            "restarted? The same command continues what was saved"
        )
    # Ray answers 500 to what it will never take, as well as while it starts; 502 ... are proxies'.
    if answer[1] in ("502", "503", "504"):
        return None
    return _RefusedError(answer[2])


def _brief(error: object, length: int = 200) -> str:
    """Return the last line of a message that may be a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w", line)]
    return lines[-1][-length:] if lines else type(error).__name__


class _BoundedClient(JobSubmissionClient):  # type: ignore[misc]  # Ray's client is untyped
    """Ray's client, which itself waits for ever: a cut network must not hold the flow."""

    _timeout_s: tuple[int, int] = _FIRST_REQUEST_TIMEOUT_S

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:  # noqa: ANN401
        return super()._do_request(method, endpoint, timeout=self._timeout_s, **options)


def _client(cluster: Cluster) -> Any:  # noqa: ANN401 - Ray's client is untyped
    headers = {} if cluster.token is None else {"Authorization": f"Bearer {cluster.token}"}
    with _without(_OVERRIDING):
        client = _BoundedClient(cluster.address, headers=headers)  # requests the version
    client._timeout_s = _REQUEST_TIMEOUT_S
    return client


def _runtime_env(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """Return what a job brings along; the Jobs API shows it, so no secret may be in it."""
    if cluster.is_embedded:
        return {}
    variables = JOB_STOPS | job_environment()
    package = folder / "ddpm_core.zip"
    write_package(package)
    return {"env_vars": variables, "working_dir": str(package)}


def _job(details: Any) -> Job:  # noqa: ANN401 - a JobDetails of Ray's
    return Job(
        submission_id=str(details.submission_id),
        status=str(details.status.value),
        exit_code=details.driver_exit_code,
        message=details.message or "",
    )


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
