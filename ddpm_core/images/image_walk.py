"""PNG, JPEG, WebP and GIF walked from end to end without decoding.

A decoder that is handed a file from outside meets its metadata first: compressed text of any
length, profiles, EXIF with offsets into nowhere, thousands of frames. Here the file's own framing
is followed once, which is bounded by its length; what is cut short is found, whatever a decoder
would have made of it; and the decoder is given the picture only.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from ddpm_core.images.gif_walk import GIFS, walk_gif
from ddpm_core.images.image_facts import (
    MAX_FILE_BYTES,
    MAX_PARTS,
    MAX_PIXELS,
    Facts,
    JpegFacts,
    Kind,
    UnreadableError,
    WebpFacts,
    check_size,
    cut_short,
    orientation_of,
)
from ddpm_core.images.png_walk import SIGNATURE, walk_png

_JPEG = b"\xff\xd8\xff"
_MAX_SCANS = 200  # a progressive JPEG has about ten
_MIN_SCANS = 20
_ANY = 2**64

_JPEG_SEGMENT = struct.Struct(">BBH")
# Start of frame; C4, C8 and CC are other things.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, APP0, _APP1, _APP14, _APP15, _COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE


def kind_of(start: bytes) -> Kind | None:
    """Return what a file is by its first 16 bytes; None if nothing that is read."""
    if start.startswith(SIGNATURE):
        return "png"
    if start.startswith(_JPEG):
        return "jpg"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webp"
    return "gif" if start.startswith(GIFS) else None


def walk(content: bytes, *, is_trusted: bool = False, max_pixels: int = MAX_PIXELS) -> Facts:
    """Return what the file's headers say.

    Args:
        content: the whole file.
        is_trusted: its bytes were compared with a digest of ours; a PNG's checksums and the number
            of scans, at the cost of a pass over the file, are not looked at again.
        max_pixels: of the picture; more is refused on the header.

    Raises:
        UnreadableError: it is empty, too large, of no known kind, cut short, or not framed as its
            kind is; for PNG also: a checksum is wrong.
    """
    if not content:
        raise UnreadableError("it is empty")
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableError(f"it has {len(content)} bytes; at most {MAX_FILE_BYTES} are read")
    match kind_of(content[:16]):
        case "png":
            facts: Facts = walk_png(content, is_trusted=is_trusted, max_pixels=max_pixels)
        case "jpg":
            facts = _walk_jpeg(content, is_trusted=is_trusted, max_pixels=max_pixels)
        case "webp":
            facts = _walk_webp(content, max_pixels)
        case "gif":
            facts = walk_gif(content, max_pixels)
        case None:
            raise UnreadableError("it is no PNG, JPEG, WebP or GIF file")
    return facts


def num_pixels(content: bytes, kind: Kind, max_pixels: int) -> int:
    """Return how many pixels a header says there are; 0 if there is none: `walk` says why.

    Raises:
        UnreadableError: they are over `max_pixels`.
    """
    width = height = 0
    if kind == "png" and len(content) >= 24:
        width, height = struct.unpack_from(">II", content, 16)
    elif kind == "gif" and len(content) >= 10:
        width, height = struct.unpack_from("<HH", content, 6)
    elif kind == "webp":
        with suppress(UnreadableError):
            facts = _walk_webp(content, _ANY)
            width, height = facts.width, facts.height
    elif kind == "jpg":
        with suppress(UnreadableError):
            for marker, begin, end in jpeg_segments(content):
                if marker in JPEG_FRAMES and end - begin >= 5:
                    height, width = struct.unpack_from(">HH", content, begin + 1)
                    break
    if width and height:
        check_size(width, height, max_pixels)
    return width * height


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, begin, end) of each segment's body, up to and with the first scan's header.

    Marker and length are the four bytes before the body.
    """
    at, length, read = 2, len(content), _JPEG_SEGMENT.unpack_from
    for _ in range(MAX_PARTS):
        if at + 4 > length:
            raise cut_short("JPEG")
        start, marker, size = read(content, at)
        while start == marker == 0xFF:  # fill bytes
            at += 1
            if at + 4 > length:
                raise cut_short("JPEG")
            start, marker, size = read(content, at)
        if start != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or size < 2:
            raise UnreadableError(f"at byte {at} there is no JPEG segment")
        end = at + 2 + size
        if end > length:
            raise cut_short("JPEG")
        yield marker, at + 4, end
        if marker == _SCAN:
            return
        at = end
    raise UnreadableError(f"it has over {MAX_PARTS} segments")


def _walk_jpeg(content: bytes, *, is_trusted: bool, max_pixels: int) -> JpegFacts:
    """Source: ITU-T T.81, annex B; T.871 (JFIF); T.872, section 6.5.3 (Adobe's marker)."""
    frames, dropped, exif, is_adobe, end = [], [], b"", False, 2
    for marker, begin, end in jpeg_segments(content):
        if marker in JPEG_FRAMES:
            frames.append(content[begin:end])
        elif APP0 <= marker <= _APP15 or marker == _COMMENT:
            is_tagged = marker == _APP14 and content.startswith(b"Adobe", begin)
            is_adobe |= is_tagged
            # These two say what the channels mean.
            if not is_tagged and not (marker == APP0 and content.startswith(b"JFIF\0", begin)):
                dropped.append((begin - 4, end))
            if marker == _APP1 and not exif and content.startswith(b"Exif\0\0", begin):
                exif = content[begin:end]
    if not content.endswith(b"\xff\xd9") and content.find(b"\xff\xd9", end) < 0:
        raise cut_short("JPEG")
    if len(frames) != 1 or len(frames[0]) < 6:
        raise UnreadableError(f"it has {len(frames)} JPEG frame headers; there must be one")
    precision, height, width, channels = struct.unpack_from(">BHHB", frames[0])
    check_size(width, height, max_pixels)
    if precision != 8 or channels not in (1, 3, 4):
        raise UnreadableError(
            f"it is a JPEG of {channels} channels of {precision} bits; 1, 3 or 4 of 8 are read"
        )
    # Each costs a pass over all pixels: fewer of more than 2**24.
    max_scans = min(_MAX_SCANS, _MAX_SCANS * MAX_PIXELS // (width * height))
    if not is_trusted and content.count(b"\xff\xda", end) >= max(max_scans, _MIN_SCANS):
        raise UnreadableError(f"it has over {max(max_scans, _MIN_SCANS)} scans")
    plain: dict[int, Literal[1, 3]] = {1: 1, 3: 3}
    return JpegFacts(
        kind="jpg",
        width=width,
        height=height,
        orientation=orientation_of(exif),
        plain_channels=plain.get(channels),
        is_bare=not dropped and content.endswith(b"\xff\xd9"),
        essence=_without(content, dropped),
        is_adobe=is_adobe,
    )


def _without(content: bytes, parts: list[tuple[int, int]]) -> bytes:
    """Return the content but for these (begin, end), which stand in order."""
    if not parts:
        return content
    kept, at = [], 0
    for begin, end in parts:
        kept.append(content[at:begin])
        at = end
    return b"".join([*kept, content[at:]])


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, begin, end) of each chunk's body."""
    (size,) = struct.unpack_from("<I", content, 4)
    stop = 8 + size
    if stop > len(content):
        raise cut_short("WebP")
    at = 12
    for _ in range(MAX_PARTS):
        if at >= stop:
            return
        if at + 8 > stop:
            raise cut_short("WebP")
        name, size = struct.unpack_from("<4sI", content, at)
        end = at + 8 + size
        if end > stop:
            raise cut_short("WebP")
        yield name, at + 8, end
        at = end + size % 2
    raise UnreadableError(f"it has over {MAX_PARTS} chunks")


def _walk_webp(content: bytes, max_pixels: int) -> WebpFacts:
    """Source: RFC 9649, sections 2 and 3; RFC 6386, section 9.1."""
    sizes: list[tuple[int, int]] = []
    names: list[bytes] = []
    has_alpha, exif, end = False, b"", 12
    for name, begin, end in _webp_chunks(content):
        names.append(name)
        body = content[begin : min(end, begin + 10)].ljust(10, b"\0")
        if name == b"VP8X":
            has_alpha |= bool(body[0] & 0x10)
            sides = int.from_bytes(body[4:7], "little"), int.from_bytes(body[7:10], "little")
            sizes.append((sides[0] + 1, sides[1] + 1))
        elif name == b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            has_alpha |= bool(bits >> 28 & 1)
            sizes.append(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        elif name == b"VP8 ":
            width, height = struct.unpack_from("<HH", body, 6)
            sizes.append((width & 0x3FFF, height & 0x3FFF))
        elif name == b"EXIF" and not exif:
            exif = content[begin:end]
    if names[:1] not in ([b"VP8X"], [b"VP8L"], [b"VP8 "]):
        raise UnreadableError("it does not begin with a WebP picture")
    for size in sizes:
        check_size(*size, max_pixels)
    is_still = names in ([b"VP8L"], [b"VP8 "])
    return WebpFacts(
        kind="webp",
        width=sizes[0][0],
        height=sizes[0][1],
        orientation=orientation_of(exif),
        plain_channels=3 if is_still and not has_alpha else None,
        is_bare=is_still and len(content) - end <= 1,
        essence=content,  # the decoder looks into nothing else by itself
    )
