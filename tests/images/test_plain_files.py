"""Plain files the short way: the same pixels as Pillow's own, and nothing else is taken for one."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_core.images import fast_jpeg, plain_files
from ddpm_core.images.plain_files import decode_plain
from tests.images.odd_files import chunk, exif, pillow_file
from tests.images.pictures import noise, smooth

SIZE = (24, 17)  # width, height: neither a multiple of a JPEG's block, nor equal


def inserted(content: bytes, part: bytes, at: int) -> bytes:
    return content[:at] + part + content[at:]


def file(channels: int, kind: str, **options) -> bytes:
    return pillow_file(smooth(SIZE[1], SIZE[0], channels), kind, **options)


AFTER_HEADER, AFTER_START = 8 + 25, 2
PLAIN = {
    "png": (file(3, "PNG"), "png", "RGB"),
    "png grey": (file(1, "PNG"), "png", "L"),
    "png unpacked": (file(3, "PNG", compress_level=0), "png", "RGB"),
    "png of noise": (pillow_file(noise(SIZE[1], SIZE[0], 3).astype(np.uint8), "PNG"), "png", "RGB"),
    "png with text": (
        inserted(file(3, "PNG"), chunk(b"tEXt", b"a\0b"), AFTER_HEADER),
        "png",
        "RGB",
    ),
    "jpeg": (file(3, "JPEG"), "jpg", "RGB"),
    "jpeg grey": (file(1, "JPEG"), "jpg", "L"),
    "jpeg progressive": (file(3, "JPEG", progressive=True), "jpg", "RGB"),
    "jpeg 4:4:4": (file(3, "JPEG", subsampling=0, quality=95), "jpg", "RGB"),
    "jpeg optimised": (file(3, "JPEG", optimize=True), "jpg", "RGB"),
    "jpeg restarts": (file(3, "JPEG", restart_marker_blocks=1), "jpg", "RGB"),
    "jpeg profile": (file(3, "JPEG", icc_profile=b"profile" * 100), "jpg", "RGB"),
    "jpeg comment": (file(3, "JPEG", comment=b"a comment"), "jpg", "RGB"),
}


def pixels_of(content: bytes, kind: str, mode: str, size: tuple[int, int] = SIZE):
    out = np.zeros((1, size[1], size[0], {"L": 1, "RGB": 3}[mode]), np.uint8)
    return out[0] if decode_plain([content], out)[0] else None


@pytest.mark.parametrize(("content", "kind", "mode"), PLAIN.values(), ids=PLAIN)
def test_a_plain_file_has_the_pixels_that_pillow_finds(content, kind, mode):
    """Catches rows whose filters are not undone, parts that are left out, channels mixed."""
    found = pixels_of(content, kind, mode)
    assert found is not None, "it went the slow way"
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_a_png_in_several_parts_is_put_together():
    """Catches a reader of the first IDAT alone: libpng writes one for each 8 kB."""
    content = pillow_file(noise(64, 64, 3).astype(np.uint8), "PNG")
    at = content.index(b"IDAT") - 4
    (size,) = struct.unpack_from(">I", content, at)
    body = content[at + 8 : at + 8 + size]
    parts = b"".join(chunk(b"IDAT", body[i : i + 500]) for i in range(0, size, 500))
    found = pixels_of(content[:at] + parts + content[at + 12 + size :], "png", "RGB", (64, 64))
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(content))))


JPEG = file(3, "JPEG")
FRAME_AT = JPEG.index(b"\xff\xc0")
FRAME = JPEG[FRAME_AT : FRAME_AT + 19]
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
NOT_PLAIN = {
    "transparent": (inserted(file(3, "PNG"), chunk(b"tRNS", bytes(6)), AFTER_HEADER), "png"),
    "turned png": (inserted(file(3, "PNG"), chunk(b"eXIf", exif(3)[6:]), AFTER_HEADER), "png"),
    "palette": (inserted(file(3, "PNG"), chunk(b"PLTE", bytes(6)), AFTER_HEADER), "png"),
    "needs more": (inserted(file(3, "PNG"), chunk(b"NEWS", b""), AFTER_HEADER), "png"),
    "grey png": (file(1, "PNG"), "png"),
    "no header": (file(3, "PNG")[:8] + file(3, "PNG")[AFTER_HEADER:], "png"),
    "no pixels": (file(3, "PNG")[:AFTER_HEADER] + chunk(b"IEND", b""), "png"),
    "turned jpeg": (file(3, "JPEG", exif=exif(3)), "jpg"),
    "adobe": (inserted(file(3, "JPEG"), ADOBE, AFTER_START), "jpg"),
    "no frame": (JPEG.replace(FRAME, b""), "jpg"),
    "two frames": (inserted(JPEG, FRAME, FRAME_AT), "jpg"),
    "grey jpeg": (file(1, "JPEG"), "jpg"),
    "cmyk": (pillow_file(smooth(SIZE[1], SIZE[0], 4), "JPEG", mode="CMYK"), "jpg"),
    "webp": (file(3, "WEBP"), "webp"),
    "unknown": (b"no picture", None),
    "empty": (b"", None),
    "called png": (b"", "png"),
    "called jpeg": (b"\xff\xd8", "jpg"),
}


@pytest.mark.parametrize(("content", "kind"), NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_goes_the_slow_way(content, kind):
    """Catches a picture that lies down, is seen through, or means other colours than it stores."""
    assert pixels_of(content, kind, "RGB") is None


def interlaced() -> bytes:
    header = struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 1)
    rows = zlib.compress(bytes(4000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_another_size_is_not_decoded(kind, monkeypatch):
    """Catches memory for a size that the index does not know, and rows shifted against it."""
    content = file(3, {"png": "PNG", "jpg": "JPEG"}[kind])
    monkeypatch.setattr(plain_files, "_decoded", lambda *_: pytest.fail("it was decoded"))
    for size in ((SIZE[1], SIZE[0]), (SIZE[0] + 1, SIZE[1]), (SIZE[0], SIZE[1] - 1)):
        assert pixels_of(content, kind, "RGB", size) is None
    assert pixels_of(interlaced(), "png", "RGB") is None


@pytest.mark.parametrize("name", ["png", "png with text", "jpeg", "jpeg progressive"])
def test_damage_is_none_or_what_pillow_makes_of_it(name):
    """Catches an error out of the short way, a hang, and pixels of a file that was cut."""
    content, kind, mode = PLAIN[name]
    whole = pixels_of(content, kind, mode)
    for end in range(len(content)):
        found = pixels_of(content[:end], kind, mode)
        assert found is None or np.array_equal(found, whole), end
    rng = random.Random(0)  # noqa: S311
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        found = pixels_of(bytes(damaged), kind, mode)
        assert found is None or found.shape == whole.shape


def test_many_files_have_each_its_own_pixels(monkeypatch):
    """Catches a picture that is taken for the one above it, also below one that is damaged, and
    files of the second picture in the place of those of the first."""
    monkeypatch.setattr(plain_files, "_PICTURE_BYTES", 3 * SIZE[0] * SIZE[1] * 4)
    good = [PLAIN[name][0] for name in ("png", "jpeg", "jpeg 4:4:4", "png of noise", "png")]
    files = [good[0], JPEG[:200], *good[1:4], file(3, "WEBP"), b"", good[4]]
    out = np.zeros((len(files), SIZE[1], SIZE[0], 3), np.uint8)
    done = decode_plain(files, out)
    assert np.flatnonzero(~done).tolist() == [1, 5, 6]
    for row, content in zip(np.flatnonzero(done), good, strict=True):
        np.testing.assert_array_equal(out[row], np.asarray(Image.open(io.BytesIO(content))))


def test_without_pillow_s_own_decoders_all_goes_the_slow_way(monkeypatch):
    """Catches a traceback with a version of Pillow that calls them otherwise."""
    grey = file(1, "PNG")
    monkeypatch.setattr(plain_files.Image, "core", object())
    monkeypatch.setattr(fast_jpeg, "decoder", lambda: None)
    assert pixels_of(JPEG, "jpg", "RGB") is None
    assert pixels_of(grey, "png", "L") is None
