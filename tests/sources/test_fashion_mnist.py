import re

import numpy as np

from ddpm_core.sources import fashion_mnist, mnist
from ddpm_core.sources.mnist import read_folder
from tests.sharding.small import mnist_arrays, write_mnist


def test_fashion_mnist_is_read_as_mnist_is(tmp_path):
    """Catches another reader for the same four files."""
    train, test = read_folder(write_mnist(tmp_path))
    for seed, images in enumerate((train, test)):
        pixels, labels = mnist_arrays(len(images), seed=seed)
        np.testing.assert_array_equal(images.images_u8[..., 0], pixels)
        np.testing.assert_array_equal(images.labels, labels)


def test_published_files_are_those_of_mnist_by_name_and_others_by_content():
    """Catches one data set downloaded in the name of the other, and a digest that is cut."""
    assert [f.name for f in fashion_mnist.PUBLISHED] == [f.name for f in mnist.PUBLISHED]
    digests = [f.sha256 for f in (*fashion_mnist.PUBLISHED, *mnist.PUBLISHED)]
    assert len(set(digests)) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    urls = [url for f in fashion_mnist.PUBLISHED for url in f.urls]
    assert all(url.startswith("https://") for url in urls)
    assert len(fashion_mnist.CLASSES) == 10
