"""Pictures and files of them that several tests decode."""

import io

import numpy as np
from PIL import Image

from ddpm_core.images.decode import Shaping, decode_image

PINK = (255, 105, 180)


def noise(*shape, top=256, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape)


def smooth(height, width, channels=3):
    """A picture that JPEG keeps to within a few grey levels."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin(rows / 9 + n) * np.cos(columns / 7 - n) for n in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


def shaping(height, width, channels=3, **changes):
    values = {"crop": "none", "resize": "box", "background": PINK, **changes}
    return Shaping(height=height, width=width, channels=channels, **values)


def decoded(content, height, width, channels=3, **changes):
    got = decode_image(content, shaping(height, width, channels, **changes), origin="a.img")
    assert got.dtype == np.uint8
    assert got.shape == (height, width, channels)
    assert got.flags.c_contiguous
    return got


def cmyk_file(inks):
    buffer = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(buffer, "JPEG", quality=100, subsampling=0)
    content = buffer.getvalue()
    assert content.count(b"Adobe") == 1
    return content
