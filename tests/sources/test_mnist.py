import gzip

import numpy as np
import pytest

from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.sources.splits import load_splits
from tests.sharding.small import idx, mnist_arrays, write_mnist


def mnist_at(folder, **changes):
    values = {"name": "mnist", "source": str(folder), "height": 32, "width": 32}
    return DataConfig(**{**values, **changes})


@pytest.mark.parametrize("compressed", [True, False])
def test_mnist_is_read_and_padded_around_the_centre(compressed, tmp_path):
    """Catches exchanged axes, padding on one side, and train files read as test files."""
    splits = load_splits(
        mnist_at(write_mnist(tmp_path, compressed=compressed)), cache=tmp_path / "x"
    )
    for seed, images in enumerate((splits.train, splits.test)):
        pixels, labels = mnist_arrays(len(images), seed=seed)
        assert images.images_u8.shape[1:] == (32, 32, 1)
        np.testing.assert_array_equal(images.images_u8[:, 2:30, 2:30, 0], pixels)
        np.testing.assert_array_equal(images.labels, labels)
        assert images.labels.dtype == np.int64
        images.images_u8[:, 2:30, 2:30] = 0
        assert not images.images_u8.any()
    assert (len(splits.train), len(splits.test)) == (10, 6)
    assert [splits.train.name, splits.test.name] == ["train", "test"]
    assert not (tmp_path / "x").exists()


def test_odd_padding_goes_below_and_to_the_right(tmp_path):
    """Catches a crash or a lost row where the rest is odd."""
    splits = load_splits(mnist_at(write_mnist(tmp_path), height=31, width=28), cache=tmp_path)
    assert splits.train.images_u8.shape == (10, 31, 28, 1)
    np.testing.assert_array_equal(splits.train.images_u8[:, 1:29, :, 0], mnist_arrays(10)[0])


def test_num_test_images_takes_the_beginning_of_the_test_split(tmp_path):
    """Catches holding out training images, or reordering."""
    folder = write_mnist(tmp_path)
    whole = load_splits(mnist_at(folder), cache=tmp_path)
    some = load_splits(mnist_at(folder, num_test_images=2), cache=tmp_path)
    np.testing.assert_array_equal(some.test.images_u8, whole.test.images_u8[:2])
    np.testing.assert_array_equal(some.train.images_u8, whole.train.images_u8)
    with pytest.raises(DataError, match=r"num_test_images=7, but the test split .* has 6"):
        load_splits(mnist_at(folder, num_test_images=7), cache=tmp_path)


PIXELS, LABELS = mnist_arrays(4)
WIDE = mnist_arrays(10)[0].reshape(10, 14, 56)
BAD_MNIST = {
    "images: nothing": ("train-images-idx3-ubyte", b""),
    "images: half a header": ("train-images-idx3-ubyte", idx(PIXELS)[:9]),
    "images: no IDX": ("train-images-idx3-ubyte", b"<html>404 not found</html>"),
    "images: floats": ("train-images-idx3-ubyte", idx(PIXELS, magic=0xD03)),
    "images: labels": ("train-images-idx3-ubyte", idx(LABELS)),
    "images: other size": ("train-images-idx3-ubyte", idx(PIXELS[:, :20, :20])),
    "images: other shape": ("train-images-idx3-ubyte", idx(WIDE)),
    "images: none": ("train-images-idx3-ubyte", idx(PIXELS[:0])),
    "images: cut": ("train-images-idx3-ubyte", idx(PIXELS)[:-1]),
    "images: trailing": ("train-images-idx3-ubyte", idx(PIXELS) + b"x"),
    "images: count of 2**32-1": ("train-images-idx3-ubyte", idx(PIXELS).replace(
        b"\0\0\0\x04", b"\xff" * 4, 1)),
    "images: count of 100000": ("train-images-idx3-ubyte", idx(PIXELS).replace(
        b"\0\0\0\x04", b"\0\x01\x86\xa0", 1)),
    "images: fewer than labels": ("train-images-idx3-ubyte", idx(PIXELS)),
    "labels: cut": ("train-labels-idx1-ubyte", idx(LABELS)[:-1]),
    "labels: no class": ("train-labels-idx1-ubyte", idx(np.full(10, 10, np.uint8))),
    "test labels: trailing": ("t10k-labels-idx1-ubyte", idx(LABELS) + b"x"),
}  # fmt: skip


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(("name", "content"), BAD_MNIST.values(), ids=BAD_MNIST)
def test_mnist_that_is_damaged_is_refused(name, content, compressed, tmp_path):
    """Catches short reads, trailing bytes and lying headers taken for images."""
    folder = write_mnist(tmp_path, compressed=compressed)
    path = folder / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DataError, match=rf"{path.name}.*(must|begins with|not even)(.|\n)*etch"):
        load_splits(mnist_at(folder), cache=tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-10],
        lambda whole: whole[:100],
        lambda whole: whole + b"garbage",
        lambda whole: whole[:10] + b"\xff" + whole[11:],
        lambda whole: whole[:-8] + b"\0\0\0\0" + whole[-4:],
        lambda _whole: b"no gzip at all, but long enough",
    ],
)
def test_gzip_that_is_damaged_is_refused(damage, tmp_path):
    """Catches an EOFError, a BadGzipFile or a zlib.error that comes out bare."""
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{path.name} cannot be read: .*\. Fetch"):
        load_splits(mnist_at(tmp_path), cache=tmp_path)


def test_mnist_that_is_not_there_is_named(tmp_path):
    """Catches a FileNotFoundError that does not say what belongs there."""
    folder = write_mnist(tmp_path / "folder")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"has no t10k-labels-idx1-ubyte and no .*gz.*'default'"):
        load_splits(mnist_at(folder), cache=tmp_path)
    (folder / "t10k-labels-idx1-ubyte.gz").mkdir()
    with pytest.raises(DataError, match="no regular file"):
        load_splits(mnist_at(folder), cache=tmp_path)
    for source in (tmp_path / "nowhere", "s3://bucket/mnist"):
        with pytest.raises(DataError, match=r"data\.source=.* is no folder on this machine"):
            load_splits(mnist_at(source), cache=tmp_path)
