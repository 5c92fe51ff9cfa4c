"""Image files to pixels of one size: which files are read, and what becomes of each kind.

PNG, JPEG, WebP and GIF are read (the first picture of an animation), at most 128 MiB and
`max_pixels` each, and nothing else. A JPEG of over 2**24 pixels is decoded at a half, a quarter or
an eighth of its sides, the others whole. In order:

| stored | becomes |
| --- | --- |
| grey of 1, 2 or 4 bits | 8 bits: v * 255, 85 or 17 |
| 16 bits | 8 bits: v / 257, rounded; before anything else is done with it (`depth` 16 keeps grey) |
| palette | its colours; an entry that the palette has not is an error |
| alpha, a transparent colour or palette entry | (a * colour + (255 - a) * background) / 255 |
| the part of the screen that a GIF's first frame leaves out | background |
| CMYK, YCCK (JPEG) | red = (255 - cyan) * (255 - black) / 255, and so on |
| EXIF orientation, in JPEG, PNG or WebP | mirrored and turned upright |
| grey where colour is wanted | three equal channels |
| colour where grey is wanted | luma of ITU-R BT.601 |
| ICC profile, gamma, text, time, EXIF | dropped: the numbers are taken for sRGB |

All divisions are rounded to the nearest. Then the largest rectangle of the wanted shape is cut
out of the middle (an odd rest goes below and to the right), and resized; nothing is resized that
has the size already.

PNG is checksummed, and every changed bit of it is found. JPEG, WebP and GIF are not: of them it is
found that they are cut short, or cannot be decoded.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images.image_facts import (
    MAX_FILE_BYTES,
    MAX_MEMBER_BYTES,
    MAX_PIXELS,
    NAMES,
    Facts,
    Kind,
    PngFacts,
    UnreadableError,
)
from ddpm_core.images.image_facts import BadImageError as BadImageError
from ddpm_core.images.image_walk import kind_of, num_pixels, walk
from ddpm_core.images.pixels import as_grey, plain_pixels, stored, upright
from ddpm_core.images.resize import center_box, resized

_EXTENSIONS: dict[str, Kind] = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".jpe": "jpg",
    ".jfif": "jpg",
    ".webp": "webp",
    ".gif": "gif",
}
_MODES = {1: "L", 3: "RGB"}
_ALWAYS_BYTES = 2**25
TOO_SMALL = "it is smaller than data.min_side"
"""how the reason begins for which an image is left out by its size: it is none that is bad"""
_NOT_GREY = (
    "it is a 16-bit PNG with colour or transparency, and data.depth=16 keeps grey ones "
    "without; data.depth=8 reads it with 8 bits"
)


@dataclass(frozen=True)
class Shaping:
    """What every image is made into."""

    height: int
    width: int
    channels: Literal[1, 3]
    crop: Literal["center", "none"]
    """none: an image of another shape (height : width) is refused"""
    resize: Literal["box", "lanczos"]
    """box: the mean over the area of each pixel; lanczos: Pillow's, sharper"""
    background: tuple[int, int, int]
    """red, green, blue, 0..255, behind what is transparent"""
    depth: Literal[8, 16] = 8
    """bits of each sample; 16: of one channel, not with lanczos"""
    min_side: int = 1
    """pixels that the shorter side of an original has at least; smaller ones are refused"""


def decode_image(
    content: bytes, shaping: Shaping, *, origin: str, max_pixels: int = MAX_PIXELS
) -> NDArray[Any]:
    """Return (height, width, channels) of an image file; the same bytes on every machine.

    uint8, or with depth=16 uint16: then samples of 8 bits are taken times 257.

    Args:
        content: the whole file.
        shaping: size, channels and how to get there.
        origin: what to call the file in an error.
        max_pixels: that it may have; what is allowed beyond 2**24 changes nothing of other files.

    Raises:
        BadImageError: it is no image that is read, is damaged, too large or too small, or with
            crop="none" of another shape.
    """
    try:
        facts = walk(content, max_pixels=max_pixels)
        _require_side(facts, shaping.min_side)
        # Sides that are divided may lose the shape that crop="none" requires: then none is.
        wanted = max(shaping.height, shaping.width) if shaping.crop == "center" else MAX_PIXELS
        if shaping.depth == 16 and isinstance(facts, PngFacts) and facts.bit_depth == 16:
            pixels: NDArray[Any] = _deep(facts)
        else:
            pixels = plain_pixels(facts, shaping.background, min_side=wanted)
        pixels = _cropped(pixels, shaping)
    except UnreadableError as error:
        raise BadImageError(origin, str(error)) from None
    if shaping.channels == 1 and pixels.shape[2] == 3:
        pixels = as_grey(pixels)
    if shaping.depth == 16 and pixels.dtype == np.uint8:
        pixels = pixels * np.uint16(257)
    pixels = resized(pixels, (shaping.height, shaping.width), shaping.resize)
    if shaping.channels == 3 and pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    return np.ascontiguousarray(pixels)


def _require_side(facts: Facts, min_side: int) -> None:
    if min(facts.height, facts.width) < min_side:
        sides = f"{facts.height}x{facts.width}"
        raise UnreadableError(f"{TOO_SMALL}={min_side}: it has {sides} pixels")


def kept_as_is(content: bytes, shaping: Shaping) -> str | None:
    """Return "jpg", "png" or "webp" if the file already is what `decode_image` would make of it.

    Then `decode_exact` gives the same pixels, and a shard may hold the file as it came: of the
    right size, upright, 8-bit grey or colour as wanted, with no alpha and with no metadata.
    Returns None for everything else, damaged files too; that the pixels can be decoded is not said.
    """
    if len(content) > MAX_MEMBER_BYTES:
        return None
    try:
        facts = walk(content)
    except UnreadableError:
        return None
    is_wanted = facts.plain_channels == shaping.channels and facts.is_bare
    if is_wanted and (facts.height, facts.width) == (shaping.height, shaping.width):
        return facts.kind
    return None


def decode_exact(content: bytes, shape: tuple[int, int, int], *, origin: str) -> NDArray[np.uint8]:
    """Return the image in a PNG, JPEG or WebP file that is (height, width, channels) already.

    Args:
        content: the whole file, out of a shard whose digest was checked.
        shape: what it must have, in 8 bits, upright and without alpha.
        origin: what to call the file in an error.

    Raises:
        DataError: it is something else, or is damaged; nothing is allocated for another shape.
    """
    try:
        facts = walk(content, is_trusted=True)
        _require(facts, shape)
        return stored(facts, _MODES[shape[2]]).reshape(shape)
    except UnreadableError as error:
        raise DataError(f"{origin} cannot be used: {error}. Make the data set again") from None


def is_deep(content: bytes) -> bool:
    """Say whether a file stores more than 8 bits for each sample, of which 8 are kept."""
    return kind_of(content[:16]) == "png" and content[24:25] == b"\x10"


def first_look(
    content: bytes, name: str, max_pixels: int, *, depth: int = 8
) -> tuple[str | None, str | None]:
    """Return (what is wrong with a file by its headers, what is out of the ordinary about it).

    Both None for most. What is out of the ordinary is read all the same, and was refused by earlier
    versions: it takes part in the digest of the collection, so that data sets of the same images
    without such a file keep the digest that they have.

    Args:
        content: the whole file; whether its pixels can be decoded is not looked at.
        name: its file name; its kind does not follow from it.
        max_pixels: that it may have.
        depth: bits of each sample that are to be kept; 16 keeps those of grey files only.
    """
    if not content:
        return "it is empty", None
    if len(content) > MAX_FILE_BYTES:
        return f"it has {len(content)} bytes; at most {MAX_FILE_BYTES} are read", None
    kind = kind_of(content[:16])
    if kind is None:
        return "it is no PNG, JPEG, WebP or GIF file", None
    try:
        pixels = num_pixels(content, kind, max_pixels)
    except UnreadableError as error:
        return str(error), None
    named = _EXTENSIONS.get("." + name.rpartition(".")[2].lower())
    if named not in (None, kind):
        return None, f"{NAMES[kind]} files that are named as another kind"
    if pixels > MAX_PIXELS:
        return None, f"images of over {MAX_PIXELS} pixels"
    if len(content) > _ALWAYS_BYTES:
        return None, f"files of over {_ALWAYS_BYTES} bytes"
    is_colour = content[25:26] != b"\0"  # IHDR: after the sides and the depth
    return _NOT_GREY if depth == 16 and is_deep(content) and is_colour else None, None


def _deep(facts: PngFacts) -> NDArray[np.uint16]:
    """Return (height, width, 1), upright, of a PNG of 16 bits.

    Raises:
        UnreadableError: as `stored`; or it has colour, or is transparent somewhere.
    """
    if facts.color_type != 0 or facts.transparency is not None:
        raise UnreadableError(_NOT_GREY)
    pixels = stored(facts, "I;16").astype(np.uint16)[..., np.newaxis]
    return upright(pixels, facts.orientation)


def _require(facts: Facts, shape: tuple[int, int, int]) -> None:
    if (facts.height, facts.width, facts.plain_channels, facts.orientation) != (*shape, 1):
        holds = {1: "8-bit grey", 3: "8-bit colour", None: "not plain 8-bit grey or colour"}
        raise UnreadableError(
            f"it is a {NAMES[facts.kind]} file of {facts.width}x{facts.height} pixels, "
            f"{holds[facts.plain_channels]}, EXIF orientation {facts.orientation}; it must have "
            f"{shape[1]}x{shape[0]} pixels, {holds[shape[2]]}, orientation 1"
        )


def _cropped(pixels: NDArray[Any], shaping: Shaping) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    if height * shaping.width == width * shaping.height:
        return pixels
    if shaping.crop == "none":
        raise UnreadableError(
            f"it is {width}x{height} pixels, of another shape than {shaping.width}x"
            f"{shaping.height} (data.crop=center would cut it)"
        )
    return pixels[center_box(height, width, (shaping.height, shaping.width))]
