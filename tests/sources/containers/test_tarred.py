import io
import json
import tarfile

import pytest

from ddpm_core.errors import DataError
from ddpm_core.shards.tar import BLOCK_BYTES
from ddpm_core.sources.containers.container import MAX_ENTRY_BYTES, Entry, PassedOver
from ddpm_core.sources.containers.opening import reopen
from ddpm_core.sources.containers.tar_walk import walk
from ddpm_core.sources.containers.tarred import Tar
from tests.shards.test_tar import with_header

FILES = {
    "train/cat/a.png": b"x" * 700,
    "train/cat/A.png": b"",
    "test/ä 😀.png": b"y" * 512,
    f"{'long/' * 60}{'n' * 150}.png": b"z",
    "caf\u00e9.png": b"1",
    "cafe\u0301.png": b"2",
}
FORMATS = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


def tar_of(files, *, form=tarfile.GNU_FORMAT, kinds=None, pax=None):
    """An archive as Python writes it; `kinds` gives members another type than a file's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=pax) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = "/etc/passwd" * 20
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def at(tmp_path, content):
    path = tmp_path / "some.tar"
    path.write_bytes(content)
    return Tar(path)


def read_all(container):
    return {entry.name: container.read(entry) for entry in container.entries(PassedOver())}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_tar_gives_what_was_packed(form, tmp_path):
    """Catches long and unicode names cut, a wrong offset behind them, and folders as files."""
    files = dict(FILES)
    if form == tarfile.USTAR_FORMAT:
        del files[f"{'long/' * 60}{'n' * 150}.png"]
        files[f"{'d' * 120}/{'n' * 90}.png"] = b"split in two"
    content = tar_of(
        {"./": b"", "folder": b"", **files}, form=form, kinds=dict.fromkeys(("./", "folder"), b"5")
    )
    assert read_all(at(tmp_path, content)) == files


def test_tar_made_of_a_dot_has_plain_names(tmp_path):
    """Catches keys that differ by the way in which `tar` was called."""
    assert read_all(at(tmp_path, tar_of({"./a/b.png": b"1"}))) == {"a/b.png": b"1"}


def test_tar_is_read_by_another_process(tmp_path):
    """Catches an entry that does not survive JSON."""
    opened = at(tmp_path, tar_of(FILES))
    again = reopen(json.loads(json.dumps(opened.description())))
    for entry in opened.entries(PassedOver()):
        name, size, where, label = json.loads(json.dumps(entry))
        assert again.read(Entry(name, size, tuple(where), label)) == FILES[entry.name]


def test_tar_sizes_from_pax_headers_and_in_binary_count(tmp_path):
    """Catches a size over 8 GiB, which needs one of these, taken for the one in the header."""
    plain = tar_of({"a.png": b"12345", "b.png": b"67"}, form=tarfile.USTAR_FORMAT)
    binary = with_header(plain, size=b"\x80" + b"\0" * 10 + b"\5")
    assert read_all(at(tmp_path, binary)) == {"a.png": b"12345", "b.png": b"67"}
    record = b"10 size=5\n"
    header = with_header(tar_of({"x": record}, form=tarfile.USTAR_FORMAT)[:1024], type=b"x")
    content = header + with_header(plain, size=b"%011o" % 1)
    assert read_all(at(tmp_path, content)) == {"a.png": b"12345", "b.png": b"67"}


def test_tar_names_what_is_no_file(tmp_path):
    """Catches links followed, devices made, and either of them silently lost."""
    kinds = {
        "hard": tarfile.LNKTYPE,
        "soft": tarfile.SYMTYPE,
        "character": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "strange": b"Q",
        "sparse": b"S",
    }
    content = tar_of({**dict.fromkeys(kinds, b""), "a.png": b"1"}, kinds=kinds)
    passed_over = PassedOver()
    assert [one.name for one in at(tmp_path, content).entries(passed_over)] == ["a.png"]
    assert sum(passed_over.counts.values()) == 7
    assert passed_over.lost == set(passed_over.counts)


def pax(record):
    """An archive whose only file has this pax header before it."""
    header = tar_of({"x": record}, form=tarfile.USTAR_FORMAT)
    length = BLOCK_BYTES * (1 + -(-len(record) // BLOCK_BYTES))
    return with_header(header[:length], type=b"x") + tar_of({"a.png": b"1"})


def good():
    return tar_of({"a.png": b"x" * 700, "b.png": b"y"}, form=tarfile.USTAR_FORMAT)


BAD = {
    "empty file": b"",
    "text": b"no archive" * 100,
    "gzip": b"\x1f\x8b" + bytes(1022),
    "cut inside a file": good()[:1000],
    "cut before the end": good()[: 5 * BLOCK_BYTES],
    "one end block": good()[: 6 * BLOCK_BYTES],
    "cut inside the end": good()[:-100],
    "garbage after the end": good() + b"garbage".ljust(BLOCK_BYTES),
    "second archive after the end": good() + good(),
    "checksum": good()[:10] + b"x" + good()[11:],
    "negative size": with_header(good(), size=b"-0000000001"),
    "binary negative size": with_header(good(), size=b"\xff" * 12),
    "binary size without end": with_header(good(), size=b"\x80" + b"\xff" * 11),
    "size with an underscore": with_header(good(), size=b"000000_1274"),
    "size beyond the end": with_header(good(), size=b"%011o" % 100_000),
    "long name of gigabytes": with_header(good(), type=b"L", size=b"%011o" % 2**31),
    "pax header of gigabytes": with_header(good(), type=b"x", size=b"%011o" % 2**31),
    "pax header over the bound": pax(b"100000 path=" + b"a" * 99_987 + b"\n"),
    "pax length too long": pax(b"99 path=a.png\n"),
    "pax length too short": pax(b"3 path=a.png\n"),
    "pax length nothing": pax(b"0 path=a.png\n"),
    "pax length negative": pax(b"-9 path=a.png\n"),
    "pax without a value": pax(b"5 pat\n"),
    "pax size negative": pax(b"11 size=-5\n"),
    "pax size huge": pax(b"24 size=999999999999999\n"),
    "pax size no number": pax(b"12 size=1e3\n"),
    "pax sparse": pax(b"22 GNU.sparse.major=1\n"),
    "pax size for all": tar_of({"a.png": b""}, form=tarfile.PAX_FORMAT, pax={"size": "5"}),
    "pax name that leads outside": pax(b"17 path=../a.png\n"),
    "pax name with a backslash": pax(b"17 path=..\\a.png\n"),
    "slip": tar_of({"../a.png": b""}),
    "absolute": tar_of({"/a.png": b""}),
    "long slip": tar_of({f"{'a/' * 80}../x.png": b""}),
    "no name": with_header(good(), name=b""),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_tar_that_is_damaged_or_hostile_is_refused(content, tmp_path):
    """Catches each endless loop, bomb and slip that a header can hold."""
    with pytest.raises(DataError, match=r"some\.tar (is no archive that can be used|holds a file)"):
        list(at(tmp_path, content).entries(PassedOver()))


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_tar_headers_that_are_too_long_are_not_read(kind, tmp_path):
    """Catches a name, or a header of many records, of any size in memory."""
    body = b"".join(b"%d comment=%b\n" % (5000, b"c" * 4986) for _ in range(14))
    content = tar_of({"x": body}, form=tarfile.USTAR_FORMAT)
    with pytest.raises(DataError, match=r"a header of 70000 bytes; expected at most 65536"):
        list(at(tmp_path, with_header(content, type=kind)).entries(PassedOver()))


def test_tar_links_have_no_content_whatever_size_they_say(tmp_path):
    """Catches the next header taken for the content of a link."""
    link = with_header(tar_of({"link": b""})[:BLOCK_BYTES], type=b"1", size=b"%011o" % 700)
    content = link + tar_of({"a.png": b"1"})
    passed_over = PassedOver()
    assert [one.name for one in at(tmp_path, content).entries(passed_over)] == ["a.png"]
    assert passed_over.examples == {"a hard link": ["link"]}


def test_tar_is_never_in_memory(tmp_path):
    """Catches reading the contents while listing: a sparse file of 8 GiB takes no time."""
    size = 2**33
    header = with_header(
        tar_of({"big.bin": b""})[:BLOCK_BYTES], size=b"\x80" + size.to_bytes(11, "big")
    )
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(BLOCK_BYTES + size + 2 * BLOCK_BYTES)
    opened = Tar(path)
    [entry] = opened.entries(PassedOver())
    assert entry == Entry("big.bin", size, (BLOCK_BYTES,))
    with pytest.raises(DataError, match=rf"may have at most {MAX_ENTRY_BYTES}"):
        opened.read(entry)


def test_tar_that_has_changed_is_noticed(tmp_path):
    """Catches another archive of the same name read at the old places, and one that is cut."""
    opened = at(tmp_path, tar_of({"a.png": b"x" * 2000, "b.png": b"y"}))
    _, last = opened.entries(PassedOver())
    (tmp_path / "some.tar").write_bytes(tar_of({"c.png": b"z" * 9000, "d.png": b"y"}))
    opened.close()
    with pytest.raises(DataError, match=r'"b\.png" in .* changed since it was listed'):
        opened.read(last)
    (tmp_path / "some.tar").write_bytes(b"")
    with pytest.raises(DataError, match="the archive ends before it"):
        opened.read(last)


def test_walk_reads_a_header_for_each_member_and_no_more():
    """Catches a walk whose time grows with the bytes between headers."""

    class Counting(io.BytesIO):
        num_read = 0

        def read(self, size=-1):
            got = super().read(size)
            self.num_read += len(got)
            return got

    file = Counting(tar_of({f"{number}.png": b"x" * 50_000 for number in range(20)}))
    assert len(list(walk(file, "some.tar"))) == 20
    assert file.num_read <= 20 * BLOCK_BYTES + 10_240 + BLOCK_BYTES
