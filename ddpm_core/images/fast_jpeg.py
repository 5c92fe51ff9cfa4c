"""JPEG decoded by simplejpeg (the extra `fast`), where its pixels are Pillow's to the bit.

Both call libjpeg-turbo, whose decoding of baseline files is whole numbers throughout: the accurate
inverse cosine transform and smooth upsampling, which both have as their defaults. simplejpeg calls
it with less around it, which counts for small images. Builds and versions differ: before it is
used, a process compares the two on pictures that it makes.
"""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.images.image_walk import JPEG_FRAMES, jpeg_segments

_SPACES = {1: "GRAY", 3: "RGB"}
_BASELINE = 0xC0
_SIZE = (47, 33)  # height, width: no multiples of a block
_QUALITIES = (3, 50, 90, 100)
_SAMPLINGS = {0: 0x11, 1: 0x21, 2: 0x22}
"""what Pillow calls a sampling of the colours -> how its frame spells it, for the luma"""


@cache
def decoder() -> Callable[[bytes, NDArray[np.uint8]], bool] | None:
    """Return what fills (height, width, channels) with a JPEG's pixels and says whether it could.

    For files that `is_known`, and an array of their shape. None: simplejpeg is not installed, or
    its pixels are others.
    """
    try:
        import simplejpeg
    except ImportError:
        return None

    def decode(content: bytes, out: NDArray[np.uint8]) -> bool:
        try:
            simplejpeg.decode_jpeg(content, _SPACES[out.shape[2]], buffer=out)
        except ValueError:  # also of what Pillow lets pass
            return False
        return True

    return decode if all(_is_equal(decode, *one) for one in _pictures()) else None


def is_known(frame: bytes) -> bool:
    """Say whether a frame is of the kind whose pixels were compared; it holds 1 or 3 channels.

    Args:
        frame: from its marker on. Source: ITU-T T.81, table B.2.
    """
    if frame[0] != _BASELINE or len(frame) not in (12, 18):
        return False
    if len(frame) == 12:
        return frame[10] == 0x11
    luma, blue, red = frame[9:11], frame[12:14], frame[15:17]
    return (
        luma[0] == 1
        and luma[1] in _SAMPLINGS.values()
        and (blue, red) == (b"\x02\x11", b"\x03\x11")
    )


def pixels(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """Return those of a JPEG, (height, width, channels), as Pillow would; None: it has to.

    Args:
        content: a file in which nothing turns the picture or says what its channels mean.
        shape: of the picture, by its header; 1 or 3 channels.
    """
    fast = decoder()
    if fast is None:
        return None
    frames = [
        content[begin - 3 : end]
        for marker, begin, end in jpeg_segments(content)
        if marker in JPEG_FRAMES
    ]
    if len(frames) != 1 or not is_known(frames[0]):
        return None
    out = np.empty(shape, np.uint8)
    return out if fast(content, out) else None


def _pictures() -> list[tuple[bytes, NDArray[np.uint8]]]:
    """Return files of the kinds that are known, and what Pillow finds in each."""
    noise = np.random.default_rng(0).integers(0, 256, (*_SIZE, 3), np.uint8)
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    smooth = np.stack([5 * x, 255 - 4 * y, 3 * x + 2 * y], axis=-1).astype(np.uint8)
    found = []
    for picture in (noise, smooth):
        for quality in _QUALITIES:
            for sampling in (*_SAMPLINGS, None):
                image = Image.fromarray(picture if sampling is not None else picture[..., 0])
                buffer, options = (
                    io.BytesIO(),
                    {} if sampling is None else {"subsampling": sampling},
                )
                image.save(buffer, "JPEG", quality=quality, **options)
                pixels = np.asarray(Image.open(buffer)).reshape(*_SIZE, -1)
                found.append((buffer.getvalue(), pixels))
    return found


def _is_equal(
    decode: Callable[[bytes, NDArray[np.uint8]], bool], content: bytes, pixels: NDArray[np.uint8]
) -> bool:
    own = np.zeros_like(pixels)
    return decode(content, own) and np.array_equal(own, pixels)
