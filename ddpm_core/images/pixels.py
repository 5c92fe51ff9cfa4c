"""The pixels of an image file as red, green, blue or grey, 8 bits each, whatever it stores.

Pillow decompresses; what the samples mean is said here, in whole numbers, and so is the same with
every version of it. `decode` has the table.
"""

import io
import struct
import zlib
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ddpm_core.images import fast_jpeg
from ddpm_core.images.background import Color, from_palette, on_background, strips
from ddpm_core.images.image_facts import (
    MAX_PIXELS,
    NAMES,
    Facts,
    GifFacts,
    JpegFacts,
    Kind,
    PngFacts,
    UnreadableError,
    WebpFacts,
)

Sample = TypeVar("Sample", bound=np.integer[Any])

# The classes, not `Image.open`: it would try whatever plugins are loaded, and read a JPEG with two
# pictures in it by the offsets in its metadata.
_OPENERS: dict[Kind, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpg": JpegImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
}
# Pillow reports a broken file as any of these.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,
)
_MAX_DIVISOR = 8  # what the decoders of JPEG can leave out of each block of 8x8


def stored(facts: Facts, mode: str, samples: str = "", *, divisor: int = 1) -> NDArray[np.uint8]:
    """Return the samples as the file stores them, in one of Pillow's modes.

    Args:
        facts: of the file.
        mode: the mode that its header promises.
        samples: Pillow's raw mode to unpack with, where it is not to choose.
        divisor: 1, 2, 4 or 8: of a JPEG, by which its sides are divided (rounded up) while it is
            decoded.

    Raises:
        UnreadableError: the pixels are damaged, or are not what the header says.
    """
    try:
        if isinstance(facts, PngFacts) and facts.packed and not samples:
            # What it is was found out before: Pillow takes more than half of its time for that.
            size = (facts.width, facts.height)
            image = Image.frombytes(mode, size, facts.packed, "zip", mode)
            shape = (facts.height, facts.width) if mode == "L" else (facts.height, facts.width, 3)
            return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)
        opened = _OPENERS[facts.kind](io.BytesIO(facts.essence))
        if divisor > 1:
            opened.draft(None, (facts.width // divisor, facts.height // divisor))
        if samples:
            opened.tile = [opened.tile[0]._replace(args=samples)]
        pixels = np.asarray(opened)
    except PILLOW_ERRORS:
        raise UnreadableError(
            f"its pixels are damaged: the {NAMES[facts.kind]} file says {facts.width}x"
            f"{facts.height}, and they cannot be decoded"
        ) from None
    if opened.mode != mode:
        raise UnreadableError(f"its pixels are {opened.mode}, its header says {mode}")
    return pixels


def plain_pixels(facts: Facts, background: Color, *, min_side: int = 0) -> NDArray[np.uint8]:
    """Return (height, width, 1 or 3): grey where the file has no colour, else red, green, blue.

    Transparent pixels are put on `background`, which may give a grey file colours. The image is
    upright. A JPEG of over 2**24 pixels comes with its sides divided by 2, 4 or 8.

    Args:
        facts: of the file.
        background: red, green, blue.
        min_side: pixels that each side keeps when it is divided.

    Raises:
        UnreadableError: as `stored`.
    """
    divisor = 1
    match facts:
        case PngFacts():
            pixels = _png(facts, background)
        case JpegFacts():
            divisor = _divisor(facts, min_side)
            pixels = _jpeg(facts, divisor)
        case GifFacts():
            pixels = _gif(facts, background)
        case WebpFacts():
            pixels = _webp(facts, background)
        case _:
            raise TypeError(type(facts))
    if pixels.shape[:2] != (-(-facts.height // divisor), -(-facts.width // divisor)):
        raise UnreadableError(
            f"it has {pixels.shape[1]}x{pixels.shape[0]} pixels, its header says {facts.width}x"
            f"{facts.height}"
        )
    return upright(pixels, facts.orientation)


def _divisor(facts: Facts, min_side: int) -> int:
    """Return the least of 1, 2, 4, 8 that leaves at most 2**24 pixels, and sides of `min_side`."""
    divisor = 1
    while (
        divisor < _MAX_DIVISOR
        and facts.width * facts.height > MAX_PIXELS * divisor**2
        and min(facts.width, facts.height) >= max(min_side, 1) * 2 * divisor
    ):
        divisor *= 2
    return divisor


def upright(pixels: NDArray[Sample], orientation: int) -> NDArray[Sample]:
    """Return the image turned by EXIF's orientation, 1..8.

    Source: EXIF 2.32, table 4: which side of the picture the stored row 0 and column 0 are.
    """
    if orientation >= 5:  # stored columns are the picture's rows
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):  # row 0 is at the bottom
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):  # column 0 is at the right
        pixels = pixels[:, ::-1]
    return pixels


def as_grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the luma (height, width, 1): 0.299 red + 0.587 green + 0.114 blue, rounded.

    Source: ITU-R BT.601, in the 16-bit fixed point that Pillow's convert("L") has.
    """
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))[..., np.newaxis]


def _png(facts: PngFacts, background: Color) -> NDArray[np.uint8]:
    """Source: PNG specification, third edition, sections 11.2.1 and 11.3.1.1."""
    samples: NDArray[np.integer[Any]]
    match facts.color_type, facts.bit_depth:
        case 3, _:
            alpha = np.frombuffer(facts.transparency or b"", np.uint8)
            return from_palette(stored(facts, "P"), facts.palette, alpha, background)
        case 0, 16:
            samples = stored(facts, "I;16")[..., np.newaxis]
        case 0, 1:
            samples = stored(facts, "1")[..., np.newaxis] * np.uint8(255)
        case 0, _:
            samples = stored(facts, "L")[..., np.newaxis]
        case 2, 16:
            samples = _wide(facts, "RGB")
        case 2, _:
            samples = stored(facts, "RGB")
        case 4, 16:
            halves = stored(_four_bytes_a_pixel(facts), "RGBA").astype(np.uint16)
            samples = halves[..., ::2] << 8 | halves[..., 1::2]
        case 4, _:
            samples = stored(facts, "LA")
        case 6, 16:
            samples = _wide(facts, "RGBA")
        case _:
            samples = stored(facts, "RGBA")
    if facts.color_type >= 4:
        samples = eight_bits(samples)
        return on_background(samples[..., :-1], samples[..., -1], background)
    if facts.transparency is None:
        return eight_bits(samples)
    key = _transparent_color(facts, samples.shape[2])
    opaque = (samples != key).any(axis=2) * np.uint8(255)
    return on_background(eight_bits(samples), opaque, background)


def _wide(facts: PngFacts, mode: str) -> NDArray[np.uint16]:
    """Return 16-bit colours; Pillow gives either of their bytes, so it is called twice."""
    high = stored(facts, mode, f"{mode};16B").astype(np.uint16)
    high <<= 8
    high |= stored(facts, mode, f"{mode};16L")  # low bytes: the file's are the other way round
    return high


def _four_bytes_a_pixel(facts: PngFacts) -> PngFacts:
    """Return a 16-bit grey PNG with alpha as the 8-bit PNG of four channels with the same bytes."""
    header = b"IHDR" + struct.pack(
        ">IIBBBBB", facts.width, facts.height, 8, 6, 0, 0, facts.essence[28]
    )
    checksum = struct.pack(">I", zlib.crc32(header))
    values = {**vars(facts), "essence": facts.essence[:12] + header + checksum + facts.essence[33:]}
    return PngFacts(**values)


def eight_bits(samples: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return 0..65535 as 0..255: v / 257, rounded (257 is odd: there are no ties).

    Samples of 8 bits are returned as they are.
    """
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    eight = np.empty(samples.shape, np.uint8)
    for rows in strips(samples):
        eight[rows] = (samples[rows].astype(np.uint32) + 128) // 257
    return eight


def _transparent_color(facts: PngFacts, channels: int) -> NDArray[np.uint16]:
    """Return the colour that tRNS names, in the units of the samples as they were unpacked."""
    if len(facts.transparency or b"") != 2 * channels:
        raise UnreadableError("its transparent colour (tRNS) has not as many channels as it")
    key = np.frombuffer(facts.transparency or b"", ">u2").astype(np.uint16)
    if facts.bit_depth < 8:
        key *= np.uint16(255 // (2**facts.bit_depth - 1))
    return key


def _jpeg(facts: JpegFacts, divisor: int) -> NDArray[np.uint8]:
    if facts.plain_channels is not None and divisor == 1 and not facts.is_adobe:
        shape = (facts.height, facts.width, facts.plain_channels)
        if (found := fast_jpeg.pixels(facts.essence, shape)) is not None:
            return found
    if facts.plain_channels == 1:
        return stored(facts, "L", divisor=divisor)[..., np.newaxis]
    if facts.plain_channels == 3:
        return stored(facts, "RGB", divisor=divisor)
    inks = stored(facts, "CMYK", divisor=divisor)
    # Pillow takes all four channels for inverted ones, as Adobe stores them. Ink absorbs.
    light = 255 - inks if facts.is_adobe else inks
    rgb = np.empty((*light.shape[:2], 3), np.uint8)
    for rows in strips(light):
        color, black = light[rows][..., :3].astype(np.uint32), light[rows][..., 3:]
        rgb[rows] = (color * black + 127) // 255
    return rgb


def _gif(facts: GifFacts, background: Color) -> NDArray[np.uint8]:
    """Return the first frame; what it leaves out of the screen is background."""
    # A palette of greys 0, 1, 2, ... makes it Pillow's "L": the same numbers.
    is_grey = facts.palette == bytes(n // 3 for n in range(len(facts.palette)))
    alpha = np.full(len(facts.palette) // 3, 255, np.uint8)
    if facts.transparent is not None and facts.transparent < len(alpha):
        alpha[facts.transparent] = 0
    entries = stored(facts, "L" if is_grey else "P")
    frame = from_palette(entries, facts.palette, alpha, background)
    screen = np.empty((facts.height, facts.width, 3), np.uint8)
    screen[:] = background
    screen[facts.top :, facts.left :][: frame.shape[0], : frame.shape[1]] = frame
    return screen


def _webp(facts: WebpFacts, background: Color) -> NDArray[np.uint8]:
    if facts.plain_channels == 3:
        return stored(facts, "RGB")
    try:
        rgba = stored(facts, "RGBA")
    except UnreadableError:
        return stored(facts, "RGB")  # an animation may do without alpha
    return on_background(rgba[..., :3], rgba[..., 3], background)
