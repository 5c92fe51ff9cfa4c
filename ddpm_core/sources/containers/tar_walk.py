"""The members of a tar archive made by anybody, header by header, in bounded memory.

Of what is beyond POSIX's first format (ustar) it knows what archives of images need: long names
and large sizes, as GNU tar and as pax headers (POSIX.1-2001) give them. All else that such a
header says is passed over. Links, devices and sparse files are named, never followed or made.
"""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, final

from ddpm_core.errors import DataError
from ddpm_core.shards.tar import BLOCK_BYTES, END, OCTAL, REGULAR, USTAR, check_header, damaged
from ddpm_core.sources.containers.tar_plain import plain_run

MAX_MEMBERS = 3 * 10**7
"""headers of one archive: an image of a shard may have two files beside it"""
_MAX_HEADER_BYTES = 2**16
"""of a long name or a pax header: names end at 4096"""
_MAX_SIZE_BYTES = 2**40
_CHUNK_BYTES = 2**20
_AHEAD_BYTES = 2**20
"""read at once at most, where headers stand close together"""
_CLOSE_BYTES = 2**13
"""from one header to the next, on average: then what lies between them is read too"""
_WORTH_BYTES = 2**14
"""of headers, and what lies between them, that are looked at together"""
_SMALL_BYTES = 64
"""of a content that comes with its header, such as the number of a class"""
_FOLDER, _CONTIGUOUS = b"5", b"7"
_LONG_NAME, _LONG_LINK = b"L", b"K"
_PAX, _PAX_FOR_ALL = b"x", b"g"
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link, which is not followed",
    b"3": "neither a file nor a folder",
    b"4": "neither a file nor a folder",
    b"6": "neither a file nor a folder",
    b"S": "a sparse file",
}
_RECORD = re.compile(rb"(\d{1,5}) ([^=\n]{1,255})=")


class Member(NamedTuple):
    """One member that is no folder."""

    raw_name: bytes
    offset: int
    """of its content"""
    size: int
    problem: str | None
    """why it is no file that can be read, or None"""
    content: bytes | None = None
    """of a few bytes, if they were read with the header"""


class _Said(NamedTuple):
    """What headers before a member say of it; None: nothing."""

    name: bytes | None = None
    size: int | None = None


_NOTHING = _Said()


def walk(file: BinaryIO, origin: str) -> Iterator[Member]:
    """Yield the members of an archive, from the beginning of a file that can seek to its end.

    Raises:
        DataError: naming `origin`, the byte, what was found there and what must hold, for
            anything that is no whole archive, ended by two blocks of zeros.
    """
    length = file.seek(0, os.SEEK_END)
    ahead = _Ahead(file)
    at = 0
    said = _Said()
    num_left = MAX_MEMBERS
    while True:
        header = ahead.header(at)
        if said == _NOTHING:
            for member in ahead.plain(at, length):
                num_left -= 1
                if num_left < 0:
                    raise _too_many(origin, at)
                yield member
                at = member.offset + member.size + -member.size % BLOCK_BYTES
            header = ahead.header(at)
        num_left -= 1
        if num_left < 0:
            raise _too_many(origin, at)
        if len(header) < BLOCK_BYTES:
            raise damaged(
                origin, at, f"{len(header)} bytes", "a 512-byte header or the two zero end blocks"
            )
        if header == END:
            _check_end(file, origin, at, length)
            return
        check_header(header, at, origin)
        kind = header[156:157]
        size = _size(header, at, origin)
        if said.size is not None and kind in (*REGULAR, _CONTIGUOUS):
            size = said.size
        # Only these carry content; GNU's link headers give the size of what they link to.
        stored = 0 if kind in (b"1", b"2", b"3", b"4", b"6", _FOLDER) else size
        content_at = at + BLOCK_BYTES
        at = content_at + -(-stored // BLOCK_BYTES) * BLOCK_BYTES
        if at > length:
            raise damaged(
                origin, content_at, f"{length - content_at} bytes left", f"{size} bytes of a member"
            )
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL):
            body = _body(file, origin, content_at, size)
            said = _also_said(said, kind, body, origin, content_at)
            continue
        name = said.name or _name(header)
        # Before POSIX a folder was a file of no bytes whose name ends in a slash.
        if kind != _FOLDER and not (kind in REGULAR and not size and name.endswith(b"/")):
            problem = None if kind in (*REGULAR, _CONTIGUOUS) else _problem(kind)
            yield Member(name, content_at, size, problem)
        said = _NOTHING


@final
class _Ahead:
    """The headers of an archive: many with one read, where they stand close together."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data, self._start = b"", 0
        self._num_bytes, self._num_asked = BLOCK_BYTES, 1

    def header(self, at: int) -> bytes:
        """Return the block at a byte; less of it where the file ends."""
        begin = at - self._start
        if begin + BLOCK_BYTES > len(self._data):
            is_close = begin <= self._num_asked * _CLOSE_BYTES
            wanted = min(4 * self._num_bytes, _AHEAD_BYTES) if is_close and at else BLOCK_BYTES
            self._file.seek(at)
            self._data, self._start = self._file.read(wanted), at
            self._num_bytes, self._num_asked, begin = wanted, 0, 0
        self._num_asked += 1
        return self._data[begin : begin + BLOCK_BYTES]

    def plain(self, at: int, length: int) -> Iterator[Member]:
        """Yield the files of plain headers from a byte on, as far as they are read already."""
        begin = at - self._start
        if len(self._data) - begin < _WORTH_BYTES:
            return
        data, start = self._data, self._start
        run = plain_run(data, begin)
        self._num_asked += len(run)
        for name, header_at, size in run:
            content_at = header_at + BLOCK_BYTES
            if start + content_at + size + -size % BLOCK_BYTES > length:
                return
            small = data[content_at : content_at + size] if size <= _SMALL_BYTES else None
            is_there = small is not None and len(small) == size
            yield Member(name, start + content_at, size, None, small if is_there else None)


def _too_many(origin: str, at: int) -> DataError:
    return damaged(origin, at, "one header more", f"at most {MAX_MEMBERS} in one archive")


def _problem(kind: bytes) -> str:
    return _KINDS.get(kind, f"a member of tar's type {kind!r}, which is not known")


def _size(header: bytes, at: int, origin: str) -> int:
    field = header[124:136]
    if field[0] == 0x80:  # GNU's binary sizes; 0xff would begin a negative one
        size = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits and not OCTAL.fullmatch(digits):
            raise damaged(origin, at, f"the size {digits!r}", "an octal number")
        size = int(digits or b"0", 8)
    return _bounded(size, at, origin)


def _bounded(size: int, at: int, origin: str) -> int:
    if size > _MAX_SIZE_BYTES:
        raise damaged(origin, at, f"the size {size}", f"at most {_MAX_SIZE_BYTES} bytes")
    return size


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:265] == USTAR else b""
    return b"/".join((prefix, name)) if prefix else name


def _body(file: BinaryIO, origin: str, at: int, size: int) -> bytes:
    if size > _MAX_HEADER_BYTES:
        raise damaged(
            origin, at, f"a header of {size} bytes", f"at most {_MAX_HEADER_BYTES} for a name"
        )
    file.seek(at)
    return file.read(size)


def _also_said(said: _Said, kind: bytes, body: bytes, origin: str, at: int) -> _Said:
    if kind == _LONG_NAME:
        return said._replace(name=body.split(b"\0", 1)[0])
    if kind == _LONG_LINK:
        return said
    records = _records(body, origin, at)
    sparse = sorted(key for key in records if key.startswith(b"GNU.sparse"))
    if sparse:
        raise damaged(origin, at, f"a sparse file ({sparse[0]!r})", "files stored whole")
    if kind == _PAX_FOR_ALL:
        if {b"path", b"size"} & records.keys():
            raise damaged(origin, at, "one name or size for all members", "one for each")
        return said
    if b"path" in records:
        said = said._replace(name=records[b"path"])
    if b"size" in records:
        if not re.fullmatch(rb"\d{1,15}", records[b"size"]):
            raise damaged(origin, at, f"the size {records[b'size'][:50]!r}", "a decimal number")
        said = said._replace(size=_bounded(int(records[b"size"]), at, origin))
    return said


def _records(body: bytes, origin: str, at: int) -> dict[bytes, bytes]:
    """Return what a pax header says: lines of `length key=value`, the length counting all of it."""
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(body):
        found = _RECORD.match(body, start)
        stop = start + int(found[1]) if found else 0
        # A record ends behind its own beginning: one of length 0 would be read again for ever.
        if not found or stop <= found.end() or body[stop - 1 : stop] != b"\n":
            raise damaged(
                origin,
                at + start,
                f"{body[start : start + 50]!r}",
                "a pax record, `length key=value` and a newline",
            )
        records[found[2]] = body[found.end() : stop - 1]
        start = stop
    return records


def _check_end(file: BinaryIO, origin: str, at: int, length: int) -> None:
    """Require that from `at` on there is nothing but zeros, two blocks of them or more."""
    file.seek(at)
    whole = length - at >= 2 * BLOCK_BYTES and (length - at) % BLOCK_BYTES == 0
    while whole and (chunk := file.read(_CHUNK_BYTES)):
        whole = chunk.count(0) == len(chunk)
    if not whole:
        raise damaged(
            origin, at, "an end that is cut short or followed by something", "zero blocks only"
        )
