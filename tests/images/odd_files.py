"""Image files for the tests, of kinds that Pillow does not write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def chunk(name, content):
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png_file(samples, *, color_type, bit_depth=8, before=b"", after=b"", size=None):
    """Return a PNG of rows of samples, as `before` (chunks) describes them.

    `samples` is (height, width) or (height, width, channels), each a number of `bit_depth` bits.
    """
    samples = np.asarray(samples)
    height, width = size or samples.shape[:2]
    rows = []
    for row in samples:
        if bit_depth == 16:
            packed = row.astype(">u2").tobytes()
        else:
            bits = np.unpackbits(row.reshape(-1, 1).astype(np.uint8), axis=1)[:, -bit_depth:]
            packed = np.packbits(bits).tobytes()
        rows.append(b"\0" + packed)
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + after
        + chunk(b"IEND", b"")
    )


def pillow_file(pixels, kind, *, mode=None, **options):
    """Return what Pillow makes of (height, width[, channels]) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.squeeze(pixels), mode).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    """Return an EXIF block that says nothing else."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + b"MM\0\x2a" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def gif_file(entries, palette, *, screen=None, corner=(0, 0), transparent=None):
    """Return a GIF of one frame, (height, width) palette entries below 128.

    The codes are those of LZW that never compresses: a clear code after every pixel.
    """
    height, width = entries.shape
    rows, columns = screen or entries.shape
    bits, clear = 7, 128
    codes = [code for entry in entries.ravel().tolist() for code in (clear, entry)] + [clear + 1]
    number = sum(code << (bits + 1) * place for place, code in enumerate(codes))
    data = number.to_bytes((len(codes) * (bits + 1) + 7) // 8, "little")
    blocks = [data[at : at + 255] for at in range(0, len(data), 255)]
    table = np.zeros((128, 3), np.uint8)
    table[: len(palette)] = palette
    control = b""
    if transparent is not None:
        control = b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    return (
        struct.pack("<6sHHBBB", b"GIF89a", columns, rows, 0x80 | bits - 1, 0, 0)
        + table.tobytes()
        + control
        + struct.pack("<BHHHHBB", 0x2C, corner[1], corner[0], width, height, 0, bits)
        + b"".join(bytes([len(block)]) + block for block in blocks)
        + b"\0\x3b"
    )


def segment(marker, body):
    """Return a segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
