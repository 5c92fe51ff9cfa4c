"""Palettes and transparent pixels, put on a background of one colour."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.images.image_facts import UnreadableError

Color = tuple[int, int, int]

_STRIP_VALUES = 2**20
"""worked on at once: bounds what the wider numbers of a large image take"""


def from_palette(
    entries: NDArray[np.uint8], palette: bytes, alpha: NDArray[np.uint8], background: Color
) -> NDArray[np.uint8]:
    """Return the colours of palette entries; entries beyond `alpha` are opaque."""
    colors = np.frombuffer(palette, np.uint8).reshape(1, -1, 3)
    if len(alpha) > colors.shape[1]:
        raise UnreadableError(f"it has {colors.shape[1]} colours, and alpha for {len(alpha)}")
    if entries.max() >= colors.shape[1]:
        raise UnreadableError(
            f"a pixel has colour {entries.max()} of a palette of {colors.shape[1]}"
        )
    opaque = np.full(colors.shape[:2], 255, np.uint8)
    opaque[0, : len(alpha)] = alpha
    shown: NDArray[np.uint8] = on_background(colors, opaque, background)[0][entries]
    return shown


def on_background(
    color: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Color
) -> NDArray[np.uint8]:
    """Return (height, width, 3): (alpha * color + (255 - alpha) * background) / 255, rounded."""
    whole = np.empty((*color.shape[:2], 3), np.uint8)
    below = np.array(background, np.uint32)
    for rows in strips(whole):
        weight = alpha[rows][..., np.newaxis].astype(np.uint32)
        whole[rows] = (weight * color[rows] + (255 - weight) * below + 127) // 255
    return whole


def strips(image: NDArray[np.integer[Any]]) -> list[slice]:
    """Return ranges of rows to work on at once."""
    rows = max(1, _STRIP_VALUES // math.prod(image.shape[1:]))
    return [slice(first, first + rows) for first in range(0, len(image), rows)]
