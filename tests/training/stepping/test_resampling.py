"""Resampling against its definition, pixel by pixel."""

import math

import pytest
import torch

from ddpm_core.training.stepping.resampling import SYM6, Resampler

HEIGHT, WIDTH = 6, 9
CPU = torch.device("cpu")


def resampler():
    return Resampler(HEIGHT, WIDTH, CPU, dtype=torch.float64)


def images():
    return torch.randn(2, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).double()


def test_the_filter_is_orthonormal_and_has_six_vanishing_moments():
    """Catches a digit of the table that is wrong, and another wavelet.

    The two conditions define the filter up to which of the roots it takes (Daubechies 1992, section
    6.4): sum_k h_k h_(k+2m) = [m = 0], and sum_k (-1)**k k**j h_k = 0 for j < 6.
    """
    h = torch.tensor(SYM6, dtype=torch.float64)
    overlaps = [float((h[2 * m :] * h[: len(h) - 2 * m]).sum()) for m in range(6)]
    assert overlaps == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-11)
    k = torch.arange(12, dtype=torch.float64)
    moments = [float(((-1) ** k * (k / 11) ** j * h).sum()) for j in range(7)]
    assert moments[:6] == pytest.approx([0] * 6, abs=1e-11)
    assert abs(moments[6]) > 1e-4
    assert int(h.argmax()) == 5, "the nearly symmetric one, not its mirror image"


def folded(n, size):
    """Return the pixel that is seen at n of a line that is continued by reflection for ever."""
    n %= 2 * (size - 1)
    return min(n, 2 * (size - 1) - n)


def finer(image, row, column):
    """Return one pixel of the image at twice its resolution: the sum over 12 x 12 places."""
    total = 0.0
    for i, above in enumerate(SYM6):
        for j, left in enumerate(SYM6):
            y, x = row + 5 - i, column + 5 - j
            if y % 2 == 0 and x % 2 == 0:
                total += above * left * image[folded(y // 2, HEIGHT)][folded(x // 2, WIDTH)]
    return total


def defined(image, inverse, row, column):
    """Return one pixel of the moved image: a sum over 12 x 12 places, each between four others."""
    total = 0.0
    for i, above in enumerate(SYM6):
        for j, left in enumerate(SYM6):
            y, x = (2 * row + i - 5) / 2, (2 * column + j - 5) / 2
            place = torch.tensor([x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2, 1]).double()
            x, y = (inverse @ place).tolist()
            x, y = 2 * (x + (WIDTH - 1) / 2), 2 * (y + (HEIGHT - 1) / 2)
            x_0, y_0 = math.floor(x), math.floor(y)
            for down, by_y in ((0, y_0 + 1 - y), (1, y - y_0)):
                for right, by_x in ((0, x_0 + 1 - x), (1, x - x_0)):
                    value = finer(image, y_0 + down, x_0 + right)
                    total += above * left * by_y * by_x * value
    return total


def test_a_pixel_is_the_sum_that_defines_it():
    """Catches: rows and columns exchanged, a middle half a pixel off, an image that ends where its
    reflection begins, one that is continued once, maps that are exchanged within a batch.

    The second map reaches over two images beyond the edge.
    """
    inverse = torch.tensor([[[0.9, 0.4, 0.7], [-0.3, 1.2, -1.1]], [[1.6, -0.8, 19], [0.5, 1.4, 3]]])
    inverse, given = inverse.double(), images()
    found = resampler()(given, inverse)
    for image, channel, row, column in ((0, 1, 0, 0), (0, 0, 3, 7), (1, 0, 5, 8), (1, 1, 2, 1)):
        expected = defined(given[image, channel].tolist(), inverse[image], row, column)
        torch.testing.assert_close(
            float(found[image, channel, row, column]), expected, rtol=0, atol=1e-10
        )


def test_whole_pixels_are_moved_exactly():
    """Catches a filter that is not its own inverse, and a move in the other direction.

    What is 2 to the left and 1 above is moved here: exact but for the 1e-11 of the filter's table.
    """
    inverse = torch.tensor([[1.0, 0, -2], [0, 1, -1]]).double().expand(2, 2, 3)
    found = resampler()(images(), inverse)
    torch.testing.assert_close(found[:, :, 1:, 2:], images()[:, :, :-1, :-2], rtol=0, atol=1e-10)
