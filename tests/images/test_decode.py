"""Every kind of image becomes the pixels that the table in `decode` says, or one error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_core.images import png
from ddpm_core.images.decode import BadImageError, decode_image, kept_as_is
from tests.images.odd_files import chunk, exif, gif_file, pillow_file, png_file, segment
from tests.images.pictures import PINK, cmyk_file, decoded, noise, shaping, smooth


def rounded(numbers):
    return np.floor(np.asarray(numbers, float) + 0.5).astype(int)


def over(color, alpha):
    """Return colours (..., 3) with alpha 0..255 on PINK."""
    share = np.asarray(alpha, float)[..., np.newaxis] / 255
    return rounded(share * color + (1 - share) * np.array(PINK))


def grey3(values):
    return np.repeat(np.asarray(values)[..., np.newaxis], 3, axis=2)


def luma(rgb):
    return rounded(rgb.astype(float) @ np.array([0.299, 0.587, 0.114]))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_stretched_to_all_of_0_to_255(bits):
    """Catches: white that is 1, 3 or 15, or a mask of booleans."""
    values = noise(6, 9, top=2**bits)
    got = decoded(png_file(values, color_type=0, bit_depth=bits), 6, 9, 1)
    np.testing.assert_array_equal(got[..., 0], values * (255 // (2**bits - 1)))


SAMPLES = {"grey": (0, 1), "grey alpha": (4, 2), "colour": (2, 3), "colour alpha": (6, 4)}


def deep(content, height, width):
    want = shaping(height, width, 1, depth=16)
    return decode_image(content, want, origin="a.img")[..., 0]


def test_16_bits_of_grey_are_kept_where_they_are_wanted():
    """Catches: 8 bits on the way; a mean that is rounded twice; samples of 8 bits below 1/256."""
    values = noise(8, 6, top=2**16)
    content = png_file(values[..., None], color_type=0, bit_depth=16)
    got = deep(content, 8, 6)
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, values)
    means = values.reshape(4, 2, 3, 2).mean((1, 3))
    np.testing.assert_array_equal(deep(content, 4, 3), rounded(means))
    eight = smooth(8, 6)
    np.testing.assert_array_equal(
        deep(png.encode(eight), 8, 6), decoded(png.encode(eight), 8, 6, 1)[..., 0] * np.uint16(257)
    )


@pytest.mark.parametrize("mode", ["grey alpha", "colour", "colour alpha"])
def test_16_bits_that_would_be_cut_are_refused(mode):
    """Catches: colours that lose half of their bits in a data set of 16."""
    color_type, channels = SAMPLES[mode]
    content = png_file(noise(4, 4, channels, top=2**16), color_type=color_type, bit_depth=16)
    with pytest.raises(BadImageError, match="16-bit PNG with colour or transparency"):
        deep(content, 4, 4)


@pytest.mark.parametrize("mode", SAMPLES)
def test_16_bits_are_divided_by_257_and_rounded(mode):
    """Catches: the high byte alone (v >> 8), clipping to 255, and byte orders exchanged."""
    color_type, channels = SAMPLES[mode]
    values = noise(8, 5, channels, top=2**16)
    values.flat[:8] = [0, 65535, 128, 129, 385, 386, 257, 65406]
    got = decoded(png_file(values, color_type=color_type, bit_depth=16), 8, 5)
    eight = rounded(values / 257)
    expected = eight[..., :1].repeat(3, axis=2) if channels < 3 else eight[..., :3]
    if "alpha" in mode:
        expected = over(expected, eight[..., -1])
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_becomes_its_colours_with_their_alpha(bits):
    """Catches: entries taken for grey, alpha ignored, or given to the entries that have none."""
    entries, palette = noise(7, 9, top=2**bits), noise(2**bits, 3, seed=1)
    alpha = noise(2**bits - 1, seed=2)
    before = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    before += chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
    got = decoded(png_file(entries, color_type=3, bit_depth=bits, before=before), 7, 9)
    expected = over(palette, [*alpha, 255])[entries]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_put_on_the_background(channels):
    """Catches: alpha dropped, black or white behind it, or rounding down."""
    values = noise(16, 16, channels)
    got = decoded(png_file(values, color_type=2 + channels), 16, 16)
    color = values[..., :-1] if channels == 4 else values[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(got, over(color, values[..., -1]))


def test_alpha_where_grey_is_wanted_is_the_luma_of_what_colour_would_show():
    """Catches: a background that is thought grey, or luma taken before the background is there."""
    values = noise(16, 16, 4)
    content = png_file(values, color_type=6)
    shown = over(values[..., :-1], values[..., -1])
    got = decoded(content, 16, 16, 1)[..., 0].astype(int)
    assert abs(got - luma(shown)).max() <= 1  # fixed point of 16 bits
    np.testing.assert_array_equal(got, decoded(content, 16, 16) @ WEIGHTS + 2**15 >> 16)


WEIGHTS = np.array([19595, 38470, 7471])  # 0.299, 0.587, 0.114 in 2**16


@pytest.mark.parametrize(
    ("color_type", "bits"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
)
def test_one_transparent_colour_is_background_and_all_others_are_not(color_type, bits):
    """Catches: the colour compared after scaling, or in one channel only."""
    channels = 1 if color_type == 0 else 3
    values = noise(6, 8, channels, top=2**bits)
    values[2, 3] = values[0, 0]
    values[3, 3] = values[0, 0]
    values[3, 3, -1] ^= 1  # next to it
    key = struct.pack(f">{channels}H", *values[0, 0])
    content = png_file(values, color_type=color_type, bit_depth=bits, before=chunk(b"tRNS", key))
    eight = rounded(values * (255 / (2**bits - 1)))
    opaque = (values != values[0, 0]).any(axis=2) * 255
    np.testing.assert_array_equal(
        decoded(content, 6, 8), over(np.broadcast_to(eight, (6, 8, 3)), opaque)
    )


def test_grey_and_colour_become_each_other():
    """Catches: the mean of the channels for luma, or one channel for all."""
    grey, color = noise(8, 8), noise(8, 8, 3)
    np.testing.assert_array_equal(decoded(png_file(grey, color_type=0), 8, 8), grey3(grey))
    got = decoded(png_file(color, color_type=2), 8, 8, 1)[..., 0]
    np.testing.assert_array_equal(got, color @ WEIGHTS + 2**15 >> 16)
    assert abs(got - luma(color)).max() <= 1


@pytest.mark.parametrize("interlaced", [False, True])
def test_plain_png_is_its_pixels(interlaced):
    """Catches: rows and columns exchanged, or an interlaced file read as if it were none."""
    pixels = noise(11, 7, 3).astype(np.uint8)
    content = INTERLACED if interlaced else png.encode(pixels)
    expected = INTERLACED_PIXELS if interlaced else pixels
    np.testing.assert_array_equal(decoded(content, *expected.shape[:2]), expected)


def adam7(pixels):
    """Return an interlaced PNG: seven small images, one after the other."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    data = b""
    for top, left, down, right in [*passes, (1, 0, 2, 1)]:
        part = pixels[top::down, left::right]
        if part.size:
            data += b"".join(b"\0" + row.tobytes() for row in part)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


INTERLACED_PIXELS = noise(11, 13, 3).astype(np.uint8)
INTERLACED = adam7(INTERLACED_PIXELS)


def test_jpeg_in_grey_and_colour():
    """Catches: channels in another order, or luma of luma."""
    picture = smooth(32, 48)
    color = pillow_file(picture, "JPEG", quality=95, subsampling=0)
    np.testing.assert_allclose(decoded(color, 32, 48), picture, atol=8)
    with Image.open(io.BytesIO(color)) as image:
        np.testing.assert_array_equal(decoded(color, 32, 48), np.asarray(image))
    grey = pillow_file(picture[..., 0], "JPEG", quality=95)
    np.testing.assert_allclose(decoded(grey, 32, 48, 1), picture[..., :1], atol=8)


def painted(inks):
    return (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255


def test_cmyk_as_adobe_stores_it_is_light_not_ink():
    """Catches: a negative, or black ink that is ignored."""
    inks = smooth(32, 32, 4)
    np.testing.assert_allclose(decoded(cmyk_file(inks), 32, 32), painted(inks), atol=6)


def test_cmyk_without_adobes_mark_is_ink():
    """Catches: the inversion that Pillow does to every file of four channels."""
    inks = smooth(32, 32, 4)
    content = cmyk_file(255 - inks)
    at = content.index(b"\xff\xee")
    plain = content[:at] + content[at + 2 + struct.unpack_from(">H", content, at + 2)[0] :]
    np.testing.assert_allclose(decoded(plain, 32, 32), painted(inks), atol=6)


def test_ycck_is_turned_into_inks_first():
    """Catches: brightness taken for cyan.

    The stored channels are those of a CMYK file, 255 - ink; with Adobe's transform 2 the first
    three of them are brightness and two differences of colour (ITU-R BT.601) of the inks' light.
    """
    stored = smooth(32, 32, 4)
    content = bytearray(cmyk_file(255 - stored))
    content[content.index(b"Adobe") + 11] = 2
    y, cb, cr, black = np.moveaxis(stored.astype(float), 2, 0)
    red = y + 1.402 * (cr - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    # libjpeg gives cyan = 255 - red, ...; Adobe's inversion makes light of it once more.
    cyan = 255 - np.clip(np.stack([red, green, blue], axis=2), 0, 255)
    np.testing.assert_allclose(
        decoded(bytes(content), 32, 32), cyan * black[..., np.newaxis] / 255, atol=8
    )


# EXIF 2.32, table 4: the sides of the picture at which stored row 0 and column 0 are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_stored(picture, orientation):
    """Return the rows and columns that a file with this orientation stores of the picture."""
    row_0, column_0 = SIDES[orientation]
    stored = picture if row_0 in ("top", "bottom") else picture.transpose(1, 0, 2)
    if row_0 in ("bottom", "right"):
        stored = stored[::-1]
    if column_0 in ("bottom", "right"):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_the_picture_is_upright_whatever_the_orientation(kind, orientation):
    """Catches: a turn the wrong way, mirroring forgotten, or only JPEG looked at."""
    picture = smooth(24, 16)
    options = {"exif": exif(orientation), "quality": 95}
    if kind == "WEBP":
        options |= {"lossless": True, "exact": True}
    content = pillow_file(as_stored(picture, orientation), kind, **options)
    atol = 16 if kind == "JPEG" else 0
    np.testing.assert_allclose(decoded(content, 24, 16), picture, atol=atol)
    assert kept_as_is(content, shaping(24, 16)) is None


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"MM\0\x2a\xff\xff\xff\xff", exif(0)[6:], exif(9)[6:], exif(6)[6:20], b"\0" * 99],
    ids=["empty", "short", "offset beyond", "orientation 0", "orientation 9", "cut", "zeros"],
)
def test_exif_that_is_damaged_turns_nothing(block):
    """Catches: a good picture refused, or an error of Pillow's, for metadata nobody needs."""
    picture = noise(6, 9, 3)
    content = png_file(picture, color_type=2, before=chunk(b"eXIf", block))
    np.testing.assert_array_equal(decoded(content, 6, 9), picture)


def test_of_a_gif_the_first_frame_is_taken():
    """Catches: the last frame, or a mixture."""
    frames = [np.full((8, 8), 20 * n, np.uint8) for n in range(1, 4)]
    images = [Image.fromarray(frame, "L") for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=100)
    np.testing.assert_array_equal(decoded(buffer.getvalue(), 8, 8, 1)[..., 0], frames[0])


@pytest.mark.parametrize("ramp", [False, True])
def test_a_gif_frame_smaller_than_its_screen_lies_on_the_background(ramp):
    """Catches: entry 0 around it, the frame stretched, or transparent pixels painted."""
    palette = np.arange(128)[:, None].repeat(3, axis=1) if ramp else noise(128, 3, seed=1)
    entries = noise(4, 6, top=128)
    content = gif_file(entries, palette, screen=(9, 11), corner=(2, 3), transparent=entries[1, 1])
    expected = np.tile(PINK, (9, 11, 1))
    frame = over(palette[entries], (entries != entries[1, 1]) * 255)
    expected[2:6, 3:9] = frame
    np.testing.assert_array_equal(decoded(content, 9, 11), expected)


def test_lossless_webp_is_its_pixels_and_its_alpha_is_on_the_background():
    """Catches: red and blue exchanged, alpha dropped."""
    pixels = noise(9, 12, 4).astype(np.uint8)
    options = {"lossless": True, "exact": True}
    color = pillow_file(pixels[..., :3], "WEBP", **options)
    np.testing.assert_array_equal(decoded(color, 9, 12), pixels[..., :3])
    alpha = pillow_file(pixels, "WEBP", **options)
    np.testing.assert_array_equal(decoded(alpha, 9, 12), over(pixels[..., :3], pixels[..., 3]))


@pytest.mark.parametrize("with_alpha", [False, True])
def test_of_an_animated_webp_the_first_frame_is_taken(with_alpha):
    """Catches: a mode that only still pictures have."""
    frames = [noise(8, 8, 3 + with_alpha, seed=n).astype(np.uint8) for n in range(3)]
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], lossless=True, exact=True
    )
    expected = over(frames[0][..., :3], frames[0][..., 3]) if with_alpha else frames[0]
    np.testing.assert_array_equal(decoded(buffer.getvalue(), 8, 8), expected)


def test_metadata_is_dropped_before_a_decoder_sees_it():
    """Catches: 100 MB of compressed text unpacked, and profiles that change pixels."""
    pixels = noise(6, 6, 3)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * 2**20), 9))
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(b"no profile at all"))
    frames = chunk(b"acTL", bytes(8)) + chunk(b"gAMA", struct.pack(">I", 1))
    content = png_file(pixels, color_type=2, before=text + profile + frames, after=text)
    np.testing.assert_array_equal(decoded(content, 6, 6), pixels)
    picture = pillow_file(smooth(16, 16), "JPEG")
    waste = segment(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(1000)) + segment(0xFE, b"comment")
    waste += segment(0xE1, b"Exif\0\0MM\0\x2a\xff\xff\xff\xff") + segment(0xE2, b"MPF\0MM\0\x2a")
    marked = picture[:2] + waste + picture[2:]
    np.testing.assert_array_equal(decoded(marked, 16, 16), decoded(picture, 16, 16))
