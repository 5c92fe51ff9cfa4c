"""Small data sets in which each image has one grey value that no other has."""

from fractions import Fraction

import numpy as np

from ddpm_core.composing.agree import Given
from ddpm_core.composing.compose import compose, plan
from ddpm_core.config import ComputeConfig, DataConfig
from ddpm_core.sharding.bundle import Bundle
from ddpm_core.sharding.dataset import make_dataset
from ddpm_core.shards.index import load_index
from ddpm_core.sources.raw_images import RawImages
from ddpm_core.sources.splits import Splits

DATA = DataConfig(num_test_images=3, images_per_shard=4)


def made(store, *, train, test, classes=("cat", "dog"), data=DATA):
    """The index of a data set of images of these grey values; their classes go by turns."""

    def images(values, name):
        grey = np.array(values, np.uint8)[:, None, None, None]
        pixels = np.broadcast_to(grey, (len(values), data.height, data.width, 1)).copy()
        return RawImages(pixels, np.arange(len(values)) % len(classes), name)

    source = Bundle(Splits(images(train, "train"), images(test, "test"), classes))
    compute = ComputeConfig(num_workers=1)
    found = make_dataset(store, data, source, compute, images_sha256=source.digest())
    return load_index(store, found.folder, found.body["fingerprint"])


def composed(store, *indexes, weights=(), keys=None, **changes):
    """The index of what is made of these, and the plan by which it was."""
    shares = [Fraction(one) for one in weights] or [None] * len(indexes)
    given = [Given(f"set {at}", index, shares[at]) for at, index in enumerate(indexes)]
    data = DATA.model_copy(update=changes)
    own = plan(data, given, keys=keys)
    compose(store, own)
    return load_index(store, own.pointer.folder, own.pointer.fingerprint)


def values_of(images, numbers=None):
    """The grey value of each image, in order."""
    numbers = np.arange(len(images)) if numbers is None else numbers
    return images.take(numbers)[:, 0, 0, 0].tolist()


def labels_of(images):
    return images.member("label", np.arange(len(images))).tolist()
