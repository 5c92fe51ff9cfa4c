"""Every kind of image becomes the pixels that the table in `decode` says, or one error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_core.images import png
from ddpm_core.images.decode import BadImageError, decode_image, first_look, kept_as_is
from ddpm_core.images.image_walk import walk
from ddpm_core.images.pixels import plain_pixels, upright
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


@pytest.mark.parametrize(
    ("size", "wanted", "rows", "columns"),
    [
        ((10, 16), (4, 4), slice(0, 10), slice(3, 13)),
        ((10, 17), (4, 4), slice(0, 10), slice(3, 13)),  # odd rest: right
        ((13, 10), (4, 4), slice(1, 11), slice(0, 10)),  # odd rest: below
        ((10, 30), (4, 6), slice(0, 10), slice(7, 22)),
        ((1, 50), (2, 2), slice(0, 1), slice(24, 25)),
        ((3, 9), (64, 8), slice(0, 3), slice(4, 5)),  # narrower than a pixel: one
    ],
)
def test_the_middle_is_cut_out(size, wanted, rows, columns):
    """Catches: a cut at the corner, height and width exchanged, or a rest shared unequally."""
    pixels = noise(*size, 3)
    content, cut = (png_file(part, color_type=2) for part in (pixels, pixels[rows, columns]))
    got = decoded(content, *wanted, crop="center")
    np.testing.assert_array_equal(got, decoded(cut, *wanted, crop="center"))


def area_mean(pixels, size):
    """Return the means over areas, by an image that is enlarged until no pixel is split."""
    tall = pixels.astype(np.int64).repeat(size[0], axis=0).repeat(size[1], axis=1)
    blocks = tall.reshape(size[0], pixels.shape[0], size[1], pixels.shape[1], -1)
    return rounded(blocks.sum(axis=(1, 3)) / (pixels.shape[0] * pixels.shape[1]))


AREAS = [
    ((12, 8), (3, 2)),
    ((15, 21), (5, 7)),
    ((7, 7), (3, 3)),
    ((10, 10), (7, 7)),
    ((3, 3), (8, 8)),
    ((5, 10), (6, 12)),
    ((1, 1), (2, 2)),
]


@pytest.mark.parametrize(("size", "wanted"), AREAS)
@pytest.mark.parametrize("channels", [1, 3])
def test_box_is_the_mean_over_the_area(size, wanted, channels):
    """Catches: Pillow's box, which rounds twice and weighs split pixels whole or not at all."""
    pixels = noise(*size, channels)
    content = png_file(pixels, color_type=0 if channels == 1 else 2)
    np.testing.assert_array_equal(
        decoded(content, *wanted, channels, crop="center"), area_mean(pixels, wanted)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_lanczos_is_pillows(channels):
    """Catches: a filter by another name."""
    pixels = smooth(40, 40, channels)
    picture = Image.fromarray(np.squeeze(pixels)).resize((16, 16), Image.Resampling.LANCZOS)
    got = decoded(png.encode(pixels), 16, 16, channels, resize="lanczos")
    np.testing.assert_array_equal(np.squeeze(got), np.asarray(picture))


@pytest.mark.parametrize("resize", ["box", "lanczos"])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_what_fits_is_left_alone(crop, resize):
    """Catches: a resize to the same size, that rounds."""
    pixels = noise(9, 13, 3)
    content = png_file(pixels, color_type=2)
    np.testing.assert_array_equal(decoded(content, 9, 13, crop=crop, resize=resize), pixels)


def test_another_shape_is_refused_unless_it_may_be_cut():
    """Catches: a picture that is squeezed."""
    with pytest.raises(BadImageError, match=r"a\.img.*8x4 pixels.*4x4.*crop=center"):
        decoded(png_file(noise(4, 8), color_type=0), 4, 4)
    assert decoded(png_file(noise(8, 8), color_type=0), 4, 4).shape == (4, 4, 3)


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


def flat(height, width, channels=3):
    """An image of few values: large, and small as a file."""
    rows = np.linspace(0, 255, height).astype(np.uint8)[:, np.newaxis, np.newaxis]
    return np.broadcast_to(rows, (height, width, channels))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_half_of_its_sides(progressive, orientation, monkeypatch):
    """Catches a photograph of 20 megapixels that is refused, or takes 60 MB and ends turned."""
    decoded_sides = []
    monkeypatch.setattr(
        "ddpm_core.images.pixels.upright",
        lambda pixels, turned: (decoded_sides.append(pixels.shape), upright(pixels, turned))[1],
    )
    large = pillow_file(flat(4001, 5001), "JPEG", progressive=progressive, exif=exif(orientation))
    with pytest.raises(BadImageError, match="5001x4001 pixels; at most 16777216"):
        decode_image(large, shaping(8, 8, crop="center"), origin="a.jpg")
    found = decode_image(large, shaping(8, 8, crop="center"), origin="a.jpg", max_pixels=2**26)
    assert decoded_sides == [(2001, 2501, 3)]
    small = pillow_file(flat(400, 500), "JPEG", exif=exif(orientation))
    expected = decode_image(small, shaping(8, 8, crop="center"), origin="a.jpg")
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_a_large_jpeg_keeps_the_sides_that_are_wanted():
    """Catches a picture that is made smaller than it is to become, and then enlarged."""
    large = pillow_file(flat(4200, 4200), "JPEG")
    facts = walk(large, max_pixels=2**26)
    assert plain_pixels(facts, PINK, min_side=2100).shape[:2] == (2100, 2100)
    assert plain_pixels(facts, PINK, min_side=2101).shape[:2] == (4200, 4200)


def test_what_was_decoded_before_has_the_same_pixels_under_any_bound():
    """Catches a bound that changes data sets that it has nothing to do with."""
    for content in (*WHOLE.values(), pillow_file(flat(4096, 4096), "JPEG")):
        before = decode_image(content, shaping(8, 8), origin="a")
        again = decode_image(content, shaping(8, 8), origin="a", max_pixels=2**30)
        np.testing.assert_array_equal(before, again)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_other_large_images_are_decoded_whole(kind):
    """Catches kinds of files that a bound lets pass and a decoder's own bound does not."""
    picture = flat(4100, 4100, 1 if kind == "GIF" else 3)
    content = pillow_file(picture, kind)
    found = decode_image(content, shaping(4, 4), origin="a", max_pixels=2**26)
    np.testing.assert_allclose(found[:, 0, 0], [32, 96, 159, 223], atol=2)


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
