"""The empty database of Prefect that is kept, with one of SQLite in its place."""

import contextlib
import sqlite3

import pytest

from flows import prefect_database
from flows.prefect_database import DATABASE, give, keep


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Give the home of a server that has started, whose last writes are in its log alone."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "a cache #1?"))
    home = tmp_path / "home"
    home.mkdir()
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as server:
        server.execute("pragma journal_mode = wal")
        server.execute("create table flow (name text)")
        server.commit()
        yield home


def tables(home):
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as server:
        return [name for (name,) in server.execute("select name from sqlite_master")]


def next_home(tmp_path):
    """Return the home of the next server, after it was given what there is."""
    home = tmp_path / "next"
    home.mkdir()
    give(home)
    return home


def test_the_next_server_begins_with_the_tables_of_the_first(home, tmp_path):
    """Catches: a file copied without what SQLite has not written into it yet; leftovers."""
    keep(home)
    assert tables(next_home(tmp_path)) == ["flow"]
    assert len(list((tmp_path / "a cache #1?/prefect").iterdir())) == 1


def test_another_release_of_prefect_makes_its_own(home, tmp_path, monkeypatch):
    """Catches: a server that finds the tables of a newer one, and ends."""
    keep(home)
    monkeypatch.setattr(prefect_database, "version", lambda _: "99.0")
    assert not list(next_home(tmp_path).iterdir())


@pytest.mark.parametrize("length", [0, 20, 5000])
def test_a_damaged_one_is_not_used_and_is_kept_anew(home, tmp_path, length):
    """Catches: no flow that ever starts again, after a disk that was full."""
    keep(home)
    (kept,) = (tmp_path / "a cache #1?/prefect").iterdir()
    kept.write_bytes(kept.read_bytes()[:length])
    assert not list(next_home(tmp_path).iterdir())
    keep(home)
    give(tmp_path / "next")
    assert tables(tmp_path / "next") == ["flow"]


def test_what_others_can_write_is_not_used(home, tmp_path):
    """Catches: flows, variables and automations of somebody else's in a server of ours."""
    keep(home)
    (tmp_path / "a cache #1?/prefect").chmod(0o777)
    assert not list(next_home(tmp_path).iterdir())


def test_without_a_cache_the_server_makes_its_own(home, tmp_path, monkeypatch):
    """Catches: a traceback for a folder that only saves time."""
    (tmp_path / "a file").touch()
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "a file"))
    keep(home)
    assert not list(next_home(tmp_path).iterdir())
