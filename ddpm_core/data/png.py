"""Images to PNG and back.

The encoder stores pixels uncompressed. What a compressor makes of an image depends on its library
and version (Pillow's wheels bring zlib-ng, a distribution's build zlib), and a shard must be the
same bytes wherever it is made; stored blocks have one spelling. A 32x32 grey image is 1.1 kB so.
"""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 3: 2}  # channels -> greyscale, truecolour
_MAX_STORED_BYTES = 2**16 - 1


def encode(image_u8: NDArray[np.uint8]) -> bytes:
    """Return an image (height, width, 1 or 3 channels) as PNG; the same bytes on every machine.

    Source: PNG specification, third edition; RFC 1950 and 1951 (stored blocks).
    """
    height = image_u8.shape[0]
    # Each row begins with its filter type; 0 leaves the row as it is.
    rows = np.zeros((height, 1 + image_u8[0].size), np.uint8)
    rows[:, 1:] = image_u8.reshape(height, -1)
    pixels = rows.tobytes()
    blocks = [b"\x78\x01"]
    for start in range(0, len(pixels), _MAX_STORED_BYTES):
        block = pixels[start : start + _MAX_STORED_BYTES]
        is_last = start + len(block) == len(pixels)
        blocks.append(struct.pack("<BHH", is_last, len(block), 0xFFFF ^ len(block)) + block)
    blocks.append(struct.pack(">I", zlib.adler32(pixels)))
    return _start(image_u8.shape) + _chunk(b"IDAT", b"".join(blocks)) + _chunk(b"IEND", b"")


def decode(png: bytes, shape: tuple[int, int, int], *, origin: str) -> NDArray[np.uint8]:
    """Return the image in a PNG file, of which the shape is known beforehand.

    Args:
        png: the file.
        shape: (height, width, channels) it must have, 8 bits per channel.
        origin: what to call it in an error.

    Raises:
        DataError: if it has another shape or is damaged; nothing is allocated for another shape.
    """
    start = _start(shape)
    if png[: len(start)] != start:
        raise DataError(
            f"{origin} does not begin as an 8-bit PNG of {shape[1]}x{shape[0]} pixels and "
            f"{shape[2]} channel(s); it begins with {png[: len(start)].hex()}. "
            "Make the data set again"
        )
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            pixels = np.asarray(image, dtype=np.uint8)
    # Pillow reports a broken PNG as any of these, SyntaxError included.
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise DataError(
            f"{origin} is a damaged PNG file: {error}. Make the data set again"
        ) from None
    return pixels.reshape(shape)


def _start(shape: tuple[int, ...]) -> bytes:
    height, width, channels = shape
    return _SIGNATURE + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
