"""A reader of tar archives that can be handed anything: bounded, and it executes nothing.

Python's `tarfile` follows links, makes devices, reads pax headers of any size, and loops for ever
on a negative size before 3.11.14 (CVE-2025-8194). What is needed here is the plain case only:
regular files with short names, one 512-byte header each. Archives made by others, with long names
and of any length, are read by `containers.tar_walk`.
"""

import re
import zlib
from dataclasses import dataclass

from ddpm_core.errors import DataError
from ddpm_core.images.image_facts import MAX_MEMBER_BYTES
from ddpm_core.images.names import shown

BLOCK_BYTES = 512
REGULAR = (b"0", b"\0")
USTAR = b"ustar\x0000"
MAGICS = (USTAR, b"ustar  \0")  # POSIX, GNU
END = bytes(BLOCK_BYTES)
OCTAL = re.compile(rb"[0-7]+")  # int() alone would take a sign and underscores


@dataclass(frozen=True)
class Member:
    """One file in an archive: its bytes are `archive[offset : offset + size]`."""

    name: str
    offset: int
    size: int


def members(archive: bytes, *, origin: str, skip_others: bool = False) -> list[Member]:
    """Return the regular files of an archive, in order.

    Args:
        archive: the whole uncompressed archive.
        origin: what to call it in an error.
        skip_others: pass over folders, links and extended headers instead of refusing them.

    Raises:
        DataError: naming `origin`, the byte, what was found there and what must hold: a header
            whose checksum fits, a size of 0..32 MiB that ends inside the archive, a plain name,
            two zero blocks at the end and nothing but zeros after them.
    """
    found: list[Member] = []
    at = 0
    while True:
        header = archive[at : at + BLOCK_BYTES]
        if len(header) < BLOCK_BYTES:
            raise damaged(
                origin, at, f"{len(header)} bytes", "a 512-byte header or the two zero end blocks"
            )
        if header == END:
            _check_end(archive, at, origin)
            return found
        size = _checked(header, at, origin)
        offset = at + BLOCK_BYTES
        at = offset + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if at > len(archive):
            raise damaged(
                origin, offset, f"{len(archive) - offset} bytes left", f"{size} bytes of a member"
            )
        if header[156:157] in REGULAR:
            found.append(Member(_name(header, offset - BLOCK_BYTES, origin), offset, size))
        elif not skip_others:
            raise damaged(
                origin,
                offset - BLOCK_BYTES,
                f"a member of type {header[156:157]!r}",
                "regular files only (no links, folders, devices, extended headers)",
            )


def member_at(header: bytes, at: int, *, origin: str) -> Member:
    """Return the file whose header is these 512 bytes, at byte `at`, of an archive of ours.

    Its checksum is not looked at: for archives whose SHA-256 was. Raises as `members`.
    """
    size = _size(header, at, origin)
    return Member(_name(header, at, origin), at + BLOCK_BYTES, size)


def _checked(header: bytes, at: int, origin: str) -> int:
    """Return the size in a header of a short name, or raise DataError."""
    check_header(header, at, origin)
    if header[257:265] == USTAR and header[345:500].strip(b"\0"):
        raise damaged(origin, at, "a name of over 100 bytes", "at most 100 bytes")
    return _size(header, at, origin)


def check_header(header: bytes, at: int, origin: str) -> None:
    """Raise DataError unless 512 bytes are a header of POSIX's or GNU's tar, undamaged."""
    # The checksum counts its own eight bytes as spaces.
    field = header[148:156]
    expected = _sum(header[:256]) + _sum(header[256:]) - sum(field) + 8 * ord(" ")
    if field == b"%06o\0 " % expected and header[257:265] in MAGICS:
        return
    digits = field.strip(b" \0")
    if not OCTAL.fullmatch(digits) or int(digits, 8) != expected:
        raise damaged(origin, at, f"the header checksum {digits!r}", f"{expected:06o} (octal)")
    if header[257:265] not in MAGICS:
        raise damaged(origin, at, f"the magic {header[257:265]!r}", "a ustar header")


def _sum(half: bytes) -> int:
    """Return the sum of at most 256 bytes: Adler-32's low half is 1 + it, modulo 65521 (RFC 1950).

    A sixth of the time of `sum`, which a listing takes for each of three headers an image.
    """
    return (zlib.adler32(half) & 0xFFFF) - 1


def _size(header: bytes, at: int, origin: str) -> int:
    digits = header[124:136].strip(b" \0")
    if not OCTAL.fullmatch(digits) or int(digits, 8) > MAX_MEMBER_BYTES:
        raise damaged(
            origin, at, f"the size {digits!r}", f"an octal number of at most {MAX_MEMBER_BYTES}"
        )
    return int(digits, 8)


def _name(header: bytes, at: int, origin: str) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if not name or not name.isascii() or not name.decode("ascii").isprintable():
        raise damaged(origin, at, f"the name {name!r}", "printable ASCII")
    return name.decode("ascii")


def _check_end(archive: bytes, at: int, origin: str) -> None:
    tail = len(archive) - at
    if tail < 2 * BLOCK_BYTES or tail % BLOCK_BYTES or archive.count(0, at) != tail:
        raise damaged(
            origin, at, "an end that is cut short or followed by something", "zero blocks only"
        )


def damaged(origin: str, at: int, found: str, expected: str) -> DataError:
    """Return the error for an archive that has `found` where `expected` must be."""
    return DataError(
        f"{shown(origin)} is no archive that can be used: at byte {at} there is {found}; expected "
        f"{expected}. Fetch or make the file again"
    )
