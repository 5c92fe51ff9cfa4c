"""Images to PNG and back.

The encoder stores pixels uncompressed. What a compressor makes of an image depends on its library
and version (Pillow's wheels bring zlib-ng, a distribution's build zlib), and a shard must be the
same bytes wherever it is made; stored blocks have one spelling. A 32x32 grey image is 1.1 kB so.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ddpm_core.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 3: 2}  # channels -> greyscale, truecolour
_MAX_STORED_BYTES = 2**16 - 1
_START_BYTES = 8 + 12 + 13  # the signature and the header's chunk
_END_BYTES = 4 + 12  # the CRC-32 of the pixels' chunk, and the chunk that ends the file


DEPTHS = (np.dtype(np.uint8), np.dtype(np.uint16))
"""data types of the samples that are written and read"""


def encode(image: NDArray[Any]) -> bytes:
    """Return an image (height, width, 1 or 3 channels), uint8 or uint16, as PNG.

    The same bytes on every machine.

    Source: PNG specification, third edition (samples of 16 bits: section 7.1, the high byte
    first); RFC 1950 and 1951 (stored blocks).
    """
    height = image.shape[0]
    samples = np.ascontiguousarray(image, image.dtype.newbyteorder(">"))
    # Each row begins with its filter type; 0 leaves the row as it is.
    rows = np.zeros((height, 1 + samples.nbytes // height), np.uint8)
    rows[:, 1:] = samples.view(np.uint8).reshape(height, -1)
    return of_rows(rows.tobytes(), image.shape, image.dtype)


def of_rows(rows: bytes, shape: tuple[int, ...], dtype: np.dtype[Any] = DEPTHS[0]) -> bytes:
    """Return what `encode` makes of an image whose rows, a byte 0 before each, are these."""
    blocks = [b"IDAT\x78\x01"]
    for start in range(0, len(rows), _MAX_STORED_BYTES):
        block = rows[start : start + _MAX_STORED_BYTES]
        is_last = start + len(block) == len(rows)
        blocks += (struct.pack("<BHH", is_last, len(block), 0xFFFF ^ len(block)), block)
    blocks.append(struct.pack(">I", zlib.adler32(rows)))
    packed = b"".join(blocks)
    size, checksum = struct.pack(">I", len(packed) - 4), struct.pack(">I", zlib.crc32(packed))
    return b"".join((_start(shape, dtype), size, packed, checksum, _END))


def rows_of(content: bytes, shape: tuple[int, int, int]) -> bytes | None:
    """Return the unpacked rows, a byte 0 before each, of a plain, whole PNG of 8 bits.

    None of any other file: one with filtered rows, of another size or several chunks of pixels, or
    one that is damaged, which `decode.decode_image` refuses. All checksums are compared, and that
    there are as many bytes as the picture has: what this takes, it takes, as the same pixels.

    Args:
        content: the whole file.
        shape: (height, width, channels) that it must have.

    Source: PNG specification, third edition, sections 5 and 11.
    """
    start = _start(shape, DEPTHS[0])
    begin, end = len(start) + 4, len(content) - _END_BYTES
    if not (content.startswith(start) and content.endswith(_END)):
        return None
    size, name = struct.unpack_from(">I4s", content, len(start))
    if name != b"IDAT" or size != end - begin - 4:
        return None
    if zlib.crc32(memoryview(content)[begin:end]) != int.from_bytes(content[end : end + 4], "big"):
        return None
    num_bytes = shape[0] * (1 + shape[1] * shape[2])
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(content[begin + 4 : end], num_bytes + 1)
    except zlib.error:
        return None
    is_whole = unpacker.eof and not unpacker.unused_data and len(rows) == num_bytes
    is_plain = rows[:: num_bytes // shape[0]].count(0) == shape[0]
    return rows if is_whole and is_plain else None


def pixels_of(rows: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return (height, width, channels) of what `rows_of` returns for this shape."""
    samples = np.frombuffer(rows, np.uint8).reshape(shape[0], -1)[:, 1:]
    return samples.reshape(shape)


def stored_bytes(shape: tuple[int, int, int], dtype: DTypeLike = np.uint8) -> int:
    """Return the length of the file that `encode` makes of an image (height, width, channels)."""
    num_bytes = shape[0] * (1 + shape[1] * shape[2] * np.dtype(dtype).itemsize)
    num_blocks = -(-num_bytes // _MAX_STORED_BYTES)
    zlib_bytes = 2 + 5 * num_blocks + num_bytes + 4
    return _START_BYTES + 8 + zlib_bytes + _END_BYTES


def decode_stored(
    files: NDArray[np.uint8], shape: tuple[int, int, int], dtype: DTypeLike = np.uint8
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the pixels of many files at once that are laid out as `encode` does it.

    No checksum is looked at: for files out of a shard whose SHA-256 was.

    Args:
        files: (n, stored_bytes(shape, dtype)), a file in each row.
        shape: (height, width, channels) of every image.
        dtype: of its samples.

    Returns:
        The pixels, (n, height, width, channels), perhaps a view of `files`; and which rows are
        of that layout, (n,): the pixels of the others mean nothing.
    """
    height, width, channels = shape
    kind = np.dtype(dtype)
    row_bytes = width * channels * kind.itemsize
    template, is_pixel, first = _template(shape, kind)
    size = height * (1 + row_bytes)
    if size <= _MAX_STORED_BYTES:  # one block, so that the pixels lie together
        rows = files[:, first : first + size]
        is_fixed = files[:, :first] == template[:first]
    else:
        rows = files[:, is_pixel]
        is_fixed = files[:, ~is_pixel] == template[~is_pixel]
        is_fixed[:, -4 - _END_BYTES :] = True  # Adler-32 comes before
    rows = rows.reshape(len(files), height, 1 + row_bytes)
    fits: NDArray[np.bool_] = is_fixed.all(axis=1) & (rows[:, :, 0] == 0).all(axis=1)
    samples = rows[:, :, 1:]
    if kind.itemsize > 1:
        samples = np.ascontiguousarray(samples).view(kind.newbyteorder(">")).astype(kind)
    return samples.reshape(len(files), *shape), fits


def checksums_fit(file: bytes | memoryview) -> bool:
    """Say whether a file of `stored_bytes` has the CRC-32 of one that `encode` made."""
    start = _START_BYTES + 4  # the chunk's name, which its checksum covers, comes after its length
    end = len(file) - _END_BYTES
    return zlib.crc32(memoryview(file)[start:end]) == int.from_bytes(file[end : end + 4], "big")


@cache
def _template(
    shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], int]:
    """Return the file of a black image, which of its bytes are rows, and where those begin."""
    size = shape[0] * (1 + shape[1] * shape[2] * dtype.itemsize)
    black = encode(np.zeros(shape, dtype))
    is_pixel = np.zeros(len(black), np.bool_)
    # Before the first block: what the file begins with, the chunk's length and name, zlib's header.
    at = first = len(_start(shape, dtype)) + 8 + 2 + 5
    for start in range(0, size, _MAX_STORED_BYTES):
        stop = at + min(_MAX_STORED_BYTES, size - start)
        is_pixel[at:stop] = True
        at = stop + 5
    return np.frombuffer(black, np.uint8), is_pixel, first


def decode(
    png: bytes,
    shape: tuple[int, int, int],
    *,
    origin: str,
    depths: Sequence[np.dtype[Any]] = DEPTHS[:1],
) -> NDArray[Any]:
    """Return the image in a PNG file, of which the shape is known beforehand.

    Args:
        png: the file.
        shape: (height, width, channels) it must have.
        origin: what to call it in an error.
        depths: data types, of which it must have one.

    Raises:
        DataError: if it has another shape or is damaged; nothing is allocated for another shape.
    """
    found = [depth for depth in depths if png.startswith(_start(shape, depth))]
    if not found:
        bits = " or ".join(str(8 * depth.itemsize) for depth in depths)
        raise DataError(
            f"{origin} does not begin as a PNG of {bits} bits, {shape[1]}x{shape[0]} pixels and "
            f"{shape[2]} channel(s); it begins with {png[: len(_start(shape, depths[0]))].hex()}. "
            "Run the stage that makes it again"
        )
    if shape[2] == 3 and found[0].itemsize > 1:
        raise DataError(
            f"{origin} is a PNG of 16 bits and 3 channels, of which 8 would be read: 16 are kept "
            "of grey images alone. Run the stage that makes it again"
        )
    # Only here: an index is read by commands that have no Pillow, and says how long a file is.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            pixels = np.asarray(image, dtype=found[0])
    # Pillow reports a broken PNG as any of these, SyntaxError included.
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise DataError(
            f"{origin} is a damaged PNG file: {error}. Run the stage that makes it again"
        ) from None
    return pixels.reshape(shape)


@lru_cache(maxsize=64)
def _start(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    height, width, channels = shape
    about = (8 * dtype.itemsize, _COLOR_TYPES[channels], 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *about))


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


_END = _chunk(b"IEND", b"")
