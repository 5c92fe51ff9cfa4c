"""What is no image, or not whole, or too large, is one error, and most of it at the first look."""

import struct

import numpy as np
import pytest

from ddpm_core.images import png
from ddpm_core.images.decode import BadImageError, decode_image, first_look
from tests.images.odd_files import chunk, gif_file, pillow_file, png_file, segment
from tests.images.pictures import cmyk_file, noise, shaping, smooth
from tests.images.test_decode import INTERLACED

PALETTE = png_file(noise(8, 8), color_type=3, before=chunk(b"PLTE", bytes(range(256)) * 3))
WHOLE = {
    "png": png.encode(noise(8, 8, 3).astype(np.uint8)),
    "png palette": PALETTE,
    "jpeg": pillow_file(smooth(24, 24), "JPEG"),
    "jpeg progressive": pillow_file(smooth(24, 24), "JPEG", progressive=True),
    "jpeg cmyk": cmyk_file(smooth(16, 16, 4)),
    "webp": pillow_file(smooth(24, 24), "WEBP"),
    "webp lossless": pillow_file(noise(8, 8, 4).astype(np.uint8), "WEBP", lossless=True),
    "gif": gif_file(noise(4, 4, top=128), noise(128, 3)),
}


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_a_file_cut_anywhere_is_refused(content):
    """Catches: the rest of a picture filled with grey, and errors that are not ours."""
    side = shaping(8, 8)
    assert decode_image(content, side, origin="a.img").shape == (8, 8, 3)
    for end in range(len(content)):
        with pytest.raises(BadImageError) as caught:
            decode_image(content[:end], side, origin="a.img")
        assert "a.img" in str(caught.value)
        assert "a.img" not in caught.value.reason
    assert "cut short" in caught.value.reason  # not for the decoder to find out


def test_a_changed_bit_of_a_png_is_found():
    """Catches: checksums that nobody compares."""
    content = WHOLE["png"]
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadImageError):
            decode_image(bytes(changed), shaping(8, 8), origin="a.img")


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_a_changed_file_is_an_image_or_refused(content):
    """Catches: a kind of error, or a warning, that nobody thought of; a hang; another shape."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            at = min(int(rng.geometric(0.01)), len(content)) - 1  # mostly headers
            changed[at] = int(rng.integers(256))
        try:
            got = decode_image(bytes(changed), shaping(8, 8, crop="center"), origin="a.img")
        except BadImageError:
            continue
        assert got.shape == (8, 8, 3)


def with_sides(kind, width, height):
    """Return a small file whose header says this size."""
    if kind == "png":
        return png_file(noise(4, 4, 3), color_type=2, size=(height, width))
    if kind == "jpeg":
        content = pillow_file(smooth(24, 24), "JPEG")
        return content.replace(struct.pack(">HH", 24, 24), struct.pack(">HH", height, width))
    if kind == "gif":
        return gif_file(noise(4, 4, top=128), noise(128, 3), screen=(height, width))
    if kind == "gif frame":
        small = struct.pack("<HHHH", 0, 0, 4, 4)
        large = struct.pack("<HHHH", 0, 0, width, height)
        return with_sides("gif", 4096, 4096).replace(small, large)
    still = pillow_file(noise(4, 4, 3).astype(np.uint8), "WEBP", lossless=True)
    if kind == "webp":
        sides = struct.pack("<I", width - 1 | height - 1 << 14)
        return still[:21] + sides + still[25:]
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + still[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "gif frame", "webp", "webp canvas"])
def test_a_bomb_is_refused_by_its_header(kind, monkeypatch):
    """Catches: gigabytes allocated for a file of some bytes: no decoder is even called."""
    monkeypatch.setattr("ddpm_core.images.pixels._OPENERS", {})
    with pytest.raises(BadImageError, match="10000x10000 pixels; at most 16777216"):
        decode_image(with_sides(kind, 10000, 10000), shaping(8, 8), origin="a.img")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is no image", "no PNG, JPEG, WebP or GIF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(2**27), "134217736 bytes; at most 134217728"),
        (with_sides("png", 0, 4), "0x4 pixels"),
        (with_sides("jpeg", 24, 0), "24x0 pixels"),
        (with_sides("gif", 0, 0), "0x0 pixels"),
        (png_file(noise(4, 4), color_type=0, size=(5, 4)), "end after 20 of 25 bytes"),
        (
            png_file(noise(4, 4, top=9), color_type=3, before=chunk(b"PLTE", bytes(6))),
            "of a palette",
        ),
        (png_file(noise(4, 4), color_type=3), "no palette"),
        (png_file(noise(4, 4), color_type=5), "no PNG image"),
        (png_file(noise(4, 4), color_type=0, before=chunk(b"ABCD", b"")), "ABCD"),
        (WHOLE["jpeg"].replace(b"\x00\x11\x08\x00\x18", b"\x00\x11\x0c\x00\x18"), "12 bits"),
        (WHOLE["jpeg"][:-2] + segment(0xDA, b"\0" * 6) * 300 + b"\xff\xd9", "200 scans"),
        (pillow_file(noise(4, 4).astype(np.uint8), "TIFF"), "no PNG, JPEG, WebP or GIF"),
        (pillow_file(noise(4, 4).astype(np.uint8), "BMP"), "no PNG, JPEG, WebP or GIF"),
        (pillow_file(noise(4, 4).astype(np.uint8), "PPM"), "no PNG, JPEG, WebP or GIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no PNG, JPEG, WebP or GIF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_the_reason_says_what_is_wrong(content, reason):
    """Catches: formats beyond the four, sizes taken for granted, and "cannot identify"."""
    with pytest.raises(BadImageError, match=reason) as caught:
        decode_image(content, shaping(8, 8, crop="center"), origin="dir/a.img")
    assert str(caught.value).startswith("dir/a.img ")
    assert caught.value.reason in str(caught.value)
    assert "data.on_bad=skip" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("channels", "depth", "taken"), [(3, 16, False), (3, 8, True), (1, 16, True)]
)
def test_the_first_look_tells_what_16_bits_cannot_keep(channels, depth, taken):
    """Catches: colour of 16 bits that is found after an hour of sharding, or where 8 are wanted."""
    content = png.encode(np.zeros((8, 8, channels), np.uint16))
    problem, note = first_look(content, "a.png", 2**26, depth=depth)
    assert note is None
    assert (problem is None) if taken else ("16-bit PNG with colour" in problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (WHOLE["png"] + bytes(2**27), "bytes; at most 134217728"),
        (b"plain text, no image", "no PNG, JPEG"),
        (b"RIFF\0\0\0\0WAVEfmt ", "no PNG, JPEG"),
        (with_sides("png", 1024, 2**16 + 1), "1024x65537 pixels; at most 67108864"),
        (with_sides("jpeg", 65_500, 65_500), "65500x65500 pixels"),
        (with_sides("gif", 65_500, 65_500), "65500x65500 pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_the_first_look_tells_most_of_what_is_wrong(content, problem):
    """Catches: text named .png, or 4 gigapixels, that are found after an hour of sharding."""
    found, note = first_look(content, "a.png", 2**26)
    assert problem in found
    assert note is None


@pytest.mark.parametrize(
    ("kind", "name", "note"),
    [
        *((kind, f"a.{kind}", None) for kind in ("png", "jpeg", "webp", "gif")),
        ("jpeg", "a.JPG", None),
        ("png", "a", None),
        ("gif", "a.png", "GIF files that are named as another kind"),
        ("png", "a.JPEG", "PNG files that are named as another kind"),
    ],
)
def test_the_content_decides_what_a_file_is_and_another_name_is_noted(kind, name, note):
    """Catches: one PNG called .JPEG among thousands (ImageNet has one) that ends a sharding."""
    assert first_look(WHOLE[kind], name, 2**24) == (None, note)
    assert decode_image(WHOLE[kind], shaping(8, 8), origin=name).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_large_images_are_noted_and_only_they(kind):
    """Catches: a digest that changes for what was always read, and one that does not for others."""
    for sides, note in (((4096, 4096), None), ((4097, 4096), "images of over 16777216 pixels")):
        assert first_look(with_sides(kind, *sides), f"a.{kind}", 2**26) == (None, note)


def test_pixels_that_end_early_in_a_file_that_is_whole_are_found():
    """Catches: rows that nobody wrote, shown black, in a PNG whose checksums are right."""
    tall = struct.pack(">II", 13, 12)
    header = chunk(b"IHDR", tall + INTERLACED[24:29])
    for content in (INTERLACED[:8] + header + INTERLACED[33:], GIF_OF_FEW):
        with pytest.raises(BadImageError, match=r"end after|damaged"):
            decode_image(content, shaping(8, 8, crop="center"), origin="a.img")


def one_row_of(content, rows):
    """Return a GIF of rows that all are said to be there, with the codes of one."""
    sides = struct.pack("<HH", 6, 1)
    assert content.count(sides) == 2
    return content.replace(sides, struct.pack("<HH", 6, rows))


GIF_OF_FEW = one_row_of(gif_file(noise(1, 6, top=128), noise(128, 3)), rows=4)
