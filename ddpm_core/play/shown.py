"""Images of a model as a page shows them, and what a person paints as the model takes it."""

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.drawing import pictures

_SIDE = 320
"""pixels on a side of an image that is painted on"""


def sheet_of(images: NDArray[Any], *, num_columns: int | None = None) -> Image.Image:
    """Return images (n, h, w, c) on one sheet, enlarged by repeating pixels."""
    columns = num_columns or ceil(len(images) ** 0.5)
    scale = max(1, 640 // (columns * images.shape[2]))
    sheet = pictures.sheet(of_8_bits(images), num_columns=columns, scale=scale)
    return pictures.as_pillow(sheet)


def enlarged(image: NDArray[Any]) -> Image.Image:
    """Return one image (h, w, c) in red, green and blue, about 320 pixels on its longer side."""
    height, width, _ = image.shape
    scale = max(1, _SIDE // max(height, width))
    picture = pictures.as_pillow(of_8_bits(image)).convert("RGB")
    return picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)


def mask_of(layers: list[NDArray[np.uint8]], height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels of the model's image are painted: those that are half covered.

    Args:
        layers: (H, W, 4) of the editor, painted where alpha is not 0; of any size.
        height: of the model's image.
        width: of the model's image.
    """
    mask = np.zeros((height, width), bool)
    for layer in layers:
        alpha = Image.fromarray(((layer[..., 3] > 0) * 255).astype(np.uint8))
        shares = np.asarray(alpha.resize((width, height), Image.Resampling.BOX))
        mask |= shares >= 128
    return mask


def of_8_bits(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return levels as people see them; of 16 bits v / 257."""
    shown: NDArray[np.uint8] = images if images.dtype == np.uint8 else (images // 257).astype("u1")
    return shown
