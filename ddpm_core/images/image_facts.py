"""The facts in an image file's header, before it is decoded; and the error for unusable ones."""

from dataclasses import dataclass
from typing import Literal

from ddpm_core.errors import DataError

MAX_FILE_BYTES = 128 * 2**20
MAX_MEMBER_BYTES = 32 * 2**20
"""of a file in a shard"""
MAX_PIXELS = 2**24
"""4096x4096; a JPEG of more is decoded at a half, a quarter or an eighth of its sides."""
MAX_PARTS = 2**16
"""chunks, segments or frames in a file; those in use have hundreds"""

Kind = Literal["png", "jpg", "webp", "gif"]

NAMES: dict[Kind, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WebP", "gif": "GIF"}
_ORIENTATION_TAG = 0x0112
_SHORT = 3


class BadImageError(DataError):
    """An image file that is damaged, or that is none of the kinds that are read.

    Attributes:
        reason: what is wrong, in few words of our own, without the file's name: the same on every
            machine, so that it may stand in an index.
    """

    def __init__(self, origin: str, reason: str) -> None:
        super().__init__(
            f"{origin} cannot be used: {reason}. Replace or remove it, or leave such files out "
            "with --set data.on_bad=skip"
        )
        self.reason = reason


class UnreadableError(Exception):
    """Raised while a file is read, which does not know its name; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the headers of an image file say; the pixels were not looked at."""

    kind: Kind
    width: int
    """as stored, before `orientation`"""
    height: int
    """as stored, before `orientation`"""
    orientation: int = 1
    """EXIF's, 1..8; 1 is upright"""
    plain_channels: Literal[1, 3] | None
    """1 or 3 if it holds 8-bit grey or red, green, blue and nothing else; None otherwise"""
    is_bare: bool
    """nothing is in the file but the picture: no text, profile, EXIF, bytes after the end"""
    essence: bytes
    """the file without its metadata: what a decoder is given"""


@dataclass(frozen=True, kw_only=True)
class PngFacts(Facts):
    bit_depth: int
    color_type: int
    """0 grey, 2 colour, 3 palette, 4 grey and alpha, 6 colour and alpha"""
    palette: bytes
    """red, green, blue of each entry"""
    transparency: bytes | None
    """content of the tRNS chunk"""
    packed: bytes = b""
    """the compressed rows of a small picture of plain grey or colour; b"" of all others"""


@dataclass(frozen=True, kw_only=True)
class JpegFacts(Facts):
    is_adobe: bool
    """Adobe's marker is there: four channels are stored inverted"""


@dataclass(frozen=True, kw_only=True)
class WebpFacts(Facts):
    """A still picture, or an animation of which the first frame is meant."""


@dataclass(frozen=True, kw_only=True)
class GifFacts(Facts):
    """`essence` holds the first frame alone; `width` and `height` are of the whole screen."""

    left: int
    top: int
    palette: bytes
    """red, green, blue of each entry"""
    transparent: int | None
    """the entry that is not painted"""


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a header with no pixels, or with more than are decoded: nothing is allocated yet."""
    if width < 1 or height < 1:
        raise UnreadableError(f"its header says {width}x{height} pixels; there must be some")
    if width * height > max_pixels:
        raise UnreadableError(
            f"its header says {width}x{height} pixels; at most {max_pixels} are decoded"
        )


def cut_short(kind: str) -> UnreadableError:
    return UnreadableError(f"it is cut short: the {kind} file has no end")


def orientation_of(exif: bytes) -> int:
    """Return the orientation, 1..8, of an EXIF block; 1 if it has none.

    A damaged block counts as none: it is metadata, and the picture is whole without it.
    Only the first directory is looked at, and of it only this entry.

    Source: EXIF 2.32, tag 0x0112; TIFF 6.0, section 2.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    if tiff[:2] not in (b"II", b"MM") or int.from_bytes(tiff[2:4], order) != 42:
        return 1
    start = int.from_bytes(tiff[4:8], order)
    for entry in range(int.from_bytes(tiff[start : start + 2], order)):
        at = start + 2 + 12 * entry
        field = tiff[at : at + 12]
        if len(field) < 12:
            return 1
        if int.from_bytes(field[:2], order) == _ORIENTATION_TAG:
            value = int.from_bytes(field[8:10], order)
            is_short = int.from_bytes(field[2:4], order) == _SHORT
            return value if is_short and 1 <= value <= 8 else 1
    return 1
