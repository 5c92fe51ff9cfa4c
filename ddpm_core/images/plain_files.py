"""The pixels of plain PNG and JPEG files of a known size, in as few steps as Python can.

Of the time that Pillow takes for a file of 32x32 pixels more than half goes to finding out what it
is, making an image for it, and copying that. A shard says what its files are: here the few bytes
that could say otherwise are compared, and the rest is given to Pillow's decoders as it is, which
put many files into one picture, one below the other.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.images import fast_jpeg
from ddpm_core.images.image_facts import UnreadableError
from ddpm_core.images.image_walk import APP0, JPEG_FRAMES, jpeg_segments, kind_of
from ddpm_core.images.pixels import PILLOW_ERRORS
from ddpm_core.images.png_walk import chunks

_MODES = {1: "L", 3: "RGB"}
_PNG_COLOR_TYPES = {1: 0, 3: 2}
_PICTURE_BYTES = 2**20  # so that it stays in a core's cache
_PILLOW_BYTES = 4  # of a pixel, as Pillow holds colours
_OPTIONS: dict[str, tuple[str, ...]] = {"jpeg": ("",), "zip": ()}
_ALL_THERE = (-1, 0)  # what its decoders return at the end of an image
_PACKED = 1  # and its encoder, when all has been given


def decode_plain(files: Sequence[bytes], out: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Decode those files that are PNG or JPEG and hold their pixels plainly.

    A file that does not, is of another size or is damaged is left to the slow way, which says what
    is wrong. Nothing is allocated for another size.

    Args:
        files: n whole files, whose digest was compared: a PNG's checksums are not looked at.
        out: (n, height, width, 1 or 3), to be filled.

    Returns:
        Which were decoded, (n,); the pixels of the others mean nothing.
    """
    done = np.zeros(len(files), np.bool_)
    _, height, width, channels = out.shape
    fast = fast_jpeg.decoder()
    tasks: list[tuple[int, str, bytes]] = []
    for number, content in enumerate(files):
        kind = kind_of(content[:16])
        try:
            if kind == "png":
                if packed := _png_pixels(content, (height, width, channels)):
                    tasks.append((number, "zip", packed))
            elif kind == "jpg":
                frame = _jpeg_frame(content, (height, width, channels))
                if frame is None:
                    continue
                if fast is not None and fast_jpeg.is_known(frame):
                    done[number] = fast(content, out[number])
                if not done[number]:
                    tasks.append((number, "jpeg", content))
        except (UnreadableError, struct.error, IndexError):
            continue
    at_once = max(1, _PICTURE_BYTES // (height * width * _PILLOW_BYTES))
    for start in range(0, len(tasks), at_once):
        part = tasks[start : start + at_once]
        numbers = [number for number, _, _ in part]
        if (found := _decoded(part, (height, width, channels))) is not None:
            out[numbers], done[numbers] = found
    return done


def _decoded(
    tasks: list[tuple[int, str, bytes]], shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], list[bool]] | None:
    """Return the pixels of files, (n, *shape), and which of them are there.

    None if Pillow has no such decoders: they are what `Image.frombytes` and `tobytes` call, and
    another version may call others.
    """
    height, width, channels = shape
    mode, num_bytes, are_there = _MODES[channels], len(tasks) * height * width * channels, []
    core: Any = vars(Image)["core"]
    try:
        picture = core.new(mode, (width, len(tasks) * height))
        for row, (_, name, content) in enumerate(tasks):
            decoder = getattr(core, f"{name}_decoder")(mode, mode, *_OPTIONS[name])
            decoder.setimage(picture, (0, row * height, width, (row + 1) * height))
            try:
                are_there.append(decoder.decode(content) == _ALL_THERE)
            except PILLOW_ERRORS:
                are_there.append(False)
        packer = core.raw_encoder(mode, mode, 0, 1)
        packer.setimage(picture, (0, 0, width, len(tasks) * height))
        # A row more: it is done when there is room left.
        _, status, packed = packer.encode(num_bytes + width * channels)
    except (AttributeError, *PILLOW_ERRORS):
        return None
    if status != _PACKED or len(packed) != num_bytes:
        return None
    return np.frombuffer(packed, np.uint8).reshape(len(tasks), *shape), are_there


def _png_pixels(content: bytes, shape: tuple[int, int, int]) -> bytes | None:
    """Return the compressed rows if they are not interlaced and mean what they say.

    Source: PNG specification, third edition, section 11.
    """
    height, width, channels = shape
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOR_TYPES[channels], 0, 0, 0)
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


def _jpeg_frame(content: bytes, shape: tuple[int, int, int]) -> bytes | None:
    """Return the frame's marker and header, if it has this shape and nothing else is to be known.

    Source: ITU-T T.81, annex B. That there is one frame the decoder sees to.
    """
    height, width, channels = shape
    frame = None
    for marker, begin, end in jpeg_segments(content):
        if marker in JPEG_FRAMES:
            if struct.unpack_from(">BHHB", content, begin) != (8, height, width, channels):
                return None
            frame = content[begin - 3 : end]
        # Exif may turn it, and Adobe's says what the channels mean.
        elif marker >= APP0 and content.startswith((b"Exif", b"Adobe"), begin):
            return None
    return frame
