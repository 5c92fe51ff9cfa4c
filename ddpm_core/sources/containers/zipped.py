"""A zip archive, read where it lies: its directory once, its files at random, never unpacked.

Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 (layout) and 4.5.3 (zip64). Python's `zipfile`
keeps some 700 bytes for every file and needs the whole directory in every process.
"""

import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images.names import bytes_of, checked_name, quoted, shown
from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.container import (
    MAX_ENTRIES,
    Container,
    Entry,
    EntryError,
    PassedOver,
    changed,
    refuse_large,
)
from ddpm_core.sources.containers.local_file import LocalFile

MAX_RATIO = 200
"""Bytes out of one byte: deflate reaches 1032, an image file is compressed already."""
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_USUAL_EXTRA_BYTES = 64
_MAX_COMMENT_BYTES = 2**16
_MAX_BYTES = 2**48  # of anything: no disk holds more, and a sum of two still fits 64 bits
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_IN_ZIP64, _IN_ZIP64_SHORT = 2**32 - 1, 2**16 - 1


class _Directory(NamedTuple):
    offset: int
    num_bytes: int
    num_entries: int
    shift: int
    """bytes that stand before the archive, which its own offsets do not count"""


@final
class Zip(Container):
    """Stored and deflated files. `Entry.where` is (byte of its header, packed bytes, method, CRC).

    Refused as a whole: encryption, several disks, files that overlap (what makes a bomb of a
    small archive), names that lead outside.
    """

    def __init__(self, path: Path, *, uri: str | None = None) -> None:
        """Take the archive at `path`; `uri` is where it came from."""
        self.uri = uri or str(path)
        self._path = path
        self._file = LocalFile(path)
        self._mark = marks.FileMark((0, 0), False)

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        del passed_over  # folders are no files; all the rest is yielded
        starts, ends = array("q"), array("q")
        self._mark = self._file.mark(self.identities)
        with self._file.opened() as file:
            directory = self._directory(file)
            file.seek(directory.offset)
            left = directory.num_bytes
            for number in range(directory.num_entries):
                entry, num_bytes, raw = self._central(file, number, directory, left)
                left -= num_bytes
                starts.append(entry.where[0])
                ends.append(entry.where[0] + _LOCAL.size + len(raw) + entry.where[1])
                if not raw.endswith(b"/"):
                    yield entry
        if left:
            raise self._damaged(f"{left} bytes more in its directory than its files take")
        self._refuse_overlaps(starts, ends, directory.offset)

    def read(self, entry: Entry) -> bytes:
        refuse_large(self.uri, entry)
        start, packed, method, crc = entry.where
        if entry.size > MAX_RATIO * max(packed, 1):
            reason = (
                f"grows from {packed} to {entry.size} bytes; {MAX_RATIO} times is the most that is "
                "unpacked"
            )
            raise EntryError(
                f"{quoted(entry.name)} in {shown(self.uri)} {reason}. Leave it out, or store it "
                "uncompressed",
                reason,
            )
        refuse_large(self.uri, entry._replace(size=packed))
        name = bytes_of(entry.name)
        # The header, the name and an extra field that only the header gives the length of: mostly
        # one read is enough.
        found = self._file.read_at(start, _LOCAL.size + len(name) + _USUAL_EXTRA_BYTES + packed)
        if len(found) < _LOCAL.size or not found.startswith(b"PK\3\4"):
            raise changed(self.uri, entry, f"at byte {start} there is no header of a file")
        *_, name_bytes, extra_bytes = _LOCAL.unpack_from(found)
        if not found[_LOCAL.size : _LOCAL.size + name_bytes].endswith(name):
            raise changed(self.uri, entry, f"at byte {start} there is another file")
        at = _LOCAL.size + name_bytes + extra_bytes
        if len(found) < at + packed:
            found, at = self._file.read_at(start + at, packed), 0
        content = _unpacked(found[at : at + packed], method, entry.size)
        if content is None or len(content) != entry.size or zlib.crc32(content) != crc:
            raise changed(self.uri, entry, "its checksum (CRC-32) does not fit")
        return content

    def marks_of(self, where: NDArray[np.int64]) -> marks.Marks:
        return marks.of_members(self._mark, len(where))

    def place(self) -> dict[str, Any]:
        return {"kind": "zip", "path": str(self._path), "uri": self.uri}

    def is_here(self) -> bool:
        return self._path.is_file()

    def close(self) -> None:
        self._file.close()

    def _directory(self, file: BinaryIO) -> _Directory:
        """Find the directory by the record at the end of the file."""
        size = file.seek(0, os.SEEK_END)
        tail_at = max(0, size - _END.size - _MAX_COMMENT_BYTES - _LOCATOR64.size)
        file.seek(tail_at)
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < _END.size:
            raise self._damaged("no end of a zip archive: it is cut short, or is none")
        _, disk, first_disk, here, num_entries, num_bytes, offset, _ = _END.unpack_from(tail, at)
        end_at = tail_at + at
        locator = tail[max(0, at - _LOCATOR64.size) : at]
        if locator.startswith(b"PK\6\7") and len(locator) == _LOCATOR64.size:
            _, _, end_at, _ = _LOCATOR64.unpack(locator)
            file.seek(min(end_at, size))
            record = file.read(_END64.size)
            if len(record) < _END64.size or not record.startswith(b"PK\6\6"):
                raise self._damaged(f"no zip64 record at byte {end_at}, where it should be")
            _, _, _, _, disk, first_disk, here, num_entries, num_bytes, offset = _END64.unpack(
                record
            )
        if disk or first_disk or here != num_entries:
            raise self._damaged("only a part of an archive that spans several files")
        shift = end_at - num_bytes - offset
        if shift < 0 or num_bytes < num_entries * _CENTRAL.size:
            raise self._damaged(f"a directory of {num_entries} files that cannot lie in it")
        if num_entries > MAX_ENTRIES:
            raise DataError(
                f"{shown(self.uri)} holds {num_entries} files; at most {MAX_ENTRIES} are listed. "
                "Split it"
            )
        return _Directory(offset + shift, num_bytes, num_entries, shift)

    def _central(
        self, file: BinaryIO, number: int, directory: _Directory, left: int
    ) -> tuple[Entry, int, bytes]:
        """Read one entry of the directory; return it, its length there, and its raw name."""
        header = file.read(_CENTRAL.size)
        if len(header) < _CENTRAL.size or not header.startswith(b"PK\1\2"):
            raise self._damaged(f"no entry {number} in its directory")
        fields = _CENTRAL.unpack(header)
        flags, method, crc, packed, size = fields[3], fields[4], *fields[7:10]
        name_bytes, extra_bytes, comment_bytes, disk, offset = *fields[10:14], fields[16]
        length = _CENTRAL.size + name_bytes + extra_bytes + comment_bytes
        rest = file.read(length - _CENTRAL.size)
        if length > left or len(rest) < length - _CENTRAL.size:
            raise self._damaged(f"entry {number} of its directory is cut short")
        raw = rest[:name_bytes]
        name = checked_name(raw.removesuffix(b"/"), self.uri)
        if flags & _ENCRYPTED:
            raise DataError(
                f"{quoted(name)} in {shown(self.uri)} is encrypted; unpack it with its key"
            )
        if method not in (_STORED, _DEFLATED):
            raise DataError(
                f"{quoted(name)} in {shown(self.uri)} is packed by method {method}; only "
                "stored (0) and deflated (8) are read. Pack it again, as `zip` does"
            )
        extra = rest[name_bytes : name_bytes + extra_bytes]
        size, packed, offset = self._zip64(extra, name, size, packed, offset)
        if max(size, packed, offset) > _MAX_BYTES:
            raise self._damaged(f"{quoted(name)} says that it has {size} bytes")
        offset += directory.shift
        if disk not in (0, _IN_ZIP64_SHORT) or offset + packed > directory.offset:
            raise self._damaged(f"{quoted(name)} lies beyond its end")
        if method == _STORED and packed != size:
            raise self._damaged(f"{quoted(name)} is stored, but {packed} bytes are not {size}")
        return Entry(name, size, (offset, packed, method, crc)), length, raw

    def _zip64(
        self, extra: bytes, name: str, size: int, packed: int, offset: int
    ) -> tuple[int, int, int]:
        """Return the three numbers, those that do not fit into 32 bits from the extra field."""
        values = [size, packed, offset]
        large = [place for place, value in enumerate(values) if value == _IN_ZIP64]
        if not large:
            return size, packed, offset
        at = 0
        while at + 4 <= len(extra):
            kind, num_bytes = struct.unpack_from("<2H", extra, at)
            body = extra[at + 4 : at + 4 + num_bytes]
            if kind == 1 and len(body) >= 8 * len(large):
                for place, value in zip(
                    large, struct.unpack_from(f"<{len(large)}Q", body), strict=True
                ):
                    values[place] = value
                return values[0], values[1], values[2]
            at += 4 + num_bytes
        raise self._damaged(f"{quoted(name)} says that it is large, but not how large")

    def _refuse_overlaps(self, starts: "array[int]", ends: "array[int]", limit: int) -> None:
        begin, end = np.asarray(starts), np.asarray(ends)
        order = np.argsort(begin, kind="stable")
        next_begin = np.append(begin[order][1:], limit)
        if begin.size and (end[order] > next_begin).any():
            at = int(begin[order][(end[order] > next_begin).argmax()])
            raise self._damaged(f"the file at byte {at} overlaps the next one, as in a zip bomb")

    def _damaged(self, found: str) -> DataError:
        return DataError(
            f"{shown(self.uri)} is no zip archive that can be used: {found}. Fetch or make it again"
        )


def _unpacked(body: bytes, method: int, size: int) -> bytes | None:
    """Return the content, at most a byte longer than it should be; None if it is damaged."""
    if method == _STORED:
        return body
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflate.decompress(body, size + 1)
    except zlib.error:
        return None
    return content if inflate.eof or len(content) > size else None
