"""Names of files from outside: which are safe, which are images, and how an error shows them."""

import json
import re

from ddpm_core.errors import DataError

IMAGE_EXTENSIONS = frozenset({"png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif"})
"""in any case; what a file really is its content decides, when it is decoded"""
_BESIDE_IMAGES = frozenset(
    {"txt", "md", "rst", "html", "htm", "xml", "json", "jsonl", "csv", "tsv", "yaml", "yml", "pdf"}
    | {"py", "sh", "ipynb", "log", "ini", "toml", "lua", "m"}
)
_WITHOUT_EXTENSION = frozenset(
    {"license", "licence", "readme", "copying", "notice", "checksums", "sha256sums", "md5sums"}
)
_OF_A_SYSTEM = re.compile(
    r"(?:\A|/)(?:\.|(?:__macosx|thumbs\.db|desktop\.ini|\$recycle\.bin)(?:/|\Z))", re.IGNORECASE
)
# What nearly all are called: nothing in it is hidden, or of a system.
_PLAIN = re.compile(
    r"(?:[0-9A-Za-z][0-9A-Za-z_-]*/)*[0-9A-Za-z][0-9A-Za-z_-]*\.(?:png|jpe?g|webp|gif)"
)
_UNSAFE = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)|[\\\0]|\A[A-Za-z]:")
_HERE = re.compile(rb"\A(?:\./)+")
MAX_NAME_BYTES = 4096
_SHOWN = 200

NAME_OF_A_SYSTEM = "hidden, or left by an operating system"
TEXT = "text and tables beside the images"
BESIDE = "files beside an image that are never read"
OTHER = "no name of an image that can be read (png, jpg, jpeg, jpe, jfif, webp, gif)"
_CONVERT = (
    f"{OTHER}: convert it to PNG, of which 16 bits, alpha and palettes are read, and become 8-bit "
    "grey or colour, or with data.depth=16 16-bit grey"
)
_ARRAYS = (
    f"{OTHER}, but arrays or tables, which may hold some: write each image as a PNG file, 8 or 16 "
    "bits, 1 or 3 channels"
)
_DATABASE = f"{OTHER}, but an LMDB: give the folder in which it lies, unpacked, as data.source"
_ARCHIVE = f"{OTHER}, but an archive: unpack it, or give it as data.source"
_CONVERTED = (
    "bmp tif tiff heic heif avif jp2 jxl ppm pgm pnm tga exr hdr dng cr2 nef arw psd ico dcm nii"
)
_ARCHIVES = "zip tar gz tgz bz2 xz 7z rar"
_OF_ARRAYS = "npy npz mat h5 hdf5 parquet arrow tfrecord tfrecords pkl pickle pt pth"
_REASONS = {
    **dict.fromkeys(_CONVERTED.split(), _CONVERT),
    **dict.fromkeys(_OF_ARRAYS.split(), _ARRAYS),
    **dict.fromkeys(_ARCHIVES.split(), _ARCHIVE),
    "mdb": _DATABASE,
}
"""extension -> why it is no image, with what to do"""
HARMLESS = frozenset({NAME_OF_A_SYSTEM, TEXT, BESIDE})
"""The reasons for which a file cannot be meant as an image."""


def reason_to_pass_over(name: str) -> str | None:
    """Return why a file of this name is not taken for an image, or None if it is.

    A reason that is not one of HARMLESS may hide an image.
    """
    if _PLAIN.fullmatch(name):
        return None
    if is_of_a_system(name):
        return NAME_OF_A_SYSTEM
    last = name.rpartition("/")[2].lower()
    stem, dot, extension = last.rpartition(".")
    if dot and stem and extension in IMAGE_EXTENSIONS:
        return None
    if (dot and extension in _BESIDE_IMAGES) or last in _WITHOUT_EXTENSION:
        return TEXT
    return _REASONS.get(extension if dot else "", OTHER)


def is_of_a_system(name: str) -> bool:
    """Say whether a file belongs to an operating system or is hidden, or lies in such a folder."""
    return _OF_A_SYSTEM.search(name) is not None


def text_of(raw: bytes) -> str:
    """Return a name as text; `bytes_of` gives the bytes back exactly."""
    return raw.decode("utf-8", "surrogateescape")


def bytes_of(name: str) -> bytes:
    """Return the bytes of a name: names are compared and sorted by them."""
    return name.encode("utf-8", "surrogateescape")


def quoted(name: str) -> str:
    """Return a name for an error: in quotes, one line of ASCII, cut after 200 characters."""
    more = "..." if len(name) > _SHOWN else ""
    return json.dumps(name[:_SHOWN]) + more


def shown(place: str) -> str:
    """Return a path or URI for an error: as it is, but in quotes if it is not all printable."""
    return place if place.isprintable() else quoted(place)


def checked_name(raw: bytes, origin: str) -> str:
    """Return the name that an archive gives a file, without a "./" before it.

    Raises:
        DataError: it is empty or over 4096 bytes, or would lie outside of the folder that it is
            unpacked into on some system: "..", an absolute path, a backslash, a drive letter.
    """
    name = text_of(_HERE.sub(b"", raw))
    if len(raw) > MAX_NAME_BYTES or _UNSAFE.search(name):
        raise DataError(
            f"{origin} holds a file named {quoted(name)}; the name must be a path of 1..4096 "
            'bytes below the archive, without "..", backslash, drive letter or empty part. '
            "Archives that are made by honest means have no such names: fetch it from elsewhere, "
            "or make it again"
        )
    return name
