"""Whose cache it is: of a home that can be written, of several users, of none."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.loading.cache import FOLDER_VARIABLE, Cache
from ddpm_core.store import cache_folder
from ddpm_core.store.cache_folder import own_folder, user_folder

SOMEBODY, ELSE = 64_321, 64_322
USE = """
import os, sys
# First: this user may not be allowed to read the folder that Python lies in.
from ddpm_core.loading.cache import Cache
from ddpm_core.errors import PipelineError
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
try:
    cache = Cache.of_environment()
    content = sys.argv[1].encode()
    found = cache.open("a", make=lambda d: os.write(d, content), is_sound=lambda _: True)
    print(cache.folder, os.pread(found, 99, 0).decode())
except PipelineError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    cache_folder._temporary.cache_clear()
    (tmp_path / "tmp").mkdir(mode=0o777)
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(cache_folder.tempfile, "tempdir", None)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    yield
    cache_folder._temporary.cache_clear()


@pytest.fixture
def unwritable(monkeypatch):
    """Give what makes a folder one that this user cannot write, also as root."""
    real = os.access

    def refuse(folder):
        monkeypatch.setattr(os, "access", lambda path, how: path != folder and real(path, how))

    return refuse


def use_as(user: int, **variables: str) -> str:
    """What a process of another user gets from its cache."""
    done = subprocess.run(
        [sys.executable, "-c", USE, str(user)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)} | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + done.stderr.strip()


def test_a_home_that_cannot_be_written_is_reported_once_and_not_used(
    unwritable, monkeypatch, tmp_path, caplog
):
    """Catches a traceback in a container without a home, and a line for each shard."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unwritable(tmp_path)
    expected = tmp_path / "tmp" / f"ddpm-pipeline-{os.geteuid()}"
    for _ in range(2):
        assert user_folder() == expected
    assert Cache.of_environment().folder == expected / "kept"
    assert len(caplog.messages) == 1
    assert f"warning: {tmp_path}/ddpm-pipeline cannot be written" in caplog.text
    assert "set XDG_CACHE_HOME" in caplog.text
    assert expected.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_fill_is_not_taken(unwritable, monkeypatch, tmp_path):
    """Catches files that another user put where this one looks: they are trusted by their names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unwritable(tmp_path)
    folder = tmp_path / "tmp" / f"ddpm-pipeline-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match=r"not this user's alone: set XDG_CACHE_HOME"):
        user_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"not this user's alone: set XDG_CACHE_HOME"):
        user_folder()
    folder.unlink()
    folder.touch()
    with pytest.raises(ConfigError, match=r"can be written \(File exists\): set XDG_CACHE_HOME"):
        user_folder()


def test_a_user_without_a_home_has_a_cache(monkeypatch, tmp_path):
    """Catches a RuntimeError of pathlib where the system knows no such user."""

    def unknown(_path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    assert user_folder().parent == tmp_path / "tmp"
    monkeypatch.setenv(FOLDER_VARIABLE, "~nobody-here/x")
    with pytest.raises(ConfigError, match=r"DDPM_CACHE='~nobody-here/x': Could not.*give a folder"):
        Cache.of_environment()


def test_what_another_user_has_made_is_left_to_them(monkeypatch, tmp_path):
    """Catches locks of the first user that keep the second out."""
    (tmp_path / "kept").mkdir()
    assert own_folder(tmp_path, "kept") == tmp_path / "kept"
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert own_folder(tmp_path, "kept") == tmp_path / f"kept-{user}"


@pytest.fixture
def open_to_all():
    """Give a folder that other users may enter: those of pytest are for its user only."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_users_share_a_folder_and_not_their_files(open_to_all):
    """Catches a cache that is the first user's: the others ended with "Permission denied"."""
    shared = open_to_all
    for _ in range(2):
        for user, folder in ((SOMEBODY, "kept"), (ELSE, f"kept-{ELSE}")):
            assert use_as(user, DDPM_CACHE=str(shared)) == f"{shared}/{folder} {user}"
    said = use_as(ELSE, HOME="/nonexistent", TMPDIR=str(shared))
    assert f"{shared}/ddpm-pipeline-{ELSE}/kept {ELSE}" in said
    assert "warning: ~/.cache/ddpm-pipeline cannot be written" in said
    shared.chmod(0o755)
    said = use_as(ELSE + 1, DDPM_CACHE=str(shared))
    assert said.startswith(f"StorageError the local cache {shared}/kept-{ELSE + 1} cannot be used")
    assert "Permission denied; set DDPM_CACHE to a folder on a local disk" in said
