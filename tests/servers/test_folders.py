"""Where the files of servers lie: short enough for sockets, and on the disk that has room."""

import stat
import tempfile

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.servers import folders


@pytest.fixture
def tmpdir_is(monkeypatch):
    return lambda path: monkeypatch.setattr(tempfile, "tempdir", str(path))


@pytest.fixture
def made():
    """Folders that are removed at the end."""
    paths = []
    yield paths
    for path in paths:
        path.rmdir()


def test_a_short_folder_for_temporary_files_is_used_itself(tmpdir_is, made):
    """Catches $TMPDIR that is ignored: a full /tmp although there is a disk for that."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as place:
        tmpdir_is(place)
        folder = folders.private_folder()
        assert str(folder.parent) == place
        room, more = folders.roomy(folder, "r")
        assert (room.parent, more, room.is_symlink()) == (folder, [], False)
        room.rmdir()
        folder.rmdir()


@pytest.mark.parametrize("name", ["a" * 60, "with a space"])
def test_what_is_large_goes_there_also_by_a_long_or_odd_path(tmpdir_is, tmp_path, made, name):
    """Catches a path that no socket fits in, or that Ray splits; and bytes in /tmp after all."""
    place = tmp_path / name
    place.mkdir()
    tmpdir_is(place)
    folder = folders.private_folder()
    made.append(folder)
    assert len(str(folder)) <= len("/var/tmp/ddpm-12345678")
    assert " " not in str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    room, more = folders.roomy(folder, "r")
    (room / "large").write_bytes(b"x")
    assert [path.parent for path in more] == [place]
    assert (more[0] / "large").read_bytes() == b"x"
    assert stat.S_IMODE(more[0].stat().st_mode) == 0o700
    room.unlink()


def test_no_place_at_all_is_one_sentence(tmpdir_is, tmp_path, monkeypatch):
    """Catches a traceback of Ray's about the length of a path."""
    tmpdir_is(tmp_path / ("a" * 60))

    def mkdtemp(**_):
        raise PermissionError(13, "no")

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(ConfigError, match=r"TMPDIR=.*must have at most 22"):
        folders.private_folder()
