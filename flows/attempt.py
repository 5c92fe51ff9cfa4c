"""Attach to the job of a stage, or submit the next attempt, and follow it. Knows no Prefect."""

import contextlib
import itertools
import re
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from ddpm_core.config import RunConfig
from ddpm_core.errors import (
    INTERRUPTED_EXIT_CODE,
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    DivergenceError,
    PipelineError,
    StorageError,
)
from ddpm_core.progress import WARNING
from ddpm_core.runs import layout
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.storage import Store
from flows.plan import job_command, job_prefix, result_of
from flows.ray_jobs import ClusterLostError, Job
from flows.together import StageEnded, Together, lines_of

_ERRORS: tuple[type[PipelineError], ...] = (
    ConfigError,
    DataError,
    CheckpointError,
    DivergenceError,
    StorageError,
    ClusterError,
)
_SHOWN_LINES = 30
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Jobs(Protocol):
    """What is needed of `ray_jobs.RayJobs`."""

    def ensure(self, prefix: str, command: Sequence[str]) -> tuple[Job, bool]: ...
    def job(self, submission_id: str) -> Job: ...
    def follow(self, submission_id: str, on_line: Callable[[str], None]) -> Job: ...
    def alive(self, beginning: str) -> list[Job]: ...
    def stop(self, submission_id: str) -> Job: ...


def make_result(
    jobs: Jobs,
    store: Store,
    config: RunConfig,
    stage: str,
    *,
    python: str,
    on_start: Callable[[Job, bool, Path | None], None],
    on_line: Callable[[str], None],
    stops: Callable[[BaseException], bool] = lambda _ending: False,
    together: Together | None = None,
) -> None:
    """Attach to the job that makes this result, or submit the next attempt; return when it is made.

    Args:
        jobs: the cluster's.
        store: the root.
        config: of the run, whose run.json is written.
        stage: one of `STAGES`.
        python: the interpreter on the cluster.
        on_start: called once with (job, attached, path of the log or None).
        on_line: called with each line of the job's log.
        stops: called with what ends the following of the job; returns whether the job ends too. It
            is then stopped, and its last words are read before this is raised.
        together: the stages that share a job with this one; None: it has its own.

    Raises:
        PipelineError: of the class, and with the exit code, of what ended the stage.
    """
    together = together if together is not None else Together(())
    job, attached = _job_of(jobs, store, config, stage, together, python=python)
    prefix = job_prefix(store, config, stage)
    is_first = job.prefix == prefix
    log_name = job.submission_id if is_first else f"{prefix}-a{job.attempt}"
    last: deque[str] = deque(maxlen=200)
    num_lines = 0
    log = _Log(store, config.name, log_name, attached=attached, on_line=on_line)
    with contextlib.closing(log):
        on_start(job, attached, log.path)

        def keep(line: str) -> None:
            nonlocal num_lines
            line = _COLOUR.sub("", line)
            last.append(line)
            log.keep(line)
            on_line(line)
            num_lines += 1

        def follow(keep: Callable[[str], None]) -> Job:
            return jobs.follow(job.submission_id, lines_of(stage, keep, is_first=is_first))

        together.followed.add(stage)
        try:
            ended = follow(keep)
            error = error_of(ended, stage, list(last))
        except StageEnded:
            error = None
        except BaseException as ending:
            if stops(ending):
                with contextlib.suppress(PipelineError, StageEnded):
                    jobs.stop(job.submission_id)
                    follow(_after(num_lines, keep))
            raise
    if error is not None:
        together.covered = ()  # what comes after this stage is no longer to be awaited of the job
        raise error
    if STAGES[stage].result(store, config) is None:
        raise PipelineError(
            f"job {job.submission_id} ended well, but its result is not under {store.uri}: do the "
            "cluster's nodes reach the same storage under this URI?"
        )


def _after(number: int, keep: Callable[[str], None]) -> Callable[[str], None]:
    """Return what hands on all lines but the first ones: a log is read from its beginning."""
    numbers = itertools.count()

    def take(line: str) -> None:
        if next(numbers) >= number:
            keep(line)

    return take


def _job_of(
    jobs: Jobs, store: Store, config: RunConfig, stage: str, together: Together, *, python: str
) -> tuple[Job, bool]:
    """Return the job that runs the stage, and whether its lines were read before."""
    if stage in together.covered and together.job is not None:
        with contextlib.suppress(ClusterLostError):  # with the Ray that knew it
            job = jobs.job(together.job)
            if not job.has_ended or together.is_awaited(stage):
                return job, stage in together.followed
    more = [one for one in together.after(stage) if not _is_there(store, config, one)]
    command = job_command(store, config, stage, *more, python=python)
    job, attached = jobs.ensure(job_prefix(store, config, stage), command)
    together.begin(job.submission_id, [stage, *more])
    return job, attached


def _is_there(store: Store, config: RunConfig, stage: str) -> bool:
    """Return whether a later stage is done; what contradicts an earlier one will be made again."""
    try:
        return result_of(store, config, stage) is not None
    except CheckpointError:
        return False


def stop_alive(jobs: Jobs, beginning: str) -> list[str]:
    """Stop the jobs whose id begins so; return their ids."""
    return [jobs.stop(job.submission_id).submission_id for job in jobs.alive(beginning)]


def error_of(job: Job, stage: str, log: Sequence[str]) -> PipelineError | None:
    """Return what an ended job amounts to: None, or the error to raise for it."""
    if job.status == "SUCCEEDED":
        return None
    if job.status == "STOPPED":
        return _error(
            INTERRUPTED_EXIT_CODE,
            f"job {job.submission_id} was stopped; the same command continues what was saved",
        )
    if job.exit_code is None:
        return ClusterError(f"job {job.submission_id} was lost: {job.message.strip()[-1000:]}")
    # A shell in between reports a signal as 128 + its number.
    signal_number = -job.exit_code if job.exit_code < 0 else job.exit_code - 128
    if signal_number == signal.SIGINT:
        return _error(
            INTERRUPTED_EXIT_CODE,
            f"job {job.submission_id} was interrupted; the same command continues what was saved",
        )
    if signal_number > 0:
        hint = " (out of memory?)" if signal_number == 9 else ""
        return ClusterError(
            f"the process of job {job.submission_id} was ended by signal {signal_number}{hint}"
        )
    return _error(job.exit_code, _said(stage, log) or job.message.strip())


def _error(exit_code: int, message: str) -> PipelineError:
    for kind in _ERRORS:
        if kind.exit_code == exit_code:
            return kind(message)
    error = PipelineError(message)
    error.exit_code = exit_code
    return error


def _said(stage: str, log: Sequence[str]) -> str:
    """Return the stage's own last words, `stage: message`, or else the end of its log."""
    own = [number for number, line in enumerate(log) if line.startswith(f"{stage}: ")]
    if own:
        words = "\n".join(log[own[-1] :][:_SHOWN_LINES])
        return words.removeprefix(f"{stage}: ")
    return "its log ends:\n" + "\n".join(log[-_SHOWN_LINES:])


class _Log:
    """The file that keeps a job's log. Where it cannot be written that is said once.

    It ends no stage: what the stage itself cannot write, it says in its own words.
    """

    def __init__(
        self, store: Store, run: str, name: str, *, attached: bool, on_line: Callable[[str], None]
    ) -> None:
        self.path: Path | None = None
        self._file: TextIO | None = None
        self._on_line = on_line
        folder = store.local_path(f"{layout.run_folder(run)}/logs")
        if folder is None:
            return  # a root that is no folder: nothing is kept
        with self._said_once(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path = _log_path(folder, name, attached=attached)
            self._file = path.open("w", encoding="utf-8", errors="replace")
            self.path = path

    def keep(self, line: str) -> None:
        if self._file is not None:
            with self._said_once(self._file.name):
                self._file.write(f"{line}\n")
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with self._said_once(self._file.name):
                self._file.close()

    @contextlib.contextmanager
    def _said_once(self, place: Path | str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                with contextlib.suppress(OSError):  # closing writes what was left over
                    self._file.close()
            self._file = None
            words = f"the log {place} cannot be written: {error.strerror or error}"
            self._on_line(f"{WARNING}{words}; the stage goes on without it")


def _log_path(folder: Path, name: str, *, attached: bool) -> Path:
    """Return the next free name; for a job we are attached to, the one it was begun under.

    A Ray that was started anew counts attempts from 1 again: the log of the earlier one stays.
    """
    path, last, number = folder / f"{name}.log", None, 1
    while path.exists():
        last, number = path, number + 1
        path = folder / f"{name}.{number}.log"
    return last if attached and last is not None else path
