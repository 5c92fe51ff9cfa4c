"""Files that lie in shards as they came: which are kept so, and how they are read again."""

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.images import png
from ddpm_core.images.decode import decode_exact, kept_as_is
from ddpm_core.sharding.file_records import may_be_plain
from tests.images.odd_files import chunk, exif, gif_file, pillow_file, png_file
from tests.images.pictures import cmyk_file, decoded, noise, shaping, smooth

KEPT = {
    "png": (png.encode(smooth(16, 16)), 3, "png"),
    "png grey": (png.encode(smooth(16, 16, 1)), 1, "png"),
    "png compressed": (pillow_file(smooth(16, 16), "PNG"), 3, "png"),
    "jpeg": (pillow_file(smooth(16, 16), "JPEG"), 3, "jpg"),
    "jpeg grey": (pillow_file(smooth(16, 16, 1), "JPEG"), 1, "jpg"),
    "webp": (pillow_file(smooth(16, 16), "WEBP"), 3, "webp"),
    "webp lossless": (pillow_file(smooth(16, 16), "WEBP", lossless=True), 3, "webp"),
}


@pytest.mark.parametrize(("content", "channels", "extension"), KEPT.values(), ids=KEPT)
def test_a_file_that_is_as_wanted_is_kept_and_reads_the_same(content, channels, extension):
    """Catches: a file kept that the fast path reads differently."""
    assert kept_as_is(content, shaping(16, 16, channels)) == extension
    exact = decode_exact(content, (16, 16, channels), origin="a.img")
    np.testing.assert_array_equal(exact, decoded(content, 16, 16, channels))
    assert exact.dtype == np.uint8
    assert kept_as_is(content, shaping(16, 16, 4 - channels)) is None
    assert kept_as_is(content, shaping(16, 15, channels, crop="center")) is None


NOT_KEPT = {
    "grey for colour": png_file(noise(16, 16), color_type=0),
    "palette": png_file(noise(16, 16), color_type=3, before=chunk(b"PLTE", bytes(768))),
    "alpha": png_file(noise(16, 16, 4), color_type=6),
    "transparent colour": png_file(noise(16, 16, 3), color_type=2, before=chunk(b"tRNS", bytes(6))),
    "16 bits": png_file(noise(16, 16, 3), color_type=2, bit_depth=16),
    "cmyk": cmyk_file(smooth(16, 16, 4)),
    "gif": gif_file(noise(16, 16, top=128), noise(128, 3)),
    "webp alpha": pillow_file(noise(16, 16, 4).astype(np.uint8), "WEBP", lossless=True),
    "turned": pillow_file(smooth(16, 16), "JPEG", exif=exif(3)),
    "other size": png_file(noise(16, 15, 3), color_type=2),
    "empty": b"",
    "cut": png.encode(smooth(16, 16))[:-1],
}


@pytest.mark.parametrize("content", NOT_KEPT.values(), ids=NOT_KEPT)
def test_a_file_that_is_not_quite_as_wanted_is_not_kept_and_not_read_as_such(content):
    """Catches: a shard that holds a picture of another size, a palette, or one that lies down."""
    assert kept_as_is(content, shaping(16, 16)) is None
    if content != NOT_KEPT["cut"]:
        with pytest.raises(DataError, match=r"7\.img .*again"):
            decode_exact(content, (16, 16, 3), origin="7.img")


@pytest.mark.parametrize(
    "content",
    [
        pillow_file(smooth(16, 16), "JPEG", exif=exif(1)),
        pillow_file(smooth(16, 16), "JPEG", comment=b"here lives Alice"),
        pillow_file(smooth(16, 16), "PNG", icc_profile=b"profile"),
        png.encode(smooth(16, 16)) + b"more",
        pillow_file(smooth(16, 16), "JPEG") + b"more",
    ],
    ids=["exif", "comment", "profile", "after png", "after jpeg"],
)
def test_a_file_with_metadata_is_not_kept(content):
    """Catches: names and places of people in the shards."""
    assert kept_as_is(content, shaping(16, 16)) is None
    assert decoded(content, 16, 16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "is_plain"),
    [({}, True), ({"depth": 16}, False), ({"max_pixels": 255}, False), ({"min_side": 17}, False)],
)
def test_a_plain_png_is_taken_as_it_is_where_the_settings_allow_it(changes, is_plain):
    """Catches an image that is too small, too large, or of another depth, and is taken for all."""
    wanted = shaping(16, 16, **{key: changes[key] for key in changes if key != "max_pixels"})
    assert may_be_plain(wanted, changes.get("max_pixels", 256)) is is_plain


def test_a_png_of_over_2_24_pixels_is_kept_by_neither_way():
    """Catches a shard that holds a file which is refused when it is read."""
    assert may_be_plain(shaping(2**12, 2**12), 2**25)
    assert not may_be_plain(shaping(2**12 + 1, 2**12), 2**25)
