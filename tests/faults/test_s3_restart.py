"""A real S3 server that is killed, as by a power cut, and comes back."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ddpm_core.errors import StorageError
from ddpm_core.store import s3_operation, storage
from ddpm_core.store.manifest import load
from ddpm_core.store.storage import Store
from tests.real_s3 import RealS3, missing
from tests.store.small_commit import EXPECTED, FOLDER, STATE, commit_small

pytestmark = [pytest.mark.s3, pytest.mark.long]
pytest_plugins = ["tests.s3_fixtures"]

DURING_AN_OUTAGE: tuple[Callable[[Store], object], ...] = (
    lambda store: store.read("a/b"),
    lambda store: store.exists("a/b"),
    lambda store: store.exists("a/x"),
    lambda store: store.names("a"),
    lambda store: store.names("x"),
    lambda store: store.write("a/c", b"2"),
    lambda store: store.create("a/d", b"3"),
    lambda store: store.delete("a/b"),
    lambda store: load(store, FOLDER, EXPECTED),
)


@contextmanager
def away(server: RealS3, *daemons: str) -> Iterator[None]:
    """Kill daemons of the server; have all of it back at the end."""
    server.kill(*daemons)
    try:
        yield
    finally:
        server.start()


def test_an_outage_is_no_empty_bucket_and_loses_nothing(
    real_s3_server: RealS3, real_s3_store: Store, monkeypatch: pytest.MonkeyPatch
):
    """Catches 'no checkpoint' while the storage is away: a run that begins again at step 0."""
    real_s3_store.write("a/b", b"1")
    real_s3_store.create("a/a", b"0")
    committed = commit_small(real_s3_store)
    with away(real_s3_server, "rgw"), monkeypatch.context() as patch:
        patch.setattr(storage, "DEADLINE_S", 0.5)
        for operate in DURING_AN_OUTAGE:
            with pytest.raises(StorageError, match="run again"):
                operate(real_s3_store)
    assert real_s3_store.read("a/b") == b"1"
    assert load(real_s3_store, FOLDER, EXPECTED) == committed
    assert committed.read(real_s3_store, "state") == STATE
    assert real_s3_store.names("a") == ["a", "b"]


def test_work_goes_on_when_the_server_is_back(
    real_s3_server: RealS3, real_s3_store: Store, monkeypatch: pytest.MonkeyPatch
):
    """Catches bytes that are lost, mixed or half there after gateway and disk were killed at work:
    small objects, one of several parts, and manifests.
    """
    monkeypatch.setattr(s3_operation, "DEADLINE_S", 120.0)
    monkeypatch.setattr(storage, "DEADLINE_S", 120.0)
    for module in (storage, s3_operation):
        monkeypatch.setattr(module, "PART_BYTES", 5 * 2**20)
    started_s = time.monotonic()

    def work(number: int) -> int:
        num_rounds = 0
        while time.monotonic() < started_s + 3 or num_rounds < 5:
            key, data = f"w{number}/{num_rounds}", f"{number} {num_rounds}".encode() * 1000
            real_s3_store.write(key, data)
            assert real_s3_store.read(key) == data
            real_s3_store.create(f"{key}.json", data[:100])
            num_rounds += 1
        return num_rounds

    def work_on_a_long_one() -> None:
        data = bytes(range(256)) * 2**16
        for name in ("first", "second"):
            real_s3_store.write(name, data)
            assert real_s3_store.read(name) == data

    with ThreadPoolExecutor(4) as pool:
        small = [pool.submit(work, number) for number in range(3)]
        long = pool.submit(work_on_a_long_one)
        time.sleep(0.5)
        with away(real_s3_server, "rgw", "osd"):
            pass
        counts = [one.result() for one in small]
        long.result()
    for number, count in enumerate(counts):
        names = [f"{one}{end}" for one in range(count) for end in ("", ".json")]
        assert real_s3_store.names(f"w{number}") == sorted(names)


def test_no_server_outlives_the_tests():
    """Catches daemons that stay when a test run is killed."""
    if reason := missing():
        pytest.skip(reason)
    code = (
        "import os, signal; from tests.real_s3 import RealS3; server = RealS3(); server.start()\n"
        "print(server.folder, server.port, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    ).stdout
    folder, port = out.split()
    until_s = time.monotonic() + 60
    while Path(folder).exists() and time.monotonic() < until_s:
        time.sleep(0.1)
    assert not Path(folder).exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0
