"""Single image files, in a folder with three good ones: refused with their name, or read."""

import gzip
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddpm_core.images import png
from tests.corpus.case import CANARY, SHARD_IMAGES, Case, Content, bytes_of
from tests.images.odd_files import chunk, exif, gif_file, pillow_file, png_file, segment

SKIP = (*SHARD_IMAGES, "--set", "data.on_bad=skip")


def noise(*shape: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape)


def picture(channels: int = 3) -> np.ndarray:
    return noise(40, 36, channels).astype(np.uint8)


def good_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        pixels = np.full((36, 40, 3), number, np.uint8)
        (folder / f"good-{number}.png").write_bytes(png.encode(pixels))


def beside_good(name: str, content: Content) -> Callable[[Path], None]:
    def make(here: Path) -> None:
        good_files(here / "source")
        (here / "source" / name).write_bytes(bytes_of(content))

    return make


def pickle_bomb(here: str = ".") -> bytes:
    """Return a pickle that makes the canary when it is loaded; written by hand, with protocol 0."""
    return f"cos\nsystem\n(S'touch {here}/{CANARY}'\ntR.".encode()


def _with_sides(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


PNG = pillow_file(picture(), "PNG")
JPEG = pillow_file(picture(), "JPEG")
WEBP = pillow_file(picture(), "WEBP")
LOSSLESS = pillow_file(picture(), "WEBP", lossless=True)
GIF = gif_file(noise(20, 20, top=128), noise(128, 3))


def _png_of_sides(width: int, height: int) -> bytes:
    return png_file(noise(4, 4), color_type=0, size=(height, width))


def _jpeg_of_sides(width: int, height: int) -> bytes:
    sides = struct.pack(">HH", height, width)
    return _with_sides(JPEG, b"\x08" + struct.pack(">HH", 40, 36), b"\x08" + sides)


def _gif_of_sides(width: int, height: int) -> bytes:
    return gif_file(noise(4, 4, top=128), noise(128, 3), screen=(height, width))


def _webp_of_sides(width: int, height: int) -> bytes:
    return LOSSLESS[:21] + struct.pack("<I", width - 1 | height - 1 << 14) + LOSSLESS[25:]


def _webp_canvas(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides + LOSSLESS[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def _with_header(header: bytes) -> bytes:
    return PNG[:8] + chunk(b"IHDR", header) + PNG[33:]


def _with_chunks(chunks: bytes) -> bytes:
    return PNG[:33] + chunks + PNG[33:]


def _many_scans() -> bytes:
    header = segment(0xDA, bytes([1, 1, 0, 0, 63, 0]))
    return JPEG[:-2] + header * 1000 + JPEG[-2:]


def _bad(name: str, content: bytes, reason: str, extension: str = "png") -> Case:
    file = f"bad.{extension}"
    says = (file, reason, "Mend or remove them", "data.max_bad_share=0.01")
    return Case(name, says, 3, beside_good(file, content))


_PIXELS = "at most 67108864"
_NO_IMAGE = "it is no PNG, JPEG, WebP or GIF file"
_CUT = "cut short"

REFUSED = (
    _bad("empty", b"", "it is empty"),
    _bad("text named png", b"hello, this is no image\n" * 9, _NO_IMAGE),
    _bad("one byte", b"\x89", _NO_IMAGE),
    _bad("only a signature", PNG[:8], _CUT),
    _bad("zeros", bytes(5000), _NO_IMAGE),
    _bad("page of an error", b"<!DOCTYPE html><html>404</html>", _NO_IMAGE, "jpg"),
    _bad("png cut in half", PNG[: len(PNG) // 2], _CUT),
    _bad("png without its last byte", PNG[:-1], _CUT),
    _bad("jpeg cut in half", JPEG[: len(JPEG) // 2], _CUT, "jpg"),
    _bad("jpeg without its last byte", JPEG[:-1], _CUT, "jpg"),
    _bad("webp cut in half", WEBP[: len(WEBP) // 2], _CUT, "webp"),
    _bad("gif cut in half", GIF[: len(GIF) // 2], _CUT, "gif"),
    _bad("jpeg followed by zeros in place of its end", JPEG[:900] + bytes(900), _CUT, "jpg"),
    _bad("png of a wrong checksum", _flipped(PNG, 60), "checksum"),
    _bad("png of a wrong header checksum", _flipped(PNG, 18), "checksum"),
    _bad("png of fewer rows than it says", _png_of_sides(4, 5), "end after 20 of 25 bytes"),
    _bad("png without pixels", PNG[:33] + chunk(b"IEND", b""), "no pixels"),
    _bad("png of 0 columns", _png_of_sides(0, 4), "0x4 pixels"),
    _bad("jpeg of 0 rows", _jpeg_of_sides(36, 0), "36x0 pixels", "jpg"),
    _bad("png bomb of 10,000 squared", _png_of_sides(10_000, 10_000), _PIXELS),
    _bad("png bomb of 14,000 squared", _png_of_sides(14_000, 14_000), _PIXELS),
    _bad("png bomb of 2^31 squared", _png_of_sides(2**31 - 1, 2**31 - 1), _PIXELS),
    _bad("jpeg bomb", _jpeg_of_sides(65_500, 65_500), _PIXELS, "jpg"),
    _bad("gif bomb", _gif_of_sides(65_535, 65_535), _PIXELS, "gif"),
    _bad("webp bomb", _webp_of_sides(16_384, 16_384), _PIXELS, "webp"),
    _bad("webp canvas bomb", _webp_canvas(2**24, 2**24), _PIXELS, "webp"),
    _bad("palette of nothing", png_file(noise(9, 9), color_type=3), "no palette"),
    _bad(
        "palette that is too short",
        png_file(noise(9, 9), color_type=3, before=chunk(b"PLTE", bytes(9))),
        "of a palette of 3",
    ),
    _bad(
        "png of 3 bits", PNG[:8] + chunk(b"IHDR", PNG[16:24] + b"\3\2\0\0\0") + PNG[33:], "3 bits"
    ),
    _bad("png with an unknown critical chunk", _with_chunks(chunk(b"EVIL", b"x")), "EVIL"),
    _bad(
        "png of 70,000 chunks", PNG[:33] + chunk(b"teXt", b"") * 70_000 + PNG[33:], "65536 chunks"
    ),
    _bad("jpeg of 1000 scans", _many_scans(), "200 scans", "jpg"),
    _bad("jpeg of 12 bits", JPEG.replace(b"\x00\x11\x08", b"\x00\x11\x0c"), "12 bits", "jpg"),
    _bad("jpeg of two frames", JPEG[:20] + segment(0xC0, bytes(15)) + JPEG[20:], "one", "jpg"),
    _bad("jpeg of noise", JPEG[:160] + noise(400).astype(np.uint8).tobytes(), "JPEG", "jpg"),
    _bad("webp of zeros", LOSSLESS[:25] + bytes(len(LOSSLESS) - 25), "damaged", "webp"),
    _bad("tiff named png", pillow_file(picture(), "TIFF"), _NO_IMAGE),
    _bad("bmp named png", pillow_file(picture(), "BMP"), _NO_IMAGE),
    _bad("postscript named png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", _NO_IMAGE),
    _bad("svg named png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', _NO_IMAGE),
    _bad("fits bomb named png", gzip.compress(b"SIMPLE" + bytes(2**20), mtime=0), _NO_IMAGE),
    _bad("pickle named png", pickle_bomb(), _NO_IMAGE),
    _bad("shell named png", f"#!/bin/sh\ntouch {CANARY}\n".encode(), _NO_IMAGE),
)


def _read(name: str, content: Content, extension: str = "png") -> Case:
    return Case(f"read {name}", ("4/4 images",), 0, beside_good(f"a.{extension}", content))


def _cmyk() -> bytes:
    return pillow_file(picture(4), "JPEG", mode="CMYK")


def _text() -> bytes:
    return chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24), 9))


def _profile() -> bytes:
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**24), 9))


_BROKEN_EXIF = segment(0xE1, b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
_APNG = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))

READ = (
    _read("16-bit grey", png_file(noise(40, 40, top=2**16), color_type=0, bit_depth=16)),
    _read("16-bit colour", png_file(noise(40, 40, 4, top=2**16), color_type=6, bit_depth=16)),
    _read("1-bit", png_file(noise(40, 40, top=2), color_type=0, bit_depth=1)),
    _read("a palette", png_file(noise(40, 40), color_type=3, before=chunk(b"PLTE", bytes(768)))),
    _read("alpha", png_file(noise(40, 40, 4), color_type=6)),
    _read("CMYK", _cmyk(), "jpg"),
    _read("a turned picture", pillow_file(picture(), "JPEG", exif=exif(6)), "jpg"),
    _read(
        "broken EXIF",
        JPEG[:2] + segment(0xE1, b"Exif\0\0MM\0\x2a\xff\xff\xff\xff") + JPEG[2:],
        "jpeg",
    ),
    _read("compressed text of 16 MB", lambda: _with_chunks(_text() * 9)),
    _read("a profile of 16 MB", lambda: _with_chunks(_profile())),
    _read("an animation of 2^31 frames", _with_chunks(_APNG)),
    _read("bytes after its end", PNG + pickle_bomb()),
    _read("a gif", GIF, "gif"),
    _read("a gif named png", GIF),
    _read("a jpeg named png", JPEG),
    _read("a png named jpg", PNG, "jpg"),
    _read("a png named webp", PNG, "webp"),
    _read("an image of one pixel", png_file(noise(1, 1), color_type=0)),
    _read(
        "alpha of 2^24 pixels",
        lambda: pillow_file(np.zeros((4096, 4096, 4), np.uint8), "WEBP"),
        "webp",
    ),
    _read(
        "an image of 2^24 pixels",
        lambda: png_file(np.zeros((1024, 16384), np.uint8), color_type=0),
    ),
)


def _entry(make: Callable[[Path], None], name: str, *says: str, code: int = 3) -> Case:
    def whole(here: Path) -> None:
        good_files(here / "source")
        make(here / "source")

    return Case(name, says, code, whole)


def _symlink(folder: Path) -> None:
    (folder / "link.png").symlink_to("/etc/passwd")


def _nowhere(folder: Path) -> None:
    (folder / "link.png").symlink_to(".git/annex/objects/x")


def _loop(folder: Path) -> None:
    (folder / "again").symlink_to(folder)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")


def _socket(folder: Path) -> None:
    # A path of a socket may have 108 bytes; below a test's own folder it has more.
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(f"/proc/self/fd/{at}/socket.png")
    os.close(at)


def _too_large(folder: Path) -> None:
    with (folder / "bad.png").open("wb") as file:
        file.write(PNG[:33])
        file.truncate(128 * 2**20 + 1)  # of holes: it takes no space


def _named(*names: str | bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            raw = name.encode() if isinstance(name, str) else name
            path = Path(os.fsdecode(os.fsencode(folder) + b"/" + raw))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(PNG)

    return make


def _deep(folder: Path) -> None:
    below = folder.joinpath(*["a"] * 40)
    below.mkdir(parents=True)
    (below / "a.png").write_bytes(PNG)


def _many_bad(folder: Path) -> None:
    for number in range(300):
        (folder / f"bad-{number:03}.png").write_bytes(b"x" * number)


ENTRIES = (
    _entry(_symlink, "link out of the folder to a text", "link.png", _NO_IMAGE, "Mend or remove"),
    _entry(_loop, "link to its own folder", "again", "symbolic link to a folder", "cp -rs"),
    _entry(_nowhere, "link to nothing", "link.png", "symbolic link to nothing", "data.on_bad"),
    _entry(_pipe, "pipe", "pipe.png", "neither a file nor a folder", "data.on_bad"),
    _entry(_socket, "socket", "socket.png", "neither a file nor a folder", "data.on_bad"),
    _entry(_too_large, "file over 128 MiB", "bad.png", "134217729 bytes", "134217728"),
    _entry(_named("a.bmp"), "bmp by its name", "a.bmp", "png, jpg, jpeg", "data.on_bad"),
    _entry(_named("a.png.exe"), "program by its name", "a.png.exe", "data.on_bad"),
    _entry(_deep, "folders 40 deep", "32 folders deep"),
    _entry(_named("cat/a.png"), "folders of classes beside images", "cat", "data.class_folders"),
    _entry(_many_bad, "300 bad files", "300 of the 303", "bad-000.png", "and 290 more", "raise it"),
    _entry(_named("new\nline.png"), "read a newline in a name", "4/4 images", code=0),
    _entry(_named("🎲 and a space .png"), "read emoji in a name", "4/4 images", code=0),
    _entry(_named("-rf.png", "--root.png"), "read names like options", "5/5 images", code=0),
    _entry(_named(b"\xff\xfe.png"), "read a name that is no UTF-8", "4/4 images", code=0),
    _entry(_named("A.png", "a.png"), "read names that differ in case", "5/5 images", code=0),
    _entry(_named("a.b.c..png", "a.b.png"), "read dots in a name", "5/5 images", code=0),
    _entry(_named("n" * 251 + ".png"), "read a name of 255 bytes", "4/4 images", code=0),
    _entry(_named("$(touch canary).png"), "read a name like a shell's", "4/4 images", code=0),
    _entry(_named(".hidden.png", "notes.txt"), "read beside hidden files", "3/3 images", code=0),
)


def _source(make: Callable[[Path], None], name: str, *says: str) -> Case:
    return Case(name, says, 3, make)


def _folder_of(*names: str) -> Callable[[Path], None]:
    def make(here: Path) -> None:
        (here / "source").mkdir()
        _named(*names)(here / "source")

    return make


SOURCES = (
    _source(lambda here: None, "no folder", "{here}/source", "no file or folder", "give a folder"),
    _source(_folder_of(), "empty folder", "{here}/source", "holds no image", "png, jpeg"),
    _source(_folder_of("a.png"), "one image", "data.num_test_images=1", "give at most 0"),
    _source(_folder_of("val/a.png", "val/b.png"), "only a test split", "val/", "train/"),
    _source(lambda here: (here / "source").write_bytes(PNG), "file for a folder", "give a folder"),
)

SKIPPED = (
    Case(
        "skip more than their share",
        ("broken.png", "it is empty", "data.max_bad_share=0.01", "raise it"),
        3,
        beside_good("broken.png", b""),
        (*SKIP,),
    ),
    Case(
        "skip within their share",
        ("4/4 images", "1 files were left out", "index.json says"),
        0,
        beside_good("broken.png", b""),
        (*SKIP, "--set", "data.max_bad_share=0.25"),
    ),
    Case(
        "skip what only decoding finds",
        ("4/4 images", "1 files were left out", "index.json says"),
        0,
        beside_good("broken.png", _flipped(PNG, 60)),
        (*SKIP, "--set", "data.max_bad_share=0.25"),
    ),
    Case(
        "another shape than wanted",
        ("broken.png", "36x40 pixels", "data.crop=center"),
        3,
        beside_good("broken.png", PNG),
        (*SHARD_IMAGES, "--set", "data.crop=none", "--set", "data.width=40"),
    ),
)

CASES = (*REFUSED, *READ, *ENTRIES, *SOURCES, *SKIPPED)
