"""The cache of a machine: whole files or none, one maker at a time, and never over its limit."""

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.loading.cache import FOLDER_VARIABLE, LIMIT_VARIABLE, Cache
from ddpm_core.store import durable
from ddpm_core.store.durable import is_temporary

CONTEXT = multiprocessing.get_context("fork")


def open_with(cache, name, content, *, calls=None):
    """The descriptor of a file of this content."""

    def make(descriptor):
        if calls is not None:
            calls.append(name)
        os.write(descriptor, content)

    return cache.open(name, make=make, is_sound=lambda d: os.pread(d, 200, 0) == content)


def use(cache, name, content, **words):
    """What is in a file of the cache."""
    descriptor = open_with(cache, name, content, **words)
    try:
        return os.pread(descriptor, 200, 0)
    finally:
        os.close(descriptor)


def names(cache):
    return sorted(path.name for path in cache.folder.iterdir() if path.is_file())


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "here" / "cache", 100)


def test_a_file_is_made_once(cache):
    """Catches a cache that nobody looks into."""
    calls = []
    for _ in range(3):
        assert use(cache, "a", b"content", calls=calls) == b"content"
    assert calls == ["a"]
    assert names(cache) == ["a"]


def test_of_a_folder_that_cannot_be_looked_into_nothing_is_said_yet(tmp_path):
    """Catches a traceback where `open` has a sentence."""
    cache = Cache(tmp_path / ("x" * 300), 100)
    assert not cache.has("a")
    with pytest.raises(StorageError, match=f"set {FOLDER_VARIABLE}"):
        use(cache, "a", b"content")


@pytest.mark.parametrize("found", [b"conteNt", b"", b"content and more"])
def test_a_damaged_file_is_made_again(found, cache):
    """Catches trust in what somebody else may have written."""
    use(cache, "a", b"content")
    (cache.folder / "a").write_bytes(found)
    calls = []
    assert use(cache, "a", b"content", calls=calls) == b"content"
    assert calls == ["a"]


def test_a_disk_that_loses_bytes_is_reported(cache):
    """Catches an endless loop of making it again."""
    with pytest.raises(StorageError, match=r"is not what was written.*DDPM_CACHE"):
        cache.open("a", make=lambda _descriptor: None, is_sound=lambda _descriptor: False)


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path, monkeypatch):
    """Catches the deletion of somebody's archive in a scratch folder that was given as cache."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(LIMIT_VARIABLE, str(50 / 2**30))
    (tmp_path / "thesis.zip").write_bytes(b"x" * 1000)
    for name in "abc":
        use(Cache.of_environment(), name, b"y" * 30)
    assert (tmp_path / "thesis.zip").exists()
    assert names(Cache.of_environment()) == ["c"]


def test_a_disk_smaller_than_the_limit_loses_the_oldest(cache):
    """Catches a training that ends, each time, for files that could have been deleted."""

    def making(content):
        def make(descriptor):
            used = sum((cache.folder / name).stat().st_size for name in names(cache))
            if used + len(content) > 50:  # the disk of this test
                raise OSError(errno.ENOSPC, "No space left on device")
            os.write(descriptor, content)

        return make

    for number, name in enumerate("abcd"):
        content = bytes([number]) * 20
        os.close(cache.open(name, make=making(content), is_sound=lambda _descriptor: True))
        os.utime(cache.folder / name, (number, number))
        if name == "c":
            assert names(cache) == ["b", "c"], "half of what was there"
    assert names(cache) == ["c", "d"]
    with pytest.raises(StorageError, match="No space left"):
        cache.open("e", make=making(bytes(60)), is_sound=lambda _descriptor: True)


def test_a_file_that_cannot_be_published_stays_open_nowhere(cache, monkeypatch):
    """Catches descriptors, and the space behind them, that are lost with each try."""

    def refuse(*_arguments, **_words):
        raise OSError(errno.EIO, "Input/output error")

    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(3):
        with pytest.raises(StorageError, match="Input/output error"):
            use(cache, "a", b"content")
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


def test_a_maker_that_fails_leaves_nothing(cache):
    """Catches a half-made file under the final name."""

    def make(descriptor):
        os.write(descriptor, b"half")
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        cache.open("a", make=make, is_sound=lambda _descriptor: True)
    assert names(cache) == []


def test_a_killed_maker_leaves_nothing_that_counts(cache):
    """Catches a lock that outlives its holder, half a file that is read, leftovers for ever."""
    started = CONTEXT.Event()

    def make(descriptor):
        os.write(descriptor, b"cont")
        started.set()
        time.sleep(60)

    child = CONTEXT.Process(
        target=lambda: cache.open("a", make=make, is_sound=lambda _descriptor: True)
    )
    child.start()
    assert started.wait(30)
    assert [is_temporary(name) for name in names(cache)] == [True]
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert use(cache, "a", b"content") == b"content"
    assert names(cache) == ["a"]


def test_many_processes_make_a_file_once(cache, tmp_path):
    """Catches every rank of a machine decoding for itself."""

    def make(descriptor):
        (tmp_path / f"made-{os.getpid()}").touch()
        time.sleep(0.2)
        os.write(descriptor, b"content")

    def work():
        descriptor = cache.open(
            "a", make=make, is_sound=lambda d: os.pread(d, 100, 0) == b"content"
        )
        os._exit(0 if os.pread(descriptor, 100, 0) == b"content" else 1)

    children = [CONTEXT.Process(target=work) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_who_makes_a_file_may_open_those_of_another_kind(cache, monkeypatch):
    """Catches a maker that waits for a lock of its own, which two names may share."""
    monkeypatch.setattr("ddpm_core.loading.cache._NUM_LOCKS", 1)

    def waits():
        raise DataError("it waits for itself")

    def make(descriptor):
        name = "shard-1.tar"
        os.close(cache.open(name, make=lambda _: None, is_sound=lambda _: True, waiting=waits))
        os.write(descriptor, b"made")

    os.close(cache.open("decoded-1.bin", make=make, is_sound=lambda _: True))
    assert (cache.folder / "decoded-1.bin").read_bytes() == b"made"


def test_many_threads_make_a_file_once(cache):
    """Catches locks that a process holds as a whole."""
    calls, results = [], []
    threads = [
        threading.Thread(target=lambda: results.append(use(cache, "a", b"content", calls=calls)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"content"] * 6
    assert calls == ["a"]


def set_age(cache, name, seconds):
    then = time.time() - seconds
    os.utime(cache.folder / name, (then, then))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_will_do(number, cache, monkeypatch):
    """Catches a refusal of a home on Lustre, where locks are off by default."""

    def no_locks(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for name in "ab":
        assert use(cache, name, name.encode()) == name.encode()
    assert names(cache) == ["a", "b"]


def test_a_full_disk_is_reported_with_what_is_free(cache, monkeypatch):
    """Catches a sentence that leaves open how much is missing, and half a file that stays."""

    def make(descriptor):
        os.write(descriptor, b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = r"No space left on device \(\d+ bytes are free\); free some space, or set DDPM_CACHE"
    with pytest.raises(StorageError, match=expected):
        cache.open("a", make=make, is_sound=lambda _descriptor: True)
    assert [path for path in cache.folder.iterdir() if path.is_file()] == []


def test_what_was_opened_longest_ago_goes_first(cache):
    """Catches eviction by the time of making, or of what has just been made."""
    for number, name in enumerate("abc"):
        use(cache, name, name.encode() * 30)
        set_age(cache, name, 100 - number)
    use(cache, "a", b"a" * 30)  # used again: now b is the oldest
    use(cache, "d", b"d" * 30)
    assert names(cache) == ["a", "c", "d"]
    use(cache, "huge", b"e" * 99)
    assert names(cache) == ["huge"]
    use(cache, "over", b"f" * 101)  # alone over the limit, and in use
    assert names(cache) == ["over"]


def test_what_another_process_deletes_meanwhile_is_gone(cache, monkeypatch):
    """Catches a training that ends since a person empties the folder while it makes room."""
    use(cache, "a", b"a" * 30)

    def is_temporary_and_gone(name):
        if name == "a":
            (cache.folder / name).unlink()
        return is_temporary(name)

    monkeypatch.setattr(durable, "is_temporary", is_temporary_and_gone)
    assert use(cache, "b", b"b" * 30) == b"b" * 30
    assert names(cache) == ["b"]


def test_an_evicted_file_stays_for_processes_that_have_it_open(cache):
    """Catches a reader whose bytes change or end under it."""
    descriptor = open_with(cache, "a", b"a" * 60)
    set_age(cache, "a", 100)
    use(cache, "b", b"b" * 60)
    assert names(cache) == ["b"]
    assert os.pread(descriptor, 100, 0) == b"a" * 60
    os.close(descriptor)


def test_the_limit_holds_among_processes(cache):
    """Catches processes that each count what they have made themselves, and races of deleting."""

    def work(own):
        for number in range(20):
            use(cache, f"{own}-{number % 7}", bytes([own]) * 30)
        os._exit(0)

    children = [CONTEXT.Process(target=work, args=(own,)) for own in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert sum((cache.folder / name).stat().st_size for name in names(cache)) <= 100


def test_the_environment_says_where_and_how_much(monkeypatch, tmp_path):
    """Catches GB for GiB, and a default below the working directory."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "x"))
    monkeypatch.setenv(LIMIT_VARIABLE, "1.5")
    assert Cache.of_environment() == Cache(tmp_path / "x" / "kept", 3 * 2**29)
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.delenv(LIMIT_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache.of_environment() == Cache(tmp_path / "xdg" / "ddpm-pipeline" / "kept", 2**35)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache.of_environment().folder == tmp_path / ".cache" / "ddpm-pipeline" / "kept"


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "a lot"])
def test_a_limit_that_is_none_is_refused(limit, monkeypatch):
    """Catches an unlimited cache by mistake, and a traceback."""
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    with pytest.raises(ConfigError, match=f"DDPM_CACHE_GIB='{limit}' must be a number of GiB"):
        Cache.of_environment()


def test_a_folder_that_cannot_be_used_is_reported(tmp_path):
    """Catches a traceback of the operating system."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"local cache .*file/cache cannot be used.*DDPM_CACHE"):
        use(Cache(tmp_path / "file" / "cache", 100), "a", b"")
