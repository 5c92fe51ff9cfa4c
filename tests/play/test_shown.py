"""What a page shows, and what is painted on it."""

import numpy as np

from ddpm_core.play.shown import enlarged, mask_of, sheet_of


def test_what_is_painted_is_masked_where_half_is_covered():
    """Catches: a mask turned upside down or sideways, and a thin line that masks a whole pixel."""
    layer = np.zeros((320, 640, 4), np.uint8)
    layer[40:80, 240:320] = (208, 32, 32, 255)  # the pixel of row 1, column 3 of 8 x 8
    layer[280:290, :] = 255  # a quarter of the last row
    mask = mask_of([layer], 8, 8)
    assert np.argwhere(mask).tolist() == [[1, 3]]
    assert not mask_of([], 8, 8).any()


def test_images_are_shown_as_large_pixels():
    """Catches: smoothed pixels, and images of 16 bits of which the low bits are shown."""
    deep = np.full((2, 8, 8, 1), 257 * 100, np.uint16)
    assert set(np.asarray(enlarged(deep[0])).ravel()) == {100}
    assert enlarged(deep[0]).size == (320, 320)
    assert set(np.asarray(sheet_of(deep)).ravel()) == {100, 64}  # 64 between them
