import io
import json
import multiprocessing
import struct
import tracemalloc
import zipfile

import pytest

from ddpm_core.errors import DataError
from ddpm_core.sources.containers import zipped
from ddpm_core.sources.containers.container import Entry, PassedOver
from ddpm_core.sources.containers.opening import reopen
from ddpm_core.sources.containers.zipped import Zip

FILES = {
    "train/cat/a.png": bytes(range(256)) * 8,
    "train/cat/A.png": b"",
    "test/ä 😀.png": b"x" * 100,
    "caf\u00e9": b"1",
    "cafe\u0301": b"2",
}


def zip_of(files, *, method=zipfile.ZIP_DEFLATED, comment=b""):
    """An archive as Python writes it, with a fixed date."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.comment = comment
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
    return out.getvalue()


def at(tmp_path, content):
    path = tmp_path / "some.zip"
    path.write_bytes(content)
    return Zip(path)


def refused_or_read(container, entry):
    """Its bytes; None if it is refused by its name."""
    try:
        return container.read(entry)
    except DataError as error:
        return None if entry.name in str(error) else b"no name in the message"


def read_all(container):
    return {entry.name: container.read(entry) for entry in container.entries(PassedOver())}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\nself-extracting\n"], ids=["plain", "prefix"])
def test_zip_gives_what_was_packed(method, before, tmp_path):
    """Catches wrong offsets, a comment or a prefix that shifts them, and folders as files."""
    opened = at(tmp_path, before + zip_of({**FILES, "train/": b""}, method=method, comment=b"PK"))
    assert read_all(opened) == FILES


def test_zip_streamed_without_sizes_in_its_headers_is_read(tmp_path):
    """Catches sizes taken from local headers, which a program that streams leaves empty."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    assert read_all(at(tmp_path, pipe.content)) == FILES


def test_zip64_is_read(tmp_path, monkeypatch):
    """Catches archives of over 65535 files or 4 GiB, whose numbers stand elsewhere."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    content = zip_of(FILES)
    assert b"PK\6\6" in content
    assert read_all(at(tmp_path, content)) == FILES


def test_zip_with_names_of_no_encoding_keeps_their_bytes(tmp_path):
    """Catches a guess at the encoding (cp437) that makes two names of one, or one of two."""
    content = zip_of({"a_.png": b"1"}).replace(b"a_.png", b"a\xff.png")
    [entry] = at(tmp_path, content).entries(PassedOver())
    assert entry.name == "a\udcff.png"
    assert at(tmp_path, content).read(entry) == b"1"


def _read_elsewhere(job):
    description, entry = job
    name, size, where, label = json.loads(entry)
    return reopen(json.loads(description)).read(Entry(name, size, tuple(where), label))


def test_zip_is_read_by_other_processes(tmp_path):
    """Catches a file position that processes share, and an entry that only one of them knows."""
    files = {f"{number}.png": bytes([number, 255]) * 1000 * (number % 3) for number in range(40)}
    opened = at(tmp_path, zip_of(files))
    entries = list(opened.entries(PassedOver()))
    opened.read(entries[0])
    jobs = [(json.dumps(opened.description()), json.dumps(entry)) for entry in entries]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_read_elsewhere, jobs) == list(files.values())


def patched(content, place, number, value, *, size=2):
    """Overwrite a field of the `number`-th central header ("c") or local header ("l")."""
    mark = {"c": b"PK\1\2", "l": b"PK\3\4"}[place[0]]
    start = -1
    for _ in range(number + 1):
        start = content.index(mark, start + 1)
    where = start + int(place[1:])
    return content[:where] + value.to_bytes(size, "little") + content[where + size :]


def good():
    return zip_of({"a.png": b"a" * 50, "b.png": b"b" * 50}, method=zipfile.ZIP_STORED)


def overlapping():
    """Two entries of the directory for one stretch of bytes: what a bomb without nesting does."""
    content = good()
    first, second = content.index(b"PK\1\2"), content.rindex(b"PK\1\2")
    offset = struct.unpack_from("<L", content, first + 42)[0]
    return content[: second + 42] + struct.pack("<L", offset + 10) + content[second + 46 :]


def more_than_all_disks():
    """A deflated file whose zip64 field says 2**63 bytes, a number that fits no signed one."""
    content = bytearray(zip_of({"a.png": b"a" * 50}))
    at = content.index(b"PK\1\2")
    struct.pack_into("<L", content, at + 24, 2**32 - 1)
    struct.pack_into("<H", content, at + 30, 12)
    name_end = at + 46 + len(b"a.png")
    content[name_end:name_end] = struct.pack("<2HQ", 1, 8, 2**63)
    end = content.index(b"PK\5\6")
    struct.pack_into("<L", content, end + 12, end - at)
    return bytes(content)


def end_at(content):
    return content.rindex(b"PK\5\6")


BAD_AS_A_WHOLE = {
    "empty": (b"", "no end of a zip"),
    "text": (b"no archive at all" * 10, "no end of a zip"),
    "cut in half": (good()[: len(good()) // 2], "no end of a zip"),
    "cut at the end": (good()[:-5], "no end of a zip"),
    "cut at the beginning": (good()[40:], "cannot lie in it|lies beyond"),
    "encrypted": (patched(good(), "c8", 0, 1), r'"a\.png" in .*some\.zip is encrypted'),
    "strongly encrypted": (patched(good(), "c8", 1, 0x41), r'"b\.png" in .*some\.zip is encrypted'),
    "packed by LZMA": (patched(good(), "c10", 0, 14), "packed by method 14"),
    "slip": (good().replace(b"b.png", b"../bb"), "must be a path"),
    "absolute": (good().replace(b"b.png", b"/b.pn"), "must be a path"),
    "backslash": (good().replace(b"b.png", b"b\\png"), "must be a path"),
    "drive": (good().replace(b"b.png", b"b:png"), "must be a path"),
    "overlap": (overlapping(), "overlaps the next one"),
    "the same twice": (
        good()[: good().rindex(b"PK\1\2") + 42]
        + b"\0" * 4
        + good()[good().rindex(b"PK\1\2") + 46 :],
        "overlaps the next one",
    ),
    "beyond the end": (patched(good(), "c42", 1, 10**6, size=4), "lies beyond"),
    "packed size beyond the end": (patched(good(), "c20", 1, 10**6, size=4), "lies beyond"),
    "stored with two sizes": (patched(good(), "c24", 1, 49, size=4), "50 bytes are not 49"),
    "name longer than the directory": (patched(good(), "c28", 1, 60_000), "cut short|cannot lie"),
    "more files than said": (
        patched(good(), "c0", 1, 0, size=4),
        "no entry 1 in its directory",
    ),
    "fewer files than there": (
        good()[: end_at(good()) + 8] + b"\1\0\1\0" + good()[end_at(good()) + 12 :],
        "bytes more in its directory",
    ),
    "several disks": (
        good()[: end_at(good()) + 4] + b"\1\0" + good()[end_at(good()) + 6 :],
        "only a part",
    ),
    "a directory without end": (
        good()[: end_at(good()) + 8] + b"\xff\xff\xff\xff" + good()[end_at(good()) + 12 :],
        "directory of 65535 files that cannot lie in it",
    ),
    "a size of more than all disks": (more_than_all_disks(), "says that it has"),
    "large without a size": (patched(good(), "c24", 0, 2**32 - 1, size=4), "but not how large"),
}


@pytest.mark.parametrize(("content", "message"), BAD_AS_A_WHOLE.values(), ids=BAD_AS_A_WHOLE)
def test_zip_that_is_damaged_or_hostile_is_refused(content, message, tmp_path):
    """Catches each way to lie in a directory: a wrong number must end in one clear error."""
    with pytest.raises(DataError, match=message):
        list(at(tmp_path, content).entries(PassedOver()))


def test_zip_with_too_many_files_is_refused_before_they_are_listed(tmp_path, monkeypatch):
    """Catches a list without end in memory."""
    monkeypatch.setattr(zipped, "MAX_ENTRIES", 1)
    with pytest.raises(DataError, match="holds 2 files; at most 1 are listed"):
        list(at(tmp_path, good()).entries(PassedOver()))


def test_zip_bomb_is_not_unpacked(tmp_path):
    """Catches a megabyte made of a kilobyte; what is under the ratio is read."""
    opened = at(tmp_path, zip_of({"bomb.png": bytes(10**6), "fine.png": b"ab" * 50}))
    bomb, fine = opened.entries(PassedOver())
    with pytest.raises(DataError, match=r"bomb\.png.* grows from \d+ to 1000000 bytes; 200 times"):
        opened.read(bomb)
    assert opened.read(fine) == b"ab" * 50


def test_zip_that_unpacks_to_more_than_it_says_is_cut_off(tmp_path):
    """Catches a bomb that lies about its size."""
    content = patched(zip_of({"a.png": bytes(3 * 10**7)}), "c24", 0, 1000, size=4)
    opened = at(tmp_path, content)
    [entry] = opened.entries(PassedOver())
    tracemalloc.start()
    with pytest.raises(DataError, match="checksum"):
        opened.read(entry)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_zip_that_was_replaced_is_noticed(tmp_path):
    """Catches another file of the same checksum under the name that was listed."""
    entry, _ = at(tmp_path, zip_of({"a.png": b"1", "b.png": b"2"})).entries(PassedOver())
    with pytest.raises(DataError, match="there is another file"):
        at(tmp_path, zip_of({"c.png": b"1", "b.png": b"2"})).read(entry)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_checks_every_file_it_reads(method, tmp_path):
    """Catches a flipped bit anywhere in a file, its name or the mark before it: never as data."""
    files = {"a.png": bytes(range(200)), "b.png": bytes(range(200))[::-1]}
    content = zip_of(files, method=method)
    opened = at(tmp_path, content)
    first, second = opened.entries(PassedOver())
    for place in [*range(4), *range(26, 30), *range(30, second.where[0])]:
        broken = bytearray(content)
        broken[place] ^= 0x10
        damaged = at(tmp_path, bytes(broken))
        # Some bits matter to nobody: those after the end of deflate's last block.
        assert refused_or_read(damaged, first) in (None, files["a.png"])
        assert damaged.read(second) == files["b.png"]


def test_zip_that_has_gone_is_named(tmp_path):
    """Catches a bare FileNotFoundError in a worker."""
    opened = at(tmp_path, good())
    [entry, _] = opened.entries(PassedOver())
    (tmp_path / "some.zip").unlink()
    with pytest.raises(DataError, match=r"some\.zip is missing or no file"):
        opened.read(entry)
