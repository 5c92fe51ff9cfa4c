"""The pixels of plain PNG and JPEG files of a known size, in as few steps as Python can.

Of the time that Pillow takes for a file of 32x32 pixels more than half goes to finding out what it
is. A shard says what its files are: here the few bytes that could say otherwise are compared, and
the rest is given to Pillow's decoders as it is.
"""

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.images.image_facts import Kind, UnreadableError
from ddpm_core.images.image_walk import APP0, JPEG_FRAMES, jpeg_segments
from ddpm_core.images.pixels import PILLOW_ERRORS
from ddpm_core.images.png_walk import chunks

_PNG_COLOR_TYPES = {"L": 0, "RGB": 2}
_JPEG_CHANNELS = {"L": 1, "RGB": 3}


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
    except (UnreadableError, *PILLOW_ERRORS):
        return None


def _png_pixels(content: bytes, size: tuple[int, int], mode: str) -> bytes | None:
    """Return the compressed rows if they are not interlaced and mean what they say.

    Source: PNG specification, third edition, section 11.
    """
    header = struct.pack(">IIBBBBB", *size, 8, _PNG_COLOR_TYPES[mode], 0, 0, 0)
    parts, num_headers = [], 0
    for name, begin, end in chunks(content, is_trusted=True):
        if name == b"IHDR":
            if content[begin:end] != header:
                return None
            num_headers += 1
        elif name == b"IDAT":
            parts.append(content[begin:end])
        # Transparency, orientation, a palette, or what nobody may leave out.
        elif name in (b"tRNS", b"eXIf") or (not name[:1].islower() and name != b"IEND"):
            return None
    return b"".join(parts) if num_headers == 1 else None


def _is_plain_jpeg(content: bytes, size: tuple[int, int], mode: str) -> bool:
    """Source: ITU-T T.81, annex B. That there is one frame the decoder sees to."""
    expected = (8, size[1], size[0], _JPEG_CHANNELS[mode])
    for marker, begin, _ in jpeg_segments(content):
        if marker in JPEG_FRAMES:
            if struct.unpack_from(">BHHB", content, begin) != expected:
                return False
        # Exif may turn it, and Adobe's says what the channels mean.
        elif marker >= APP0 and content.startswith((b"Exif", b"Adobe"), begin):
            return False
    return True
