import io

import numpy as np
import pytest
from PIL import Image

from ddpm_core.drawing import pictures


def flat_images(num, height, width, channels):
    levels = np.arange(1, num + 1, dtype=np.uint8) * 3
    return np.broadcast_to(levels[:, None, None, None], (num, height, width, channels)).copy()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_sheet_puts_image_i_at_its_row_and_column(smooth, channels):
    """Catches: column-major order, height for width, a separator counted twice."""
    sheet = pictures.sheet(
        flat_images(5, 4, 6, channels), num_columns=3, scale=2, smooth=smooth, separator=1
    )
    assert sheet.shape == (2 * 9 + 1, 3 * 13 + 1, channels)
    for index in range(5):
        row, column = divmod(index, 3)
        cell = sheet[row * 9 + 1 : row * 9 + 9, column * 13 + 1 : column * 13 + 13]
        assert (cell == 3 * (index + 1)).all()


def test_sheet_without_smoothing_repeats_pixels():
    """Catches: interpolation that makes up levels."""
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    sheet = pictures.sheet(image, num_columns=1, scale=3, separator=0)
    assert np.array_equal(sheet, image[0].repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize(
    ("num", "size", "columns", "width"), [(100, 8, 10, 728), (10, 8, 4, 740), (101, 32, 11, 728)]
)
def test_grid_is_nearly_square_and_of_a_size_to_look_at(num, size, columns, width):
    """Catches: floor for ceil of the root, and digits the size of a stamp."""
    grid = pictures.grid(np.zeros((num, size, size, 3), np.uint8))
    rows = -(-num // columns)
    assert grid.shape[1] == width
    # Between the images and at both edges a gap of one enlarged pixel, at least 2.
    gap = max(2, width // (columns * (size + 1)))
    assert (grid.shape[0] - gap) * columns == (width - gap) * rows
    assert 600 <= width <= 900


@pytest.mark.parametrize("channels", [1, 3])
def test_strip_has_a_row_for_each_image_and_a_column_for_each_moment(channels):
    """Catches: images and moments exchanged."""
    frames = np.stack([flat_images(3, 8, 8, channels) + 50 * moment for moment in range(4)])
    blocks = [("left", frames), ("right", frames // 2)]
    strip = pictures.strip(blocks, captions=["3", "2", "1", "0"])
    assert strip.shape == (48 + 3 * 113 + 1 + 12, 2 * (4 * 113 + 1) + 3 * 12, channels)
    left = strip[49:, 13:]
    for row in range(3):
        for moment in range(4):
            cell = left[row * 113 : row * 113 + 112, moment * 113 : moment * 113 + 112]
            assert (cell == frames[moment, row, 0, 0, 0]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_to_png_is_read_back_by_others(channels):
    """Catches: channels that Pillow takes for something else."""
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(io.BytesIO(pictures.to_png(image))) as read:
        assert np.array_equal(np.asarray(read).reshape(5, 7, channels), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_preview_shows_the_same_in_fewer_bytes(channels):
    """Catches: a copy over the limit, one distorted, dark or shrunk for nothing."""
    levels = np.linspace(0, 255, 600 * 400 * channels).reshape(600, 400, channels)
    noise = np.random.default_rng(0).normal(0, 20, levels.shape)
    picture_u8 = (levels + noise).clip(0, 255).astype(np.uint8)
    png = pictures.to_png(picture_u8)
    for max_bytes, is_shrunk in ((len(png), False), (20_000, True), (1_000, True)):
        with Image.open(io.BytesIO(pictures.preview(png, max_bytes=max_bytes))) as preview:
            assert preview.fp.seek(0, io.SEEK_END) <= max_bytes
            assert (preview.size != (400, 600)) == is_shrunk
            assert preview.height / preview.width == pytest.approx(1.5, rel=0.1)
            shown = np.asarray(preview, np.float64)
        assert shown.mean() == pytest.approx(picture_u8.mean(), abs=2)
        assert shown[-1].mean() > shown[0].mean() + 200


def test_rows_by_name_are_as_wide_as_the_longest():
    """Catches a sheet of four images a class with room for ten, and a row whose end is cut off."""
    rows = [
        (name, np.full((count, 8, 8, 1), 200, np.uint8)) for name, count in (("a", 4), ("b", 3))
    ]
    sheet = pictures.named_rows(rows)
    bright = (sheet[:, :, 0] == 200).any(axis=0)
    # 8 x 8 pixels each, and as much between them as there is around them.
    assert np.count_nonzero(bright) == 4 * 64
    assert sheet.shape[1] - np.flatnonzero(bright)[-1] <= 24
