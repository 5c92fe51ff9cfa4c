import json
import os
import socket

import pytest

from ddpm_core.errors import DataError, StorageError
from ddpm_core.sources.containers import folder as folder_module
from ddpm_core.sources.containers.container import MAX_ENTRY_BYTES, Entry, PassedOver
from ddpm_core.sources.containers.folder import Folder
from ddpm_core.sources.containers.opening import reopen


def write(root, files):
    for name, content in files.items():
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def listed(container):
    passed_over = PassedOver()
    return sorted(container.entries(passed_over)), passed_over


def test_folder_gives_every_file_with_its_exact_name(tmp_path):
    """Catches names rewritten, joined or lost: case, accents, spaces, no UTF-8, newline."""
    files = {
        "a.png": b"1",
        "A.png": b"22",
        "caf\u00e9.png": b"3",
        "cafe\u0301.png": b"4",
        "deep/er/ sp ace .png": b"5",
        "deep/a.b.png": b"",
        b"\xff\xfe.png": b"6",
        "new\nline.png": b"7",
        "😀.png": b"8",
        "-rf.png": b"9",
    }
    opened = Folder(write(tmp_path, files))
    entries, passed_over = listed(opened)
    again = reopen(json.loads(json.dumps(opened.description())))
    got = {}
    for entry in entries:
        sent = json.loads(json.dumps(entry))
        got[os.fsencode(entry.name)] = again.read(Entry(sent[0], sent[1], tuple(sent[2]), sent[3]))
    assert got == {os.fsencode(name): content for name, content in files.items()}
    assert all(entry.size == len(got[os.fsencode(entry.name)]) for entry in entries)
    assert passed_over.counts == {}


def test_folder_never_opens_pipes_and_sockets_and_goes_through_no_folder_that_is_a_link(tmp_path):
    """Catches hanging in a pipe, also one behind a link, and a way out through a folder's link."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(b"secret")
    root = write(tmp_path / "root", {"a.png": b"1", ".git/b.png": b"2", "Thumbs.db": b"3"})
    os.mkfifo(root / "pipe.png")
    (root / "to-pipe.png").symlink_to("pipe.png")
    (root / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.png"))
        entries, passed_over = listed(Folder(root))
    assert [entry.name for entry in entries] == ["a.png"]
    assert sorted(passed_over.counts.values()) == [2, 4]
    assert passed_over.lost == {"neither a file nor a folder"}
    (root / "folder").symlink_to("../outside")
    (root / "circle").symlink_to(".")
    names = ("folder/secret.png", "circle/a.png", "pipe.png", "to-pipe.png", "device.png")
    for name in (*names, "socket.png"):
        with pytest.raises(DataError, match=r"has changed since it was listed"):
            Folder(root).read(Entry(name, 6))


def test_folder_reads_links_to_regular_files_wherever_they_lie(tmp_path):
    """Catches a hub's cache, DVC and git-annex, all of whose files are links, taken for empty."""
    blobs = write(tmp_path / "blobs", {"0a1b": b"one", "2c3d": b"two"})
    root = tmp_path / "snapshot"
    (root / "train").mkdir(parents=True)
    (root / "train" / "1.png").symlink_to("../../blobs/0a1b")
    (root / "train" / "2.png").symlink_to(blobs / "2c3d")
    (root / "train" / "3.png").symlink_to("2.png")
    entries, passed_over = listed(Folder(root))
    assert {one.name: Folder(root).read(one) for one in entries} == {
        "train/1.png": b"one",
        "train/2.png": b"two",
        "train/3.png": b"two",
    }
    assert passed_over.counts == {}


@pytest.mark.parametrize("target", ["../outside", ".", ".."])
def test_a_link_to_a_folder_is_refused_with_what_to_do(target, tmp_path):
    """Catches a walk round in a circle, and a class that is left out without a word."""
    (tmp_path / "outside").mkdir()
    root = write(tmp_path / "root", {"a.png": b"1"})
    (root / "dogs").symlink_to(target)
    with pytest.raises(DataError, match=r'"dogs" in .*link to a folder.*cp -rs'):
        listed(Folder(root))


def test_links_to_nothing_are_distinguished(tmp_path):
    """Catches files that were never fetched, a loop of links, both taken for no image meant."""
    root = write(tmp_path / "root", {"a.png": b"1"})
    (root / "1.png").symlink_to(".git/annex/objects/x")
    (root / "2.png").symlink_to("3.png")
    (root / "3.png").symlink_to("2.png")
    (root / "notes.txt").symlink_to("gone")
    entries, passed_over = listed(Folder(root))
    assert [entry.name for entry in entries] == ["a.png"]
    [line] = passed_over.lines(only_lost=True)
    assert line.startswith("4 passed over: a symbolic link to nothing: fetch the files (dvc pull")


def test_what_a_link_leads_to_is_looked_at_again_when_it_is_read(tmp_path):
    """Catches a link that leads to a pipe by then, which would never be read to its end."""
    root = write(tmp_path / "root", {"b": b"12"})
    (root / "a.png").symlink_to("b")
    opened = Folder(root)
    entry = next(one for one in listed(opened)[0] if one.name == "a.png")
    (root / "b").unlink()
    os.mkfifo(root / "b")
    with pytest.raises(DataError, match="no regular file"):
        opened.read(entry)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "a/../../x", "", "."])
def test_folder_reads_nothing_outside_of_it(name, tmp_path):
    """Catches an entry, which came through JSON, that is trusted with where it leads."""
    (tmp_path / "outside.png").write_bytes(b"1")
    (tmp_path / "root" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="changed since it was listed"):
        Folder(tmp_path / "root").read(Entry(name, 1))


def test_folder_says_what_has_changed(tmp_path):
    """Catches half a file, and a file that has grown, taken for what was listed."""
    opened = Folder(write(tmp_path, {"a.png": b"12345"}))
    entry = Entry("a.png", 5)
    assert opened.read(entry) == b"12345"
    for content in (b"1234", b"123456"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r'"a\.png" in .* had 5 bytes, and now has others'):
            opened.read(entry)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="No such file"):
        opened.read(entry)


def test_folder_refuses_a_huge_file_before_reading(tmp_path):
    """Catches 128 MiB and more read into memory."""
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(MAX_ENTRY_BYTES + 1)
    opened = Folder(tmp_path)
    [entry], _ = listed(opened)
    with pytest.raises(DataError, match=rf"{MAX_ENTRY_BYTES + 1} bytes; an image may have at most"):
        opened.read(entry)
    with pytest.raises(DataError, match="now has others"):
        opened.read(entry._replace(size=MAX_ENTRY_BYTES))


def test_folder_has_a_bounded_depth(tmp_path, monkeypatch):
    """Catches a walk without an end."""
    monkeypatch.setattr(folder_module, "_MAX_DEPTH", 3)
    write(tmp_path, {"1/2/3/4/a.png": b""})
    with pytest.raises(DataError, match="lies 3 folders deep"):
        listed(Folder(tmp_path))


def test_folder_that_is_gone_is_an_outage(tmp_path):
    """Catches an unmounted disk that looks like an empty folder."""
    with pytest.raises(StorageError, match="cannot list"):
        listed(Folder(tmp_path / "none"))


def test_folder_can_be_read_again_after_closing(tmp_path):
    """Catches a descriptor that is used after it was given back."""
    opened = Folder(write(tmp_path, {"a.png": b"1"}))
    for _ in range(2):
        with opened:
            assert opened.read(Entry("a.png", 1)) == b"1"


def test_what_is_forgotten_is_closed(tmp_path):
    """Catches a process that holds every folder it has read: a thousand are all that many may."""
    (tmp_path / "a").write_bytes(b"a")
    folder = Folder(tmp_path)
    for entry in folder.entries(PassedOver()):
        folder.read(entry)
    number = folder._top.number()
    os.fstat(number)
    del folder
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
