"""Images and masks on the model's canvas: where they lie, what is known, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from ddpm_core.config.data import DataConfig
from ddpm_core.editing.canvas import Canvas, Margins
from ddpm_core.editing.files import ImageFile
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.images.decode import decode_image
from ddpm_core.sharding.file_records import shaping_of
from tests.images.pictures import noise

DATA = DataConfig(name="images", source="somewhere", height=8, width=8)


def file_of(pixels, name="a.png", **options) -> ImageFile:
    buffer = io.BytesIO()
    array = np.asarray(pixels, np.uint8)
    Image.fromarray(array).save(buffer, "JPEG" if name.endswith("jpg") else "PNG", **options)
    return ImageFile(name, buffer.getvalue(), f"folder/{name}")


def white(height, width, rows=slice(0), columns=slice(0)) -> ImageFile:
    mask = np.zeros((height, width), np.uint8)
    mask[rows, columns] = 255
    return file_of(mask, "mask.png")


def test_an_image_is_brought_to_its_place_by_the_rule_of_the_data_set():
    """Catches another cut or filter than that of training, and a photo lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (file_of(noise(30, 20, 3)), file_of(noise(20, 30, 3), "b.jpg", exif=exif)):
        expected = decode_image(file.content, shaping_of(DATA), origin="")
        assert np.array_equal(Canvas(DATA).place(file), expected)


def test_margins_leave_an_image_of_the_right_size_as_it_is():
    """Catches an outpainting that resizes, that exchanges two sides, or keeps the grey beside."""
    pixels = noise(5, 6, 3)
    canvas = Canvas(DATA, Margins.parse("top=1,left=2,bottom=2"))
    file = file_of(pixels)
    placed, known = canvas.place(file), canvas.known(None, file)
    assert np.array_equal(placed[1:6, 2:8], pixels)
    assert known[1:6, 2:8].all()
    assert known.sum() == 30
    assert np.unique(placed[~known]).tolist() == [128]


def test_a_pixel_is_known_if_all_that_it_covers_is():
    """Catches white and black exchanged, and a mask whose thin line is averaged away."""
    image = file_of(noise(64, 96, 3))
    # The middle 64 columns are cut out: column 16 of the mask is the first of the canvas.
    known = Canvas(DATA).known(white(64, 96, slice(8, 9), slice(16, 17)), image)
    assert np.argwhere(~known).tolist() == [[1, 0]]
    known = Canvas(DATA).known(white(8, 8, slice(None), slice(4, 8)), image)
    assert known[:, :4].all()
    assert not known[:, 4:].any()


def test_a_mask_lies_on_the_image_and_the_margins_beside_it_are_unknown():
    """Catches a mask that is laid on the canvas where the image is not."""
    image = file_of(noise(6, 6, 3))
    canvas = Canvas(DATA, Margins(left=2, top=2))
    known = canvas.known(white(6, 6, slice(0, 1), slice(0, 1)), image)
    assert known.sum() == 35
    assert not known[2, 2]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (white(9, 8, slice(4)), "has 8x9 pixels; it must have the 96x64 of its image folder/a.png"),
        (white(64, 96), "has no white pixel where the model draws"),
        (white(64, 96, slice(None), slice(0, 10)), "has no white pixel where the model draws"),
        (white(64, 96, slice(None), slice(None)), "has no black pixel where the model draws"),
        (file_of(noise(8, 8) // 2 * 2, "m.png"), "is not black and white: "),
        (ImageFile("m.png", b"no image", "folder/m.png"), "folder/m.png cannot be used"),
    ],
)
def test_a_mask_that_says_nothing_or_does_not_fit_is_refused(mask, words):
    """Catches a mask that is resized to whatever image, rounded to two levels, or has no effect."""
    with pytest.raises(DataError, match=words):
        Canvas(DATA).known(mask, file_of(noise(64, 96, 3)))


@pytest.mark.parametrize("text", ["left", "left=0", "left=2,left=3", "up=3", "left=2 top=2", ""])
def test_margins_that_are_none_are_refused(text):
    """Catches a side that is passed over."""
    with pytest.raises(ConfigError, match="must name pixels of the model's size"):
        Margins.parse(text)


def test_margins_that_leave_no_room_are_refused():
    """Catches an image of no pixels."""
    with pytest.raises(ConfigError, match="left=5,right=3 leaves 0x8 pixels of the 8x8"):
        Canvas(DATA, Margins(left=5, right=3))


def test_a_damaged_image_is_named_with_what_to_do_here():
    """Catches the advice of the shard stage, whose option this command has not."""
    with pytest.raises(DataError, match=r"folder/a.png cannot be used: .* Replace or remove it$"):
        Canvas(DATA).place(ImageFile("a.png", b"\x89PNG", "folder/a.png"))
