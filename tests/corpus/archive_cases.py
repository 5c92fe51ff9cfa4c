"""Zips and tars of images: refused before anything is made of them, or read where they lie."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.corpus.case import SHARD_IMAGES, Case, Content, bytes_of
from tests.corpus.image_cases import PNG, pickle_bomb

_ZIP = tuple(word.replace("/source", "/source.zip") for word in SHARD_IMAGES)
_TAR = tuple(word.replace("/source", "/source.tar") for word in SHARD_IMAGES)
_TGZ = tuple(word.replace("/source", "/source.tar.gz") for word in SHARD_IMAGES)
_OLD = (1980, 1, 1, 0, 0, 0)
GOOD = [(f"good-{number}.png", PNG) for number in range(3)]


def _writer(name: str, content: Content) -> Callable[[Path], None]:
    def make(here: Path) -> None:
        (here / name).write_bytes(bytes_of(content))

    return make


# -- zip ---------------------------------------------------------------------------------------


def _zip(files: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name, _OLD), content, method)
    return whole.getvalue()


_GOOD_ZIP = _zip(GOOD)
_DIRECTORY = _GOOD_ZIP.index(b"PK\1\2")


def _in_directory(entry_offset: int, form: str, value: int) -> bytes:
    """Return the good zip with a field of its first directory entry changed."""
    changed = bytearray(_GOOD_ZIP)
    struct.pack_into(form, changed, _DIRECTORY + entry_offset, value)
    return bytes(changed)


def _at_end(offset: int, form: str, value: int) -> bytes:
    """Return the good zip with a field of the record at its end changed."""
    changed = bytearray(_GOOD_ZIP)
    struct.pack_into(form, changed, len(changed) - 22 + offset, value)
    return bytes(changed)


def _zip_bomb(num_bytes: int) -> bytes:
    return _zip([*GOOD, ("bomb.png", bytes(num_bytes))], zipfile.ZIP_DEFLATED)


def _zip_of_links() -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in GOOD:
            archive.writestr(zipfile.ZipInfo(name, _OLD), content)
        link = zipfile.ZipInfo("link.png", _OLD)
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return whole.getvalue()


def _with_wrong_crc() -> bytes:
    changed = bytearray(_GOOD_ZIP)
    changed[_GOOD_ZIP.index(PNG) + 60] ^= 1
    return bytes(changed)


def _twice() -> bytes:
    twin = _zip([*GOOD, ("good-X.png", PNG)])
    return twin.replace(b"good-X", b"good-0")


def _bad_zip(name: str, content: Content, *says: str) -> Case:
    return Case(f"zip {name}", ("source.zip", *says), 3, _writer("source.zip", content), _ZIP)


_AGAIN = "Fetch or make it again"
_OUTSIDE = "must be a path"

ZIPS = (
    Case("zip read", ("3/3 images",), 0, _writer("source.zip", _GOOD_ZIP), _ZIP),
    Case(
        "zip read with a comment and something before it",
        ("3/3 images",),
        0,
        _writer("source.zip", b"#!/bin/sh\ntouch canary\n" + _at_end(20, "<H", 9) + b"a comment"),
        _ZIP,
    ),
    _bad_zip("that is empty", b"", "is no .zip archive", "0 bytes", _AGAIN),
    _bad_zip("that is text", b"hello" * 99, "is no .zip archive", _AGAIN),
    _bad_zip("cut at its end", _GOOD_ZIP[:-30], "no end of a zip", _AGAIN),
    _bad_zip("cut at its start", _GOOD_ZIP[500:], "cannot lie in it", _AGAIN),
    _bad_zip("of nothing", _zip([]), "holds no image"),
    _bad_zip("that climbs", _zip([*GOOD, ("../evil.png", PNG)]), '"../evil.png"', _OUTSIDE),
    _bad_zip("that climbs later", _zip([("a/../../evil.png", PNG)]), "evil.png", _OUTSIDE),
    _bad_zip("of an absolute path", _zip([*GOOD, ("/tmp/evil.png", PNG)]), _OUTSIDE),
    _bad_zip("of a drive", _zip([*GOOD, ("C:evil.png", PNG)]), _OUTSIDE),
    _bad_zip("of backslashes", _zip([*GOOD, ("..\\evil.png", PNG)]), _OUTSIDE),
    _bad_zip("of a name twice", _twice(), "good-0.png", "twice", "make the archive again"),
    _bad_zip("bomb of 30 MB", partial(_zip_bomb, 30 * 10**6), "bomb.png", "200 times"),
    _bad_zip("bomb of 200 MB", partial(_zip_bomb, 200 * 10**6), "bomb.png", "data.max_bad_share"),
    _bad_zip("that says 4 GB", _in_directory(24, "<L", 2**32 - 2), "is stored, but", _AGAIN),
    _bad_zip("with a wrong checksum", _with_wrong_crc(), "good-0.png", "CRC"),
    _bad_zip("of zips", _zip([("a.zip", _GOOD_ZIP), *GOOD]), "a.zip", "data.on_bad"),
    _bad_zip("of links", _zip_of_links(), "link.png", "data.max_bad_share"),
    _bad_zip("of a pickle", _zip([*GOOD, ("a.pkl", pickle_bomb())]), "a.pkl", "data.on_bad"),
    _bad_zip("encrypted", _in_directory(8, "<H", 1), "encrypted", "unpack it with its key"),
    _bad_zip("packed by bzip2", _in_directory(10, "<H", 12), "method 12", "Pack it again"),
    _bad_zip("of overlapping files", _in_directory(20, "<L", 3000), _AGAIN),
    _bad_zip("with a file beyond its end", _in_directory(42, "<L", 2**31), "beyond its end"),
    _bad_zip("of 65,535 files that are not there", _at_end(10, "<H", 2**16 - 1), _AGAIN),
    _bad_zip("on several disks", _at_end(4, "<H", 3), "several files"),
    _bad_zip("of a long directory", _at_end(12, "<L", 2**31), "cannot lie in it"),
)

# -- tar ---------------------------------------------------------------------------------------


def _header(name: bytes, size: bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """Return a header with the right checksum, whatever it says."""
    fields = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0")
    fields += b"00000000000\0" + b" " * 8 + kind + bytes(100) + magic
    whole = bytearray(fields.ljust(512, b"\0"))
    whole[148:156] = b"%06o\0 " % sum(whole)
    return bytes(whole)


def _member(name: str, content: bytes, kind: bytes = b"0") -> bytes:
    padding = bytes(-len(content) % 512)
    return _header(name.encode(), b"%011o" % len(content), kind) + content + padding


_MEMBERS = b"".join(_member(name, content) for name, content in GOOD)
_END = bytes(1024)
_GOOD_TAR = _MEMBERS + _END


def _bad_tar(name: str, content: bytes, *says: str) -> Case:
    return Case(f"tar {name}", ("source.tar", *says), 3, _writer("source.tar", content), _TAR)


def _with(*members: bytes) -> bytes:
    return _MEMBERS + b"".join(members) + _END


def _pax(num_bytes: int) -> bytes:
    return _header(b"pax", b"%011o" % num_bytes, b"x")


def _sparse() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in GOOD:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
        about = tarfile.TarInfo("sparse.png")
        about.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(about)
    return whole.getvalue()


TARS = (
    Case("tar read", ("3/3 images",), 0, _writer("source.tar", _GOOD_TAR), _TAR),
    _bad_tar("that is empty", b"", "source.tar"),
    _bad_tar("that is text", b"hello" * 500, "is no .tar archive", "hello"),
    _bad_tar("without its end", _MEMBERS, "end blocks"),
    _bad_tar("cut in a member", _GOOD_TAR[:1000], "of a member"),
    _bad_tar("cut in a header", _GOOD_TAR[: len(_member(*GOOD[0])) + 99], "512-byte header"),
    _bad_tar("followed by something", _GOOD_TAR + b"more", "followed by something"),
    _bad_tar("of a negative size", _with(_header(b"a.png", b"\xff" * 12)), "the size"),
    _bad_tar("of a size of minus one", _with(_header(b"a.png", b"-0000000001")), "the size"),
    _bad_tar("of a size of 8 GB", _with(_header(b"a.png", b"77777777777")), "bytes left"),
    _bad_tar("of a size in words", _with(_header(b"a.png", b"many")), "the size"),
    _bad_tar("of a wrong checksum", b"x" + _GOOD_TAR[1:], "checksum"),
    _bad_tar("of no magic", _with(_header(b"a.png", b"0", magic=b"nothing!")), "magic"),
    _bad_tar("that climbs", _with(_member("../evil.png", PNG)), '"../evil.png"', _OUTSIDE),
    _bad_tar("of an absolute path", _with(_member("/tmp/evil.png", PNG)), _OUTSIDE),
    _bad_tar("of a link", _with(_header(b"link.png", b"0", b"2")), "source.tar"),
    _bad_tar("of a hard link", _with(_header(b"link.png", b"0", b"1")), "source.tar"),
    _bad_tar("of a device", _with(_header(b"null.png", b"0", b"3")), "source.tar"),
    _bad_tar("of a pipe", _with(_header(b"pipe.png", b"0", b"6")), "source.tar"),
    _bad_tar("of a sparse file", _sparse(), "source.tar"),
    _bad_tar("of a pax header of 8 GB", _with(_pax(8**11 - 1)), "source.tar"),
    _bad_tar("of a name twice", _with(_member("good-0.png", PNG)), "good-0.png", "twice"),
    _bad_tar("of no name", _with(_member("", PNG)), "name"),
    _bad_tar("of a pickle", _with(_member("a.pkl", pickle_bomb())), "a.pkl", "data.on_bad"),
    _bad_tar("of a bad image", _with(_member("bad.png", b"")), "bad.png", "it is empty"),
)


def _tgz(name: str, content: Content, *says: str, code: int = 3) -> Case:
    return Case(f"tar.gz {name}", says, code, _writer("source.tar.gz", content), _TGZ)


def _gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _gz_bomb(num_megabytes: int) -> bytes:
    """Return a member of so many MB of zeros in a gzip, made without the megabytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(_MEMBERS)]
    parts += [packer.compress(bytes(2**20)) for _ in range(num_megabytes)]
    return b"".join([*parts, packer.flush()])


_HERE = "source.tar.gz"
TGZS = (
    _tgz("read", _gz(_GOOD_TAR), "3/3 images", code=0),
    _tgz("that is empty", b"", _HERE),
    _tgz("that is a tar", _GOOD_TAR, _HERE),
    _tgz("that is text", b"hello" * 99, _HERE),
    _tgz("cut", _gz(_GOOD_TAR)[:-40], _HERE),
    _tgz("of a wrong checksum", _gz(_GOOD_TAR)[:-8] + bytes(8), _HERE),
    _tgz("bomb", partial(_gz_bomb, 64), _HERE),
)

CASES = (*ZIPS, *TARS, *TGZS)
