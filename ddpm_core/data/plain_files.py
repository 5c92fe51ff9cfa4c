"""The pixels of plain PNG and JPEG files of a known size, in as few steps as Python can.

Of the time that Pillow takes for a file of 32x32 pixels more than half goes to finding out what it
is. A shard says what its files are: here the few bytes that could say otherwise are compared, and
the rest is given to Pillow's decoders as it is.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.data.image_facts import Kind

# PNG: signature, then chunks. Source: PNG specification, third edition, sections 5 and 11.
_PNG_COLOR_TYPES = {"L": 0, "RGB": 2}
_PNG_START = 8
# JPEG: markers before the first scan. Source: ITU-T T.81, annex B.
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_JPEG_TABLES = (0xDB, 0xC4, 0xDD)  # quantisation, Huffman codes, restart interval
_JPEG_SCAN = 0xDA
_JPEG_CHANNELS = {"L": 1, "RGB": 3}
# Pillow and what is under it report a broken file as any of these.
_ERRORS = (OSError, ValueError, LookupError, struct.error, zlib.error, RuntimeError)


def plain_file_pixels(
    content: bytes, kind: Kind | None, size: tuple[int, int], mode: str
) -> NDArray[np.uint8] | None:
    """Return the pixels, flat, of a PNG or JPEG that holds them plainly; None for all other files.

    None also if it is damaged: then the slow way says what is wrong. Nothing is allocated for
    another size.

    Args:
        content: the whole file, whose digest was compared: a PNG's checksums are not looked at.
        kind: of the file.
        size: (width, height) that it must have.
        mode: "L" or "RGB", 8 bits each.
    """
    try:
        if kind == "png":
            packed = _png_pixels(content, size, mode)
            image = Image.frombytes(mode, size, packed, "zip", mode) if packed else None
        elif kind == "jpg" and _is_plain_jpeg(content, size, mode):
            image = Image.frombytes(mode, size, content, "jpeg", mode, "")
        else:
            image = None
        return None if image is None else np.frombuffer(image.tobytes(), np.uint8)
    except _ERRORS:
        return None


def _png_pixels(content: bytes, size: tuple[int, int], mode: str) -> bytes | None:
    """Return the compressed rows if they are not interlaced and mean what they say."""
    header = struct.pack(">IIBBBBB", *size, 8, _PNG_COLOR_TYPES[mode], 0, 0, 0)
    at, parts, is_first = _PNG_START, [], True
    while True:
        length, name = struct.unpack_from(">I4s", content, at)
        begin, end = at + 8, at + 8 + length
        if is_first:
            if name != b"IHDR" or content[begin:end] != header:
                return None
            is_first = False
        elif name == b"IDAT":
            parts.append(content[begin:end])
        elif name == b"IEND":
            return b"".join(parts)
        # Transparency, orientation, a palette, or what nobody may leave out.
        elif name in (b"tRNS", b"eXIf") or not name[:1].islower():
            return None
        at = end + 4


def _is_plain_jpeg(content: bytes, size: tuple[int, int], mode: str) -> bool:
    at, num_frames = 2, 0
    while True:
        start, marker, length = struct.unpack_from(">BBH", content, at)
        if start != 0xFF:
            return False
        if marker in _JPEG_FRAMES:
            frame = struct.unpack_from(">BHHB", content, at + 4)
            if frame != (8, size[1], size[0], _JPEG_CHANNELS[mode]):
                return False
            num_frames += 1
        elif marker == _JPEG_SCAN:
            return num_frames == 1
        elif 0xE0 <= marker <= 0xEF:
            # Exif may turn it, and Adobe's says what the channels mean.
            if content.startswith((b"Exif", b"Adobe"), at + 4):
                return False
        elif marker not in _JPEG_TABLES and marker != 0xFE:
            return False
        at += 2 + length
