import gzip
import hashlib
import json
import os

import pytest

from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.sources.containers import unpacking
from ddpm_core.sources.containers.container import PassedOver
from ddpm_core.sources.containers.opening import open_container, reopen
from tests.sources.containers.test_tarred import tar_of
from tests.sources.containers.test_zipped import zip_of

FILES = {"a/1.png": b"one", "b/2.png": b"two"}


def packed(files=FILES):
    return gzip.compress(tar_of(files), mtime=0)


def make(folder, name):
    """The same files as a folder, or as an archive of this name."""
    folder.mkdir()
    if not name:
        for key, content in FILES.items():
            (folder / key).parent.mkdir()
            (folder / key).write_bytes(content)
        return folder
    content = {"zip": zip_of, "tar": tar_of}.get(name.rpartition(".")[2].lower(), packed)(FILES)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", ["", "x.zip", "X.ZIP", "x.tar", "x.tar.gz", "x.tgz"])
def test_a_place_is_known_by_its_name(name, tmp_path):
    """Catches a kind that is opened as another, and one that cannot be opened a second time."""
    opened = open_container(str(make(tmp_path / "data", name)), cache=tmp_path / "cache")
    again = reopen(json.loads(json.dumps(opened.description())))
    for container in (opened, again):
        got = {entry.name: container.read(entry) for entry in container.entries(PassedOver())}
        assert got == FILES
        assert container.uri == str(tmp_path / "data" / name).rstrip("/")


@pytest.mark.parametrize("letters", ["a#b", "a?b", "a%20b", "a%23b", "a;b&c=d"])
def test_a_folder_of_odd_letters_is_that_folder(letters, tmp_path):
    """Catches the folder before the # read in its place, and %20 taken for a space."""
    (tmp_path / letters).mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / letters / "x.png").write_bytes(b"1")
    opened = open_container(str(tmp_path / letters), cache=tmp_path)
    assert [entry.name for entry in opened.entries(PassedOver())] == ["x.png"]
    opened = open_container((tmp_path / letters).as_uri(), cache=tmp_path)
    assert [entry.name for entry in opened.entries(PassedOver())] == ["x.png"]
    if letters in ("a#b", "a?b"):
        with pytest.raises(ConfigError, match=r"\? is written %3F and # is written %23"):
            open_container(f"file://{tmp_path}/{letters}", cache=tmp_path)


@pytest.mark.parametrize("name", ["none", "none.zip", "x.rar", "x.gz", "x.png"])
def test_a_place_that_is_none_is_refused(name, tmp_path):
    """Catches a bare error of the system, and guessing at what a file may be."""
    (tmp_path / name).write_bytes(b"") if name.startswith("x") else None
    with pytest.raises(DataError, match=r"give a folder of images, a \.zip"):
        open_container(str(tmp_path / name), cache=tmp_path)


@pytest.mark.parametrize("source", ["~no-such-user/x.zip", "/" + "x" * 300 + "/x.zip"])
def test_a_place_that_cannot_be_looked_at_is_one_error(source, tmp_path):
    """Catches an error of the system's own, as a traceback."""
    with pytest.raises(DataError, match=r"cannot be looked at: .*; correct it"):
        open_container(source, cache=tmp_path)


@pytest.mark.parametrize("rest", ["example..com/a.zip", "host/f\u00e9.zip", "[bad/a.zip"])
def test_a_url_that_is_none_is_refused(rest, tmp_path):
    """Catches the standard library's own errors about a URL."""
    with pytest.raises(ConfigError, match="is not understood; give"):
        open_container(f"https://{rest}", cache=tmp_path, sha256="0" * 64)


def test_an_archive_with_another_digest_is_refused(tmp_path):
    """Catches training on another archive than the one that was named."""
    for name in ("x.zip", "x.tar", "x.tgz"):
        path = make(tmp_path / name, name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        open_container(str(path), cache=tmp_path, sha256=digest)
        with pytest.raises(DataError, match=rf"has the SHA-256 {digest}, .*source_sha256 says 0"):
            open_container(str(path), cache=tmp_path, sha256="0" * 64)


def test_gzip_is_unpacked_once(tmp_path, capfd):
    """Catches unpacking in every worker, in silence, and a copy by the name of the archive."""
    path = make(tmp_path / "data", "x.tar.gz")
    open_container(str(path), cache=tmp_path / "cache")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    copy = tmp_path / "cache" / "unpacked" / f"{digest}.tar"
    assert copy.read_bytes() == tar_of(FILES)
    assert "unpacking x.tar.gz" in capfd.readouterr().out
    inode = copy.stat().st_ino
    open_container(str(path), cache=tmp_path / "cache")
    assert copy.stat().st_ino == inode
    path.write_bytes(packed({"c.png": b"3"}))
    [entry] = open_container(str(path), cache=tmp_path / "cache").entries(PassedOver())
    assert entry.name == "c.png"


BAD_GZIP = {
    "empty": (b"", r"is no \.tar\.gz archive, .* has 0 bytes"),
    "text": (b"no gzip", r"is no \.tar\.gz archive, but something else.*b'no gzip'"),
    "zip": (b"PK\3\4" + bytes(100), r"is no \.tar\.gz archive, but a zip archive"),
    "page": (b"<!DOCTYPE html>", r"but perhaps a page that says why it could not be downloaded"),
    "cut": (packed()[:-9], "cannot be unpacked"),
    "checksum": (packed()[:-8] + b"1234" + packed()[-4:], "cannot be unpacked: CRC"),
    "flipped": (packed()[:30] + b"\xff\xff" + packed()[32:], "cannot be unpacked"),
    "garbage behind": (packed() + b"garbage", "cannot be unpacked: Not a gzipped file"),
}


@pytest.mark.parametrize(("content", "message"), BAD_GZIP.values(), ids=BAD_GZIP)
def test_gzip_that_is_damaged_leaves_nothing(content, message, tmp_path):
    """Catches half a copy in the cache that the next run takes for a whole one."""
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.tar\.gz.*({message})"):
        list(open_container(str(path), cache=tmp_path / "cache").entries(PassedOver()))
    left = [one.name for one in (tmp_path / "cache").glob("unpacked/*")]
    assert all(name.endswith(".lock") for name in left)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.zip", "x.tar"])
def test_what_an_archive_is_is_looked_at_before_it_is_read(name, tmp_path, monkeypatch):
    """Catches 10 GiB whose digest is taken before anyone looks at their first two bytes."""

    def never(*_arguments):
        raise AssertionError("the whole file is read")

    monkeypatch.setattr("hashlib.file_digest", never)
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"\x89PNG")
        file.truncate(10 * 2**30)  # of holes: it takes no space
    with pytest.raises(DataError, match=r"is no \.\w+(\.gz)? archive, .* it has 10737418240 bytes"):
        open_container(str(path), cache=tmp_path / "cache", sha256="0" * 64)


def test_a_pipe_or_device_as_the_source_is_refused_and_never_opened(tmp_path):
    """Catches a stage that waits in a pipe for ever, or reads a device without an end."""
    for name in ("pipe", "pipe.zip", "pipe.tar.gz"):
        os.mkfifo(tmp_path / name)
        (tmp_path / f"to-{name}").symlink_to(name)
        for one in (tmp_path / name, tmp_path / f"to-{name}", "/dev/zero"):
            with pytest.raises(DataError, match="is a pipe, a socket or a device; give a folder"):
                open_container(str(one), cache=tmp_path)


def test_gzip_bomb_is_cut_off(tmp_path, monkeypatch):
    """Catches a kilobyte that fills the disk."""
    monkeypatch.setattr(unpacking, "_ALWAYS_BYTES", 2**20)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bytes(3 * 2**20), mtime=0))
    with pytest.raises(DataError, match=r"unpacks to over \d+ bytes; at most .* 200 times"):
        open_container(str(path), cache=tmp_path)
    monkeypatch.setattr(unpacking, "MAX_UNPACKED_BYTES", 100)
    path.write_bytes(packed())
    with pytest.raises(DataError, match="at most 100 bytes"):
        open_container(str(path), cache=tmp_path)


def test_gzip_into_a_cache_that_cannot_be_written_is_said(tmp_path):
    """Catches a bare OSError."""
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        open_container(str(make(tmp_path / "data", "x.tgz")), cache=tmp_path / "cache")
