import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpm_core.config import DataConfig
from ddpm_core.diffusion.low_resolution import shrunk
from ddpm_core.sources import cifar, mnist
from ddpm_core.sources.splits import load_splits
from tests.sharding.small import write_mnist


def digits(**changes):
    return DataConfig(**{"num_test_images": 297, **changes})


def mnist_at(folder, **changes):
    values = {"name": "mnist", "source": str(folder), "height": 32, "width": 32}
    return DataConfig(**{**values, **changes})


def test_digits_are_stretched_to_the_whole_range(tmp_path):
    """Catches 0..16 left as it is, 16 -> 256 -> 0, and truncation instead of rounding."""
    splits = load_splits(digits(), cache=tmp_path)
    values = np.unique(np.concatenate([splits.train.images_u8, splits.test.images_u8]))
    assert values.tolist() == [
        *(0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255)
    ]


def test_digits_are_all_there_once_in_one_split(tmp_path):
    """Catches images in both splits, and labels that went another way than their images."""
    from sklearn.datasets import load_digits

    splits = load_splits(digits(), cache=tmp_path)
    assert (len(splits.train), len(splits.test)) == (1500, 297)
    bunch = load_digits()
    wanted = sorted(zip(map(bytes, bunch.data.astype(np.uint8)), bunch.target, strict=True))
    got = [
        (bytes(np.rint(pixels.ravel() / 255 * 16).astype(np.uint8)), label)
        for images in (splits.train, splits.test)
        for pixels, label in zip(images.images_u8, images.labels, strict=True)
    ]
    assert sorted(got) == wanted


def test_digits_hold_out_all_classes_alike(tmp_path):
    """Catches holding out the end of the file, which other people wrote."""
    counts = np.bincount(load_splits(digits(), cache=tmp_path).test.labels)
    assert counts.min() > 15
    assert counts.max() < 45


def test_digits_hold_out_more_by_adding_to_fewer(tmp_path):
    """Catches a split that is drawn anew for every size: results would not be comparable."""
    few = load_splits(digits(num_test_images=10), cache=tmp_path).test.images_u8
    many = load_splits(digits(num_test_images=100), cache=tmp_path).test.images_u8
    assert {image.tobytes() for image in few} <= {image.tobytes() for image in many}


def test_digits_are_these_for_ever(tmp_path):
    """Catches any change of pixels, order or split: runs of two versions would not be the same."""
    digest = load_splits(digits(), cache=tmp_path).digest()
    assert digest == "a7012f5878d0df292b1bb15ac5bfee8f6750cd15828e701264f7263e426cad35"


def test_default_downloads_into_the_cache_of_the_data_set(tmp_path):
    """Catches reading before downloading, or from another folder than was downloaded to."""
    folder = write_mnist(tmp_path / "cache" / "mnist")  # as if downloaded before
    known = tuple(
        replace(
            file,
            sha256=hashlib.sha256((folder / file.name).read_bytes()).hexdigest(),
            urls=(),
        )
        for file in mnist.PUBLISHED
    )
    splits = load_splits(mnist_at("default"), cache=tmp_path / "cache", published={"mnist": known})
    assert len(splits.train) == 10


@pytest.mark.parametrize("file", [*mnist.PUBLISHED, *cifar.PUBLISHED], ids=lambda file: file.name)
def test_published_files_are_pinned_and_come_by_https(file):
    """Catches a mirror without TLS and a digest that was cut while typing."""
    assert len(bytes.fromhex(file.sha256)) == 32
    assert file.urls
    assert file.schemes == ("https",)
    assert all(url.startswith("https://") and url.endswith(file.name) for url in file.urls)


def test_digest_sees_every_pixel_label_and_the_split(tmp_path):
    """Catches a digest of the first image, of the shapes, or of the pixels without labels."""
    splits = load_splits(mnist_at(write_mnist(tmp_path)), cache=tmp_path)
    seen = {splits.digest()}
    splits.train.images_u8[-1, -1, -1] ^= 1
    seen.add(splits.digest())
    splits.test.images_u8[0, 0, 0] ^= 1
    seen.add(splits.digest())
    splits.test.labels[-1] ^= 1
    seen.add(splits.digest())
    seen.add(replace(splits, train=splits.test, test=splits.train).digest())
    assert len(seen) == 5


def test_a_bundle_is_made_small_by_the_mean_over_areas(tmp_path):
    """Catches cropping, and every second pixel: a first stage of a cascade draws what the second
    is shown of the same digits."""
    large = load_splits(digits(), cache=tmp_path).test.images_u8
    small = load_splits(digits(height=4, width=4), cache=tmp_path).test.images_u8
    images = torch.from_numpy(large).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = ((shrunk(images, (4, 4)) + 1) * 127.5).round().to(torch.uint8)
    assert np.array_equal(small, expected.permute(0, 2, 3, 1).numpy())
