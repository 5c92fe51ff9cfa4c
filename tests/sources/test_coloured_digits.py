"""The toy data set of captions: digits in six colours, of which ten pairs are not trained on."""

from pathlib import Path

import numpy as np
import pytest

from ddpm_core.config import DataConfig
from ddpm_core.sources.coloured_digits import CLASSES, COLOURS, DIGITS, UNSEEN, captions_of
from ddpm_core.sources.splits import load_splits

CONFIG = DataConfig(name="coloured_digits", captions="beside")
DIGEST = "81929218bf54fbbb8e4502435bcca47e803cf47e7b8813f8b23b70162b687787"


@pytest.fixture(scope="module")
def splits():
    return load_splits(CONFIG, cache=Path("/nowhere"))


def test_it_is_what_it_was(splits):
    """Golden: every number of the guide's page on it is of these images and captions."""
    assert splits.digest() == DIGEST


def test_ten_pairs_are_held_out_of_each_word_alone_the_training_has_plenty(splits):
    """Catches: pairs that are trained on, a word that is never seen, a test without."""
    counts = {
        name: np.bincount(images.labels, minlength=60).reshape(6, 10)
        for name, images in (("train", splits.train), ("test", splits.test))
    }
    never = [CLASSES[at] for at in np.flatnonzero(counts["train"].ravel() == 0)]
    assert sorted(never) == sorted(UNSEEN)
    assert len(UNSEEN) == 10
    assert {name.split()[1] for name in UNSEEN} == set(DIGITS)
    assert (counts["train"] > 0).sum(axis=0).tolist() == 10 * [5]
    assert (counts["train"] > 0).sum(axis=1).min() == 8
    assert (counts["test"] > 0).all()
    assert (len(splits.train), len(splits.test)) == (7500, 1782)


def test_no_held_out_digit_is_trained_on_in_another_colour(splits):
    """Catches a split by image: the same strokes in red and in blue on both sides."""
    drawn = {
        name: {image.max(axis=-1).tobytes() for image in images.images_u8}
        for name, images in (("train", splits.train), ("test", splits.test))
    }
    assert not drawn["train"] & drawn["test"]


def test_an_image_has_the_colour_and_the_digit_of_its_class(splits):
    """Catches: colours that are exchanged, grey where there should be ink, captions of others."""
    digits = load_splits(DataConfig(num_test_images=297), cache=Path("/nowhere"))
    for images, grey in ((splits.train, digits.train), (splits.test, digits.test)):
        own = {
            image.tobytes(): label for image, label in zip(grey.images_u8, grey.labels, strict=True)
        }
        for at in range(0, len(images), 97):
            colour, digit = CLASSES[images.labels[at]].split()
            image, ink = images.images_u8[at], np.array(COLOURS[colour])
            assert (image[..., ink == 0] == 0).all()
            full = image[..., ink == 255]
            assert (full == full[..., :1]).all()
            assert DIGITS[own[full[..., :1].tobytes()]] == digit
            assert images.captions[at] == captions_of(f"{colour} {digit}")
    assert captions_of("red seven") == (
        "a red seven",
        "a red digit seven",
        "the digit seven in red",
        "red seven",
    )


def test_it_can_be_had_without_captions_and_padded():
    """Catches captions in shards that nobody wanted; colour beside the images."""
    data = DataConfig(name="coloured_digits", height=10, width=11, num_test_images=60)
    plain = load_splits(data, cache=Path("/nowhere"))
    assert plain.train.captions is plain.test.captions is None
    assert plain.train.images_u8.shape == (7500, 10, 11, 3)
    assert not plain.train.images_u8[:, 0].any()
    # The first of the held-out images are in all colours.
    assert set(plain.test.labels // 10) == set(range(6))
    assert data.num_classes == len(plain.classes) == 60
