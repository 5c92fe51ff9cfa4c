"""Image files as they came to pixels."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.errors import DataError

_MODES = {1: "L", 3: "RGB"}


def decode_exact(content: bytes, shape: tuple[int, int, int], *, origin: str) -> NDArray[np.uint8]:
    """Return the pixels of a PNG, JPEG or WebP file that must have this very shape.

    Args:
        content: the file.
        shape: (height, width, channels) it must have, 8 bits per channel.
        origin: what to call it in an error.

    Raises:
        DataError: if it has another shape or is damaged.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")) as image:
            found = (image.height, image.width, image.mode)
            if found == (shape[0], shape[1], _MODES[shape[2]]):
                return np.asarray(image, dtype=np.uint8).reshape(shape)
    # Pillow reports a broken file as any of these, SyntaxError included.
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{origin} is no image: {error}. Make the data set again") from None
    raise DataError(
        f"{origin} is {found[0]}x{found[1]} pixels of mode {found[2]}; it must be "
        f"{shape[0]}x{shape[1]} of {_MODES[shape[2]]}. Make the data set again"
    )
