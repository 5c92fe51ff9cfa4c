"""Attach, submit or fail: what a stage's task decides."""

from pathlib import Path

import pytest

from ddpm_core import errors
from flows import attempt
from flows.plan import job_prefix
from flows.ray_jobs import Job
from tests.flows.fakes import FakeJobs, finish, recorded


@pytest.fixture
def jobs(store, config):
    recorded(store, config)
    return FakeJobs(work=lambda name: finish(store, config, name.split("-")[1]))


def make(jobs, store, config, stage="shard", lines=None, **more):
    started = []
    attempt.make_result(
        jobs, store, config, stage, python="python",
        on_start=lambda job, attached, log: started.append((job.submission_id, attached, log)),
        on_line=(lines if lines is not None else []).append, **more,
    )  # fmt: skip
    return started


def test_first_attempt_is_submitted_and_followed(jobs, store, config):
    """Catches: a log that is not kept, or kept with the colours of a terminal."""
    jobs.lines = ["one", "\x1b[36m(pid=1)\x1b[0m two ± three"]
    name, lines = f"{job_prefix(store, config, 'shard')}-a1", []
    kept = store.local_path(f"runs/{config.name}/logs/{name}.log")
    assert make(jobs, store, config, lines=lines) == [(name, False, kept)]
    assert lines == ["one", "(pid=1) two ± three"]
    assert kept.read_text() == "one\n(pid=1) two ± three\n"


def test_log_of_a_killed_attempt_stays(jobs, store, config):
    """Catches: a Ray that was started anew, whose attempt 1 overwrites the one that was killed."""
    name = f"{job_prefix(store, config, 'shard')}-a1"
    folder = store.local_path(f"runs/{config.name}/logs")
    for lines in (["killed"], ["killed again"], ["done"]):
        jobs.lines, jobs.ends = lines, [None if lines != ["done"] else 0]
        jobs.jobs.clear()  # what a fresh Ray knows of the past
        if lines == ["done"]:
            ((_, _, path),) = make(jobs, store, config)
            assert path == folder / f"{name}.3.log"
        else:
            with pytest.raises(errors.ClusterError):
                make(jobs, store, config)
    kept = {file.name: file.read_text() for file in folder.iterdir()}
    assert kept == {
        f"{name}.log": "killed\n",
        f"{name}.2.log": "killed again\n",
        f"{name}.3.log": "done\n",
    }


def test_a_log_that_cannot_be_opened_ends_no_stage(jobs, store, config):
    """Catches: a traceback of the log, in place of the stage's own words or of its result."""
    jobs.lines, lines = ["one", "two"], []
    folder = store.local_path(f"runs/{config.name}/logs")
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    ((_, _, path),) = make(jobs, store, config, lines=lines)
    assert path is None
    said = f"warning: the log {folder} cannot be written: File exists; the stage goes on without it"
    assert lines == [said, "one", "two"]


def test_a_disk_that_fills_up_ends_the_log_once(jobs, store, config, monkeypatch):
    """Catches: a warning for each line, a write to a file that was closed."""
    jobs.lines, lines = ["one", "two", "three"], []
    monkeypatch.setattr(Path, "open", lambda *_args, **_options: open("/dev/full", "w"))  # noqa: SIM115, PTH123
    make(jobs, store, config, lines=lines)
    assert len(lines) == 4
    assert "No space left on device" in lines[0]
    assert lines[1:] == ["one", "two", "three"]


@pytest.mark.parametrize("is_meant", [True, False])
def test_what_a_stopped_job_says_last_is_in_its_log(jobs, store, config, is_meant):
    """Catches: a log that ends before the line that says what is saved, or has lines twice; and a
    job that is stopped since this process must go."""

    def cancelled():
        raise KeyboardInterrupt

    jobs.on_follow, jobs.last_words = cancelled, ["interrupted", "saved at step 3"]
    lines = []
    with pytest.raises(KeyboardInterrupt):
        make(jobs, store, config, lines=lines, stops=lambda ending: is_meant)
    (job,) = jobs.jobs.values()
    assert job.status == ("STOPPED" if is_meant else "RUNNING")
    assert lines == ["hello", *(jobs.last_words if is_meant else [])]
    kept = store.local_path(f"runs/{config.name}/logs/{job.submission_id}.log")
    assert kept.read_text().splitlines() == lines


def test_log_of_a_job_attached_to_is_one_file(jobs, store, config):
    """Catches: a copy of the log for each flow that followed the job, or another job's log lost."""
    name = f"{job_prefix(store, config, 'shard')}-a1"
    folder = store.local_path(f"runs/{config.name}/logs")
    folder.mkdir()
    (folder / f"{name}.log").write_text("another Ray's\n")
    (folder / f"{name}.2.log").write_text("the beginn")
    jobs.jobs[name] = Job(name, "RUNNING", None, "")
    jobs.lines = ["the beginning", "the end"]
    make(jobs, store, config)
    kept = {file.name: file.read_text() for file in folder.iterdir()}
    assert kept == {
        f"{name}.log": "another Ray's\n",
        f"{name}.2.log": "the beginning\nthe end\n",
    }


def test_living_job_is_attached_to(jobs, store, config):
    """Catches: a second training beside the first, after the flow's process was lost."""
    name = f"{job_prefix(store, config, 'shard')}-a1"
    jobs.jobs[name] = Job(name, "RUNNING", None, "")
    ((found, attached, _),) = make(jobs, store, config)
    assert (found, attached) == (name, True)
    assert not jobs.submitted


def test_next_attempt_follows_a_failed_one(jobs, store, config):
    """Catches: a stage that can never be run again since its id is taken."""
    jobs.ends = [6, 0]
    with pytest.raises(errors.StorageError):
        make(jobs, store, config)
    ((name, attached, _),) = make(jobs, store, config)
    assert name.endswith("-a2")
    assert not attached


def test_success_without_a_result_is_a_failure(jobs, store, config):
    """Catches: a cluster whose nodes write to another disk under the same path."""
    jobs.work = lambda _: None
    with pytest.raises(errors.PipelineError, match="same storage") as caught:
        make(jobs, store, config)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("exit_code", "kind", "code"),
    [
        (2, errors.ConfigError, 2),
        (3, errors.DataError, 3),
        (4, errors.CheckpointError, 4),
        (5, errors.DivergenceError, 5),
        (6, errors.StorageError, 6),
        (7, errors.ClusterError, 7),
        (1, errors.PipelineError, 1),
        (-9, errors.ClusterError, 7),
        (137, errors.ClusterError, 7),
        (None, errors.ClusterError, 7),
        (143, errors.ClusterError, 7),
        (130, errors.PipelineError, 130),
        (-2, errors.PipelineError, 130),
        ("stopped", errors.PipelineError, 130),
    ],
)
def test_end_of_a_job_becomes_the_error_of_its_code(jobs, store, config, exit_code, kind, code):
    """Catches: retrying what a person stopped, or giving up what a kill interrupted."""
    jobs.ends = [exit_code]
    with pytest.raises(kind) as caught:
        make(jobs, store, config)
    assert type(caught.value) is kind
    assert caught.value.exit_code == code


def test_message_is_the_stage_s_own_last_words(jobs, store, config):
    """Catches: a user who is shown Ray's wrapping instead of what to do."""
    jobs.lines = ["shard: not this", "noise", "shard: a.png is no PNG", "  give another"]
    jobs.ends = [3]
    with pytest.raises(errors.DataError) as caught:
        make(jobs, store, config)
    assert str(caught.value) == "a.png is no PNG\n  give another"


def test_message_without_own_words_is_the_end_of_the_log(jobs, store, config):
    """Catches: an unexpected traceback that is only on another machine's disk."""
    jobs.lines = [f"line {n}" for n in range(500)]
    jobs.ends = [1]
    with pytest.raises(errors.PipelineError) as caught:
        make(jobs, store, config)
    assert "line 499" in str(caught.value)
    assert "line 400" not in str(caught.value)


def test_stop_alive_stops_those_of_the_prefix_only(jobs):
    """Catches: stopping another run's job, or asking for the end of one that has ended."""
    for name, status in (("a-train-1-a1", "FAILED"), ("a-train-1-a2", "RUNNING"),
                         ("a-train-2-a1", "RUNNING")):  # fmt: skip
        jobs.jobs[name] = Job(name, status, None, "")
    assert attempt.stop_alive(jobs, "a-train-1-") == ["a-train-1-a2"]
    assert jobs.jobs["a-train-2-a1"].status == "RUNNING"
