"""simplejpeg in place of Pillow: the same pixels, or not at all."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddpm_core.images import fast_jpeg
from ddpm_core.images.decode import Shaping, decode_image
from ddpm_core.images.decoding import decode_files
from tests.images.odd_files import pillow_file
from tests.images.pictures import noise, smooth


def pillow(content, _space, *, buffer, change=0):
    """What simplejpeg does, by Pillow."""
    buffer[:] = np.asarray(Image.open(io.BytesIO(content))).reshape(buffer.shape) ^ change


@pytest.fixture
def installed(monkeypatch):
    """Puts a function in the place of simplejpeg's decoder; gives the number of its calls."""

    def install(decode):
        calls = []

        def counted(*values, **options):
            calls.append(values)
            decode(*values, **options)

        monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(decode_jpeg=counted))
        fast_jpeg.decoder.cache_clear()
        return calls

    yield install
    fast_jpeg.decoder.cache_clear()


def decoded(content, shape):
    out = np.zeros((1, *shape), np.uint8)
    decode_files([content], out, origin=str)
    return out[0]


def test_other_pixels_are_not_used(installed):
    """Catches batches that depend on what is installed."""
    calls = installed(lambda *values, **options: pillow(*values, **options, change=1))
    content, tried = pillow_file(smooth(17, 24, 3), "JPEG"), 1
    assert np.array_equal(
        decoded(content, (17, 24, 3)), np.asarray(Image.open(io.BytesIO(content)))
    )
    assert len(calls) == tried


def refused(*_values, **_options):
    raise ValueError("strict")


@pytest.mark.parametrize(
    ("options", "is_used"),
    [
        ({}, True),
        ({"subsampling": 0}, True),
        ({"subsampling": 1}, True),
        ({"progressive": True}, False),
        ({"keep_rgb": True}, False),
    ],
)
def test_only_kinds_that_were_compared_are_decoded_by_it(options, is_used, installed):
    """Catches trust in what was shown of other ways to store a picture: in versions of
    libjpeg-turbo those of progressive files differ."""
    calls = installed(pillow)
    content, tried = pillow_file(smooth(16, 32, 3), "JPEG", **options), 32
    assert np.array_equal(
        decoded(content, (16, 32, 3)), np.asarray(Image.open(io.BytesIO(content)))
    )
    assert len(calls) == tried + is_used


@pytest.mark.parametrize(
    ("options", "is_used"), [({}, True), ({"progressive": True}, False), ({"exif": 6}, True)]
)
def test_images_of_any_size_are_decoded_by_it_too(options, is_used, installed):
    """Catches photographs in place that take Pillow's time; one that is not turned; a kind that was
    not compared."""
    calls = installed(pillow)
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    content = pillow_file(smooth(40, 24, 3), "JPEG", **options)
    shaping = Shaping(8, 8, 3, "center", "box", (0, 0, 0))
    found = decode_image(content, shaping, origin="")
    assert len(calls) == 32 + is_used
    installed(refused)
    assert np.array_equal(found, decode_image(content, shaping, origin=""))


def test_what_it_refuses_pillow_decodes(installed, monkeypatch):
    """Catches a picture that is refused with the extra, and read without it."""
    installed(pillow)
    assert fast_jpeg.decoder() is not None
    monkeypatch.setattr(sys.modules["simplejpeg"], "decode_jpeg", refused)
    content = pillow_file(smooth(17, 24, 1), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content)))[..., None]
    assert np.array_equal(decoded(content, (17, 24, 1)), expected)


def test_simplejpeg_itself_has_pillow_s_pixels():
    """Catches a version that rounds otherwise; where the extra is installed."""
    pytest.importorskip("simplejpeg")
    fast_jpeg.decoder.cache_clear()
    decode = fast_jpeg.decoder()
    assert decode is not None
    for channels in (1, 3):
        for side in (2, 7, 8, 16, 31, 64):
            content = pillow_file(noise(side, side, channels).astype(np.uint8), "JPEG")
            out = np.zeros((side, side, channels), np.uint8)
            assert decode(content, out)
            assert np.array_equal(
                out, np.asarray(Image.open(io.BytesIO(content))).reshape(out.shape)
            )
