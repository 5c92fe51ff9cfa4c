"""PNG walked from end to end; see `image_walk`.

Its checksums find every changed bit, but not a writer that stopped early and closed the file well:
Pillow leaves the missing rows black. So the rows are counted, which costs unpacking them.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Literal

from ddpm_core.images.image_facts import (
    MAX_PARTS,
    PngFacts,
    UnreadableError,
    check_size,
    cut_short,
    orientation_of,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# Of fixed, small length, and silent on who took the picture where.
_HARMLESS = (b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"tIME")
_ESSENCE = frozenset(_PICTURE)
_BARE = _ESSENCE | {b"tRNS", *_HARMLESS}
_FEW_PIXELS = 2**20
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
"""first row and column of each pass of an interlaced file, and the steps"""
_PIECE_BYTES = 2**18


def _uint(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 4], "big")


def chunks(content: bytes, *, is_trusted: bool) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, begin, end) of each chunk, IEND included; the frame is 8 and 4 bytes more."""
    at, view = len(SIGNATURE), memoryview(content)
    for _ in range(MAX_PARTS):
        if at + 12 > len(content):
            raise cut_short("PNG")
        size, name = struct.unpack_from(">I4s", content, at)
        end = at + 8 + size
        if end + 4 > len(content):
            raise cut_short("PNG")
        if not is_trusted and zlib.crc32(view[at + 4 : end]) != _uint(content, end):
            raise UnreadableError(f"the checksum of its chunk at byte {at} is wrong")
        yield name, at + 8, end
        if name == b"IEND":
            return
        at = end + 4
    raise UnreadableError(f"it has over {MAX_PARTS} chunks")


def walk_png(content: bytes, *, is_trusted: bool, max_pixels: int) -> PngFacts:
    """Source: PNG specification, third edition, sections 5, 11 and 13."""
    kept, others, end = [], {}, 0
    names: list[bytes] = []
    for name, begin, end in chunks(content, is_trusted=is_trusted):
        names.append(name)
        if name in _PICTURE:
            kept.append(content[begin - 8 : end + 4])
        elif name in (b"tRNS", b"eXIf"):
            others[name] = content[begin:end]
        elif not name[:1].islower():
            raise UnreadableError(f"its chunk {name!r} is unknown, and it says it is needed")
    header = kept[0] if kept else b""
    if names[:1] != [b"IHDR"] or names.count(b"IHDR") > 1 or len(header) != 25:
        raise UnreadableError("it does not begin with one PNG header")
    if b"IDAT" not in names or names.count(b"PLTE") > 1:
        raise UnreadableError("it has no pixels, or two palettes")
    width, height, depth, color, compression, filters, interlace = struct.unpack_from(
        ">IIBBBBB", header, 8
    )
    check_size(width, height, max_pixels)
    if depth not in _DEPTHS.get(color, ()) or compression or filters or interlace > 1:
        raise UnreadableError(f"{depth} bits of colour type {color} are no PNG image")
    palette = next((part[8:-4] for part in kept if part[4:8] == b"PLTE"), b"")
    if color == 3 and not (3 <= len(palette) <= 3 * 2**depth and len(palette) % 3 == 0):
        raise UnreadableError(f"its palette has {len(palette)} bytes, which is no palette")
    packed = b""
    if not is_trusted:
        packed = b"".join([part[8:-4] for part in kept if part[4:8] == b"IDAT"])
        _require_rows(packed, _num_bytes(width, height, depth * _CHANNELS[color], interlace))
    plain: Literal[1, 3] | None = None
    if depth == 8 and color in (0, 2) and b"tRNS" not in others:
        plain = 1 if color == 0 else 3
    is_small = plain is not None and not interlace and width * height <= _FEW_PIXELS
    is_all, kinds = end + 4 == len(content), set(names)
    return PngFacts(
        kind="png",
        width=width,
        height=height,
        orientation=orientation_of(others[b"eXIf"]) if b"eXIf" in others else 1,
        plain_channels=plain,
        is_bare=is_all and kinds <= _BARE,
        essence=content if is_all and kinds <= _ESSENCE else SIGNATURE + b"".join(kept),
        bit_depth=depth,
        color_type=color,
        palette=palette,
        transparency=others.get(b"tRNS"),
        packed=packed if is_small else b"",
    )


def _num_bytes(width: int, height: int, bits: int, interlace: int) -> int:
    """Return how long the rows are, unpacked: each has one byte before its pixels.

    Source: PNG specification, third edition, section 8 (Adam7).
    """
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    total = 0
    for top, left, down, right in passes:
        rows, columns = -(-(height - top) // down), -(-(width - left) // right)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    return total


def _require_rows(packed: bytes, num_bytes: int) -> None:
    unpacker, found = zlib.decompressobj(), 0
    try:
        # In pieces: what is left of the input is copied by every call.
        for at in range(0, len(packed) + _PIECE_BYTES, _PIECE_BYTES):
            piece = packed[at : at + _PIECE_BYTES]
            is_last = not piece  # then only what the unpacker still holds
            while (piece or is_last) and found < num_bytes and not unpacker.eof:
                rows = unpacker.decompress(piece, _PIECE_BYTES)
                piece = unpacker.unconsumed_tail
                found += len(rows)
                is_last = is_last and bool(rows)
    except zlib.error:
        raise UnreadableError("its pixels are damaged: they cannot be unpacked") from None
    if found < num_bytes:
        raise UnreadableError(f"its pixels end after {found} of {num_bytes} bytes")
