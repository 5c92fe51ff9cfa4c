"""Images become the size that is wanted: cut, resized, and decoded smaller where they are large."""

import numpy as np
import pytest
from PIL import Image

from ddpm_core.images import png
from ddpm_core.images.decode import BadImageError, decode_image
from ddpm_core.images.image_walk import walk
from ddpm_core.images.pixels import plain_pixels, upright
from tests.images.odd_files import exif, pillow_file, png_file
from tests.images.pictures import PINK, decoded, noise, shaping, smooth
from tests.images.test_decode import rounded
from tests.images.test_decode_refused import WHOLE


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
