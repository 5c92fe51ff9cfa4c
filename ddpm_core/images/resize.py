"""Images cut and resized to one size, in whole numbers: the same bytes on every machine."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_STRIP_VALUES = 2**20
"""summed at once: NumPy makes all of them 8 bytes long before"""


def center_box(height: int, width: int, wanted: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of the largest rectangle in the middle with the wanted shape.

    Its sides are whole pixels, rounded, at least 1; an odd rest is left out below and to the right.

    Args:
        height: of the image.
        width: of the image.
        wanted: (height, width) to which the rectangle is to be similar.
    """
    rows = min(height, max(1, _rounded(width * wanted[0], wanted[1])))
    columns = min(width, max(1, _rounded(height * wanted[1], wanted[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def resized(
    image: NDArray[Any], size: tuple[int, int], how: Literal["box", "lanczos"]
) -> NDArray[Any]:
    """Return the image (height, width, 1 or 3), uint8 or uint16, with `size` = (height, width).

    box: each new pixel is the mean of the area it covers, fractions of pixels included, rounded
    half up. lanczos: Pillow's of 8 bits (three lobes), which may overshoot at edges and is clipped
    to 0..255. What has the size already is returned as it is.
    """
    if image.shape[:2] == size:
        return image
    if how == "lanczos":
        # Only here: what a bundle holds is looked at by commands that have no Pillow.
        from PIL import Image

        flat = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
        picture = Image.fromarray(flat).resize((size[1], size[0]), Image.Resampling.LANCZOS)
        return np.asarray(picture).reshape(*size, image.shape[2])
    height, width = image.shape[:2]
    by_row = _area_sums(image, size[0])
    by_column = np.ascontiguousarray(by_row.transpose(1, 0, 2))
    sums = _area_sums(by_column, size[1]).transpose(1, 0, 2)
    # Exact, at most 65535 * 2**30: nothing was rounded before this.
    means: NDArray[np.int64] = (2 * sums + height * width) // (2 * height * width)
    return means.astype(image.dtype)


def _area_sums(image: NDArray[np.integer[Any]], num_rows: int) -> NDArray[np.int64]:
    """Return for each of `num_rows` new rows what its area holds, times `num_rows`.

    New row i covers the old rows from i * n / num_rows to (i + 1) * n / num_rows, of n.
    """
    if len(image) % num_rows == 0:  # no fractions: a third of the time
        groups = image.reshape(num_rows, len(image) // num_rows, *image.shape[1:])
        group_sums: NDArray[np.int64] = groups.sum(axis=1, dtype=np.int64)
        return group_sums * num_rows
    whole, part = np.divmod(np.arange(num_rows + 1) * len(image), num_rows)
    sums = np.empty((num_rows, *image.shape[1:]), np.int64)
    columns = max(1, _STRIP_VALUES // (len(image) * image.shape[2]))
    for first in range(0, image.shape[1], columns):
        strip = image[:, first : first + columns]
        sums[:, first : first + columns] = np.add.reduceat(strip, whole[:-1], 0, np.int64)
    sums[whole[:-1] == whole[1:]] = 0  # reduceat takes an empty range for a single row
    sums *= num_rows
    # At the last border nothing is left, and its part is 0.
    rest = image[np.minimum(whole, len(image) - 1)] * part.reshape(-1, *(1,) * (image.ndim - 1))
    sums += np.diff(rest, axis=0)
    return sums


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
