import json
import multiprocessing
import struct
import subprocess
import sys

import pytest

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.sources.containers.container import Entry, PassedOver
from ddpm_core.sources.containers.lmdb_export import Lmdb
from ddpm_core.sources.containers.opening import open_container, reopen
from ddpm_core.sources.listing import list_images

VALUES = {
    b"0a1b": b"RIFF....WEBP",
    b"key with / and .": b"\xff\xd8\xff jpeg",
    b"\xff\xfe": b"\x89PNG png",
    b"z": b"GIF89a",
}


@pytest.fixture
def lmdb():
    return pytest.importorskip("lmdb", reason="lmdb is not installed: pip install '.[lmdb]'")


@pytest.fixture
def folder(lmdb, tmp_path):
    path = tmp_path / "bedroom_train_lmdb"
    with lmdb.open(str(path), map_size=2**20) as made, made.begin(write=True) as transaction:
        for key, value in VALUES.items():
            transaction.put(key, value)
    (path / "lock.mdb").unlink()
    return path


def test_lmdb_gives_every_value(folder, tmp_path):
    """Catches keys that do not come back from their names, and a lock file that is asked for."""
    opened = open_container(str(folder), cache=tmp_path)
    entries = list(opened.entries(PassedOver()))
    assert [entry.name for entry in entries] == [
        "0a1b.webp", "key with / and ..jpg", "z.gif", "\udcff\udcfe.png",
    ]  # fmt: skip
    again = reopen(json.loads(json.dumps(opened.description())))
    got = [again.read(Entry(*json.loads(json.dumps(entry)))) for entry in entries]
    assert got == [VALUES[key] for key in sorted(VALUES)]
    assert sorted(one.name for one in folder.iterdir()) == ["data.mdb"]
    listing = list_images(opened, num_test_images=1)
    assert listing.classes == ("all",)


def test_lmdb_that_is_cut_short_is_refused(folder, tmp_path):
    """Catches the end of the process: the library maps the file and trusts its own numbers."""
    path = folder / "data.mdb"
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(DataError, match=r"data\.mdb is cut short: it has \d+ bytes, and speaks of"):
        list(open_container(str(folder), cache=tmp_path).entries(PassedOver()))


def _read(job):
    description, entry = job
    return reopen(description).read(entry)


def test_lmdb_is_read_in_forked_processes(folder, tmp_path):
    """Catches an environment that a forked process opens a second time, which LMDB forbids."""
    opened = open_container(str(folder), cache=tmp_path)
    entries = list(opened.entries(PassedOver()))
    jobs = [(opened.description(), entry) for entry in entries]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_read, jobs) == [VALUES[key] for key in sorted(VALUES)]


def test_lmdb_names_values_that_are_no_images(lmdb, tmp_path):
    """Catches a database of something else that is taken for images."""
    with lmdb.open(str(tmp_path), map_size=2**20) as made, made.begin(write=True) as transaction:
        transaction.put(b"a", b"pickle")
        transaction.put(b"b", b"")
    with pytest.raises(DataError, match=r'2 passed over: no name .* "a\.value", "b\.value"'):
        list_images(Lmdb(tmp_path), num_test_images=1)


@pytest.mark.parametrize(
    "content", [b"", b"no database", bytes(20_000)], ids=["0", "text", "zeros"]
)
def test_lmdb_that_is_none_is_refused(content, lmdb, tmp_path):
    """Catches a bare error of the library."""
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(DataError, match="is no LMDB that can be used"):
        list(open_container(str(tmp_path), cache=tmp_path).entries(PassedOver()))


def test_lmdb_that_has_changed_is_noticed(folder):
    """Catches a value that is not there read as nothing."""
    with pytest.raises(DataError, match="there is no such value"):
        Lmdb(folder).read(Entry("none.png", 3))
    with pytest.raises(DataError, match="there is no such value"):
        Lmdb(folder).read(Entry("z.gif", 3))


def test_lmdb_without_its_package_is_one_clear_error(tmp_path, monkeypatch):
    """Catches an ImportError in the middle of a run."""
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "data.mdb").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pip install 'ddpm-pipeline\[lmdb\]'"):
        list(open_container(str(tmp_path), cache=tmp_path).entries(PassedOver()))


def test_a_damaged_database_ends_in_an_error_and_not_the_process(lmdb, tmp_path):
    """Catches the end of whatever reads a value that says it reaches beyond the file (SIGSEGV).

    In a process of its own, so that a failure is one.
    """
    with lmdb.open(str(tmp_path), map_size=2**20) as made, made.begin(write=True) as transaction:
        transaction.put(b"key1", b"\xff\xd8\xff" + bytes(10_000))
    # A node: low and high half of the size, flags (1: on pages of its own), length of the key, key.
    path, size = tmp_path / "data.mdb", struct.pack("<2H", 10_003, 0)
    rest = struct.pack("<2H", 1, 4) + b"key1"
    content = path.read_bytes()
    assert content.count(size + rest) == 1
    longer = struct.pack("<2H", 0xE100, 0x05F5)  # 100,000,000 bytes
    path.write_bytes(content.replace(size + rest, longer + rest))
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "is no LMDB that can be used" in done.stdout


READ_ALL = """
import sys
from pathlib import Path
from ddpm_core.sources.containers.container import PassedOver
from ddpm_core.sources.containers.lmdb_export import Lmdb
from ddpm_core.errors import DataError
opened = Lmdb(Path(sys.argv[1]))
try:
    for entry in opened.entries(PassedOver()):
        opened.read(entry)
except DataError as error:
    print(error)
"""
