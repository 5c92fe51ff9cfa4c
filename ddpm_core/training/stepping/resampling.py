"""Images under affine maps, filtered by a wavelet: nothing aliases that is turned or made smaller.

An image is continued for ever by reflection, brought to twice its resolution by the wavelet's
filter, read there between four places, and brought back by the same filter. The filter is
orthonormal: a map that moves by whole pixels reads what was written, and gives the pixels back.

Both filters are matrices, of one period of the continued image: each image is resampled for itself,
in float32 also where torch rounds convolutions.

Source: Karras et al. 2020, arXiv:2006.06676, appendix B.1 (the filter, and where a pixel lies among
the finer ones); Karras et al. 2022, arXiv:2206.00364, appendix F.2. Their code continues an image
once to each side and by 0 beyond; the filter's coefficients: Daubechies 1992, table 6.3.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""low-pass filter of the symlet with 6 vanishing moments"""
_CENTRE = 5
"""the coefficient that lies on a pixel"""


class Resampler:
    """Resamples images of one size.

    Args:
        height: pixels, at least 2: one row has no reflection.
        width: likewise.
        device: where the images are.
        dtype: of the images.
    """

    def __init__(
        self,
        height: int,
        width: int,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sizes = (width, height)
        self._finer = [_finer(size).to(device, dtype) for size in sizes]
        self._coarser = [_coarser(size).to(device, dtype) for size in sizes]
        x, y = (_places(size).to(device) for size in sizes)
        self._shape = len(y), len(x), 2
        self._places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        self._size = torch.tensor(sizes, dtype=torch.float64, device=device)

    def __call__(
        self, images: Float[Tensor, "b c h w"], inverse: Float64[Tensor, "b 2 3"]
    ) -> Float[Tensor, "b c h w"]:
        """Return each image under its map.

        Args:
            images: of the size and dtype that were given.
            inverse: [A | v] of each image: what lies at p = (x, y), in pixels from the image's
                middle to the right and downwards, was at A p + v.
        """
        finer = _filtered(images, *self._finer)
        origin = self._places @ inverse[:, :, :2].mT + inverse[:, None, :, 2]
        # A pixel is two of the finer ones, and an image with its reflection a period of twice as
        # many, of which the last stands for the first of the next.
        half = 2 * (self._size - 1)
        index = (2 * origin + self._size - 1).remainder(2 * half)
        grid = (index / half - 1).to(images.dtype).reshape(-1, *self._shape)
        moved = nn.functional.grid_sample(finer, grid, padding_mode="border", align_corners=True)
        return _filtered(moved, *self._coarser)


def _filtered(
    images: Float[Tensor, "b c h w"], across: Float[Tensor, "k w"], along: Float[Tensor, "l h"]
) -> Float[Tensor, "b c l k"]:
    """Return the images with their rows and columns multiplied by a matrix each."""
    return ((images @ across.T).mT @ along.T).mT


def _finer(size: int) -> Float64[Tensor, "k n"]:
    """Return the matrix from the pixels of a line to one period of the finer ones, and one more.

    u_k = sum over n of x_n h_(k - 2n + centre), of the line continued by reflection about the
    middles of its first pixel and its last.
    """
    period = 2 * (size - 1)
    matrix = torch.zeros(2 * period + 1, size, dtype=torch.float64)
    for k in range(len(matrix)):
        for j, weight in enumerate(SYM6):
            n, between = divmod(k + _CENTRE - j, 2)
            if not between:
                matrix[k, size - 1 - abs(size - 1 - n % period)] += weight
    return matrix


def _coarser(size: int) -> Float64[Tensor, "n k"]:
    """Return the matrix from the finer pixels at `_places` to those of a line: the transpose."""
    matrix = torch.zeros(size, 2 * size + len(SYM6) - 2, dtype=torch.float64)
    for n in range(size):
        matrix[n, 2 * n : 2 * n + len(SYM6)] = torch.tensor(SYM6, dtype=torch.float64)
    return matrix


def _places(size: int) -> Float64[Tensor, " k"]:
    """Return where the finer pixels lie of which a line is made, in pixels from its middle."""
    k = torch.arange(2 * size + len(SYM6) - 2, dtype=torch.float64) - _CENTRE
    return (k - (size - 1)) / 2
