"""The judge of captions, on pictures of two words: which half is lit, and how brightly."""

import numpy as np
import pytest
import torch

from ddpm_core.evaluation.features import judge
from ddpm_core.loading.held import ImageSet
from ddpm_core.loading.texts import Texts
from ddpm_core.text.words import has_words

CPU = torch.device("cpu")
SIDES, LEVELS = ("left", "right"), {"dim": 90, "bright": 250}


class Worded(ImageSet):
    """Images in memory whose captions say how they look."""

    def captions(self, numbers):
        return [captions_of(*PAIRS[self.others["label"][number]]) for number in numbers.tolist()]


PAIRS = [(side, level) for side in SIDES for level in LEVELS]


def captions_of(side, level):
    return (f"the {side}, {level}", f"{level} {side}")


def images_of(count, pairs):
    """Return images of these pairs in turn, with noise."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.tensor([pairs[number % len(pairs)] for number in range(count)])
    pixels = torch.zeros(count, 1, 8, 8)
    for row, label in zip(pixels, labels.tolist(), strict=True):
        side, level = PAIRS[label]
        row[..., :4] = LEVELS[level] if side == "left" else 0
        row[..., 4:] = LEVELS[level] if side == "right" else 0
    pixels = (pixels + 10 * torch.randn(pixels.shape, generator=generator)).clamp(0, 255)
    return Worded(pixels.to(torch.uint8), {"label": labels}, 4, (count,))


@pytest.fixture(scope="module")
def learned():
    """Give a judge that lacks one pair among its training images: bright ones on the right."""
    train, test = images_of(240, [0, 1, 2]), images_of(160, [0, 1, 2, 3])
    return judge.train_judge(train, test, Texts(16), num_steps=150, device=CPU)


def test_it_finds_words_also_together_that_the_training_images_never_have_together(learned):
    """Catches a judge that has learned that two words exclude one another, and words that are in
    every caption."""
    words, network = learned
    assert words == ("bright", "dim", "left", "right")
    test = images_of(160, [0, 1, 2, 3])
    found = judge.found_in(network, test.images(0, 160)).numpy()
    has = has_words(test.captions(np.arange(160)), words)
    rest = ~judge.is_learned_from(160)
    unseen = rest & (np.arange(160) % 4 == 3)
    assert (found == has)[rest].all(1).mean() > 0.95
    assert (found == has)[unseen].all(1).mean() > 0.95


def test_a_file_of_it_is_it(learned):
    words, network = learned
    again, same = judge.from_bytes(judge.to_bytes(words, network))
    assert again == words
    images = images_of(20, [0, 3]).images(0, 20)
    assert torch.equal(judge.found_in(network, images), judge.found_in(same, images))


def test_it_is_measured_on_what_it_has_not_learned_from():
    """Catches halves that alternate image by image, where neighbours may be one picture."""
    learned = judge.is_learned_from(1000)
    assert 0.45 < learned.mean() < 0.55
    assert (np.diff(learned.astype(int)) != 0).sum() < 20
    assert judge.is_learned_from(0).shape == (0,)
    assert 0 < judge.is_learned_from(3).sum() < 3


def test_captions_that_do_not_differ_give_no_words():
    train = images_of(30, [1])
    words, _ = judge.train_judge(train, train, Texts(16), num_steps=5, device=CPU)
    assert words == ()


def test_other_templates_are_another_judge():
    """Catches a judge of other words that is taken for this one."""
    first = judge.recipe("0" * 64, 10, Texts(16, ("a {name}",)))
    assert first != judge.recipe("0" * 64, 10, Texts(16, ("{name}",)))
    assert judge.recipe("0" * 64, 10, Texts(16)) == judge.recipe("0" * 64, 10, Texts(32))


def test_captions_of_many_images_are_taken_evenly():
    images = images_of(100, [0, 1, 2, 3])
    assert judge.captions_at(images, Texts(16), 10) == images.captions(np.arange(0, 100, 10))
    assert len(judge.captions_at(images, Texts(16))) == 100
