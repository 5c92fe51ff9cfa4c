"""What was found in shards that are used in place, as it is found: kept for the next start.

A file of records in the user's cache, one for each shard that was looked at: a start that follows
a kill, or another run on the same shards, looks at the others alone. A record is found by its
token, a digest of all that its shard is known by; one that is cut short or damaged is dropped, and
whatever follows it.

    <I: bytes of a head> <I: bytes of a part> <32 bytes: SHA-256 of both> head (JSON) part
"""

import fcntl
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final

from ddpm_core.canonical import canonical_json

_LENGTHS = struct.Struct("<II32s")


class Record(NamedTuple):
    """Where the record of a shard lies."""

    at: int
    """byte at which its head begins"""
    head_bytes: int
    part_bytes: int


@final
class LookedAt:
    """Records of shards by their tokens.

    Args:
        path: the file. If another process has it, or it cannot be written, the records of this one
            are in a file of its own, and end with it.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = _opened(path)
        self._records: dict[bytes, Record] = {}
        self._end = self._read_all()

    def find(self, token: bytes) -> Record | None:
        """Return the record of a shard; None if it was not looked at."""
        return self._records.get(token)

    def head(self, record: Record) -> dict[str, Any]:
        """Return what was said of a shard as a whole."""
        self._file.seek(record.at)
        found: dict[str, Any] = json.loads(self._file.read(record.head_bytes))
        return found

    def part(self, record: Record) -> bytes:
        """Return the part of a shard, as it will stand in the index."""
        self._file.seek(record.at + record.head_bytes)
        return self._file.read(record.part_bytes)

    def add(self, token: bytes | None, head: Mapping[str, Any], part: bytes) -> Record:
        """Keep what was found in a shard; without a token it is found by no other start."""
        words = canonical_json({"token": token.hex() if token is not None else None, **head})
        digest = hashlib.sha256(words + part).digest()
        self._file.seek(self._end)
        self._file.write(_LENGTHS.pack(len(words), len(part), digest) + words + part)
        record = Record(self._end + _LENGTHS.size, len(words), len(part))
        self._end = record.at + len(words) + len(part)
        if token is not None:
            self._records[token] = record
        return record

    def close(self) -> None:
        """Leave the file to others."""
        self._file.close()

    def _read_all(self) -> int:
        """Find all records; return where the last whole one ends."""
        at, length = 0, os.fstat(self._file.fileno()).st_size
        while at + _LENGTHS.size <= length:
            self._file.seek(at)
            head, part, digest = _LENGTHS.unpack(self._file.read(_LENGTHS.size))
            if at + _LENGTHS.size + head + part > length:
                break
            content = self._file.read(head + part)
            if hashlib.sha256(content).digest() != digest:
                break
            if (token := json.loads(content[:head])["token"]) is not None:
                self._records[bytes.fromhex(token)] = Record(at + _LENGTHS.size, head, part)
            at += _LENGTHS.size + head + part
        self._file.truncate(at)
        return at


def _opened(path: Path) -> BinaryIO:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        return file
    return tempfile.TemporaryFile()
