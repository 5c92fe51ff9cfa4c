import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ddpm_core.errors import DataError
from ddpm_core.images import png
from tests.images.odd_files import chunk, pillow_file, png_file
from tests.images.pictures import decoded

SHAPES = [(1, 1, 1), (8, 8, 1), (32, 32, 3), (5, 7, 3), (300, 250, 1), (256, 85, 3)]


def noise(shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_pillow_reads_what_we_write(shape):
    """Catches height and width exchanged, rows without filter type, blocks over 65,535 bytes."""
    with Image.open(io.BytesIO(png.encode(noise(shape)))) as image:
        image.verify()
    with Image.open(io.BytesIO(png.encode(noise(shape)))) as image:
        assert image.mode == {1: "L", 3: "RGB"}[shape[2]]
        np.testing.assert_array_equal(np.asarray(image).reshape(shape), noise(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_decode_gives_back_what_was_encoded(shape):
    """Catches a wrong order of axes."""
    got = png.decode(png.encode(noise(shape)), shape, origin="a.png")
    np.testing.assert_array_equal(got, noise(shape))


def test_decode_reads_other_encoders():
    """Catches a decoder that only knows stored blocks."""
    buffer = io.BytesIO()
    Image.fromarray(noise((8, 8, 3))).save(buffer, "PNG")
    got = png.decode(buffer.getvalue(), (8, 8, 3), origin="a.png")
    np.testing.assert_array_equal(got, noise((8, 8, 3)))


def test_an_image_is_these_bytes_on_every_machine():
    """Catches an encoder that goes through a compression library, whose bytes differ."""
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    digest = hashlib.sha256(png.encode(image)).hexdigest()
    assert digest == "bc174d682fa5422e2d86e5538f5a8ad4edf2b3c247ca829f078e66981657ecd7"


def with_huge_text():
    """A 4x4 image with a compressed text of 100 MB, which Pillow would unpack."""
    start = png.encode(noise((4, 4, 1)))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * 2**20), 9))
    return start[:33] + text + start[33:]


def pillow(mode, size=(4, 4), form="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


def changed(at, value):
    whole = bytearray(png.encode(noise((4, 4, 1))))
    whole[at] ^= value
    return bytes(whole)


BAD = {
    "nothing": b"",
    "text": b"hello, this is no image at all",
    "other format": pillow("L", form="GIF"),
    "cut": png.encode(noise((4, 4, 1)))[:60],
    "only a start": png.encode(noise((4, 4, 1)))[:33],
    "pixels' checksum": changed(50, 1),
    "other size": png.encode(noise((4, 5, 1))),
    "colour": png.encode(noise((4, 4, 3))),
    "palette": pillow("P"),
    "alpha": pillow("LA"),
    "16 bits": pillow("I;16"),
    "huge": png.encode(np.zeros((1, 1, 1), np.uint8)).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", 2**31 - 1, 2**31 - 1)
    ),
    "huge text": with_huge_text(),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_decode_refuses_what_is_no_such_image(content):
    """Catches a decoder that converts, allocates or lets Pillow's own errors through."""
    with pytest.raises(DataError, match=r"7\.png .*again"):
        png.decode(content, (4, 4, 1), origin="7.png")


def test_decode_of_a_changed_image_is_an_image_or_refused():
    """Catches a kind of error that Pillow raises and nobody thought of."""
    whole, rng = png.encode(noise((4, 4, 1))), np.random.default_rng(0)
    for _ in range(3000):
        at, value = int(rng.integers(len(whole))), int(rng.integers(256))
        content = whole[:at] + bytes([value]) + whole[at + 1 :]
        try:
            got = png.decode(content, (4, 4, 1), origin="7.png")
        except DataError:
            continue
        assert got.shape == (4, 4, 1)


def test_pillow_never_loads_cut_images():
    """Catches a process-wide switch that turns cut images grey instead of refusing them."""
    from PIL import ImageFile

    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 2**20


SHAPES = [(1, 1, 1), (8, 8, 1), (32, 32, 3), (65535, 1, 1), (160, 160, 3), (21845, 2, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_files_of_one_shape_are_decoded_at_once(shape):
    """Catches block headers taken for pixels, where an image has more than one block."""
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    files = [png.encode(image) for image in images]
    assert {len(file) for file in files} == {png.stored_bytes(shape)}
    assert all(png.checksums_fit(file) for file in files)
    rows = np.frombuffer(b"".join(files), np.uint8).reshape(3, -1)
    pixels, fits = png.decode_stored(rows, shape)
    assert fits.all()
    np.testing.assert_array_equal(pixels, images)


@pytest.mark.parametrize("shape", [(8, 8, 1), (160, 160, 3)], ids=str)
def test_another_layout_of_the_same_length_is_not_taken_for_ours(shape):
    """Catches filtered rows, or another header, read as if they were plain pixels."""
    image = np.zeros(shape, np.uint8)
    good = np.frombuffer(png.encode(image), np.uint8)
    first = png._template(shape, np.dtype(np.uint8))[2]
    row = 1 + shape[1] * shape[2]
    for at in (0, 20, 26, 40, first - 1, first, first + row, first + (shape[0] - 1) * row):
        rows = np.stack([good, good])
        rows[1, at if at < first + 65535 else at + 5] ^= 1
        assert png.decode_stored(rows, shape)[1].tolist() == [True, False], at
        assert not png.checksums_fit(rows[1].tobytes()) or at < 37


def test_colour_of_16_bits_is_refused():
    """Catches: Pillow's 8 bits of each sample, as the lower half of 16."""
    file = png.encode(np.full((4, 4, 3), 40_000, np.uint16))
    with pytest.raises(DataError, match=r"a\.png is a PNG of 16 bits and 3 channels"):
        png.decode(file, (4, 4, 3), origin="a.png", depths=png.DEPTHS)


@pytest.mark.parametrize("shape", [(8, 8, 1), (300, 200, 1), (5, 4, 3)], ids=str)
def test_16_bits_are_kept(shape):
    """Catches: the low byte first, rows of half their length, and blocks cut within a sample."""
    images = np.random.default_rng(0).integers(0, 2**16, (2, *shape), dtype=np.uint16)
    files = [png.encode(image) for image in images]
    if shape[2] == 1:  # Pillow reads grey alone with 16 bits
        with Image.open(io.BytesIO(files[0])) as opened:
            np.testing.assert_array_equal(np.asarray(opened), images[0][..., 0])
        got = png.decode(files[1], shape, origin="a.png", depths=png.DEPTHS)
        np.testing.assert_array_equal(got, images[1])
    assert {len(file) for file in files} == {png.stored_bytes(shape, np.uint16)}
    assert all(png.checksums_fit(file) for file in files)
    rows = np.frombuffer(b"".join(files), np.uint8).reshape(2, -1)
    pixels, fits = png.decode_stored(rows, shape, np.uint16)
    assert fits.all()
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, images)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_a_plain_file_are_those_that_were_written(shape):
    """Catches rows of another length, blocks joined wrongly, and filter types in pixels."""
    rows = png.rows_of(png.encode(noise(shape)), shape)
    np.testing.assert_array_equal(png.pixels_of(rows, shape), noise(shape))
    assert png.of_rows(rows, shape) == png.encode(noise(shape))
    other = png_file(noise(shape).reshape(shape[:2] + shape[2:] * (shape[2] > 1)), color_type=2)
    if shape[2] == 3:
        assert png.rows_of(other, shape) == rows  # compressed, and as plain
    for wrong in ((shape[1], shape[0] + 1, shape[2]), (*shape[:2], 4 - shape[2])):
        assert png.rows_of(png.encode(noise(shape)), wrong) is None


def _idat(rows, *, extra=b"", cut=0, flip=0):
    """A file of 8x8 grey with this zlib stream in a chunk whose own checksum is right."""
    stream = zlib.compress(rows)
    stream = stream[: len(stream) - cut - 1] + bytes([stream[-1 - cut] ^ flip]) + extra
    whole = png.encode(noise((8, 8, 1)))
    return whole[:33] + chunk(b"IDAT", stream) + whole[-12:]


PLAIN_ROWS = b"".join(b"\0" + row.tobytes() for row in noise((8, 8, 1)))
NOT_PLAIN = {
    "filtered": pillow_file(np.add.outer(np.arange(8), np.arange(8)).astype(np.uint8), "PNG"),
    "two chunks": png_file(noise((8, 8)), color_type=0, after=chunk(b"IDAT", b"")),
    "text": png_file(noise((8, 8)), color_type=0, before=chunk(b"tEXt", b"a\0b")),
    "transparent": png_file(noise((8, 8)), color_type=0, before=chunk(b"tRNS", b"\0\1")),
    "16 bits": png_file(noise((8, 8)), color_type=0, bit_depth=16),
    "more behind": png.encode(noise((8, 8, 1))) + b"x",
    "a row short": _idat(PLAIN_ROWS[:-9]),
    "a byte long": _idat(PLAIN_ROWS + b"\0"),
    "its Adler-32 is wrong": _idat(PLAIN_ROWS, flip=1),
    "its stream is cut": _idat(PLAIN_ROWS, cut=4),
    "behind its stream": _idat(PLAIN_ROWS, extra=b"x"),
    "nothing": b"",
    "no pixels": png.encode(noise((8, 8, 1)))[:33] + png.encode(noise((8, 8, 1)))[-12:],
}


@pytest.mark.parametrize("content", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_has_no_rows(content):
    """Catches a file that is read otherwise than by the decoder that knows all of PNG."""
    assert png.rows_of(content, (8, 8, 1)) is None


def test_what_has_rows_is_what_the_decoder_takes():
    """Catches a damaged file that is taken: of each that is changed in a bit, or cut."""
    content = png.encode(noise((8, 8, 1)))
    assert png.rows_of(_idat(PLAIN_ROWS), (8, 8, 1)) == PLAIN_ROWS
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        assert png.rows_of(bytes(changed), (8, 8, 1)) is None
    for end in range(len(content)):
        assert png.rows_of(content[:end], (8, 8, 1)) is None
    np.testing.assert_array_equal(png.pixels_of(PLAIN_ROWS, (8, 8, 1)), decoded(content, 8, 8, 1))
