"""The lease of a run's training: one holder, and none that is dead."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ddpm_core.errors import RunConflictError, StorageError
from ddpm_core.runs import lease
from ddpm_core.runs.lease import _read, held, lease_key
from ddpm_core.store.storage import open_store

HOLD = """
import sys, time
from ddpm_core.runs.lease import held
from ddpm_core.store.storage import open_store
with held(open_store(sys.argv[1]), "r"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def other(store):
    """A process that holds the lease."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, store.uri], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def never(_seconds):
    pytest.fail("a process of this machine is not watched, it is looked at")


def test_the_second_start_is_refused_while_the_first_is_alive(store, other):
    """Catches two trainings of one run, and a refusal that does not say who is in the way."""
    with (
        pytest.raises(RunConflictError, match=rf"process {other.pid} on host .*--run NAME"),
        held(store, "r", sleep=never),
    ):
        pytest.fail("held twice")
    with held(store, "another-run", sleep=never):
        pass


@pytest.mark.parametrize("reaped", [True, False])
def test_what_a_killed_holder_left_is_taken_over_at_once(reaped, store, other):
    """Catches a run that nobody can train again after a kill."""
    other.send_signal(signal.SIGKILL)
    if reaped:
        other.wait()
    else:
        while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    with held(store, "r", sleep=never) as mine:
        assert _read(store, lease_key("r")) == mine
        assert mine.pid == os.getpid()
    assert _read(store, lease_key("r")) is None


def test_a_process_number_that_was_given_again_is_no_holder(store):
    """Catches a lease that another program with the old number keeps alive."""
    old = dataclasses.replace(lease._new_holder(), started=1.0)
    store.write(lease_key("r"), lease._bytes_of(old))
    with held(store, "r", sleep=never) as mine:
        assert _read(store, lease_key("r")).token == mine.token


@pytest.mark.parametrize("beats", [True, False])
def test_a_holder_on_another_machine_is_watched(beats, store):
    """Catches: clocks that are compared, a live training that is doubled, a dead one for ever."""
    theirs = dataclasses.replace(lease._new_holder(), host="elsewhere", pid=1)
    store.write(lease_key("r"), lease._bytes_of(theirs))
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if beats:
            store.write(lease_key("r"), lease._bytes_of(dataclasses.replace(theirs, beat=1)))

    if beats:
        with (
            pytest.raises(RunConflictError, match="process 1 on host elsewhere"),
            held(store, "r", sleep=sleep),
        ):
            pytest.fail("held twice")
    else:
        with held(store, "r", sleep=sleep) as mine:
            assert _read(store, lease_key("r")) == mine
    assert slept == [lease.SILENCE_S]


def test_it_beats_while_it_is_held(store, monkeypatch):
    """Catches a holder that looks dead from elsewhere, and a beat that outlives it."""
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    seen = threading.Event()
    write = type(store).write

    def spy(self, key, data):
        write(self, key, data)
        if json.loads(data)["beat"] >= 2:
            seen.set()

    monkeypatch.setattr(type(store), "write", spy)
    with held(store, "r"):
        assert seen.wait(60)
    assert _read(store, lease_key("r")) is None
    assert not [one for one in threading.enumerate() if one.name.startswith("lease-")]


def test_the_holder_lets_go_when_the_training_fails(store):
    """Catches a lease that stays after an error, and one that hides the error."""
    with pytest.raises(ZeroDivisionError), held(store, "r"):
        1 / 0  # noqa: B018
    assert _read(store, lease_key("r")) is None


def test_a_storage_that_is_away_ends_no_training(store, monkeypatch, caplog):
    """Catches a thread that dies at the first outage, and an end that is an error because of it."""
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    failed = threading.Event()

    def fail(*_args, **_kwargs):
        failed.set()
        raise StorageError("away")

    with held(store, "r"):
        monkeypatch.setattr(type(store), "read", fail)
        assert failed.wait(60)
    assert "is left behind: away" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{}", b'{"pid": 1}', b"[1]", b"x" * 9000])
def test_a_lease_that_is_none_is_taken_over(content, store):
    """Catches a traceback for a file that somebody cut or wrote."""
    store.write(lease_key("r"), content)
    with held(store, "r", sleep=never) as mine:
        assert _read(store, lease_key("r")) == mine
