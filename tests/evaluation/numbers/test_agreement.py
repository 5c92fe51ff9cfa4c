"""Words of captions, and agreement with them, on judgements that are made up."""

import numpy as np
import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.evaluation.numbers.agreement import (
    agreement,
    are_together,
    balanced_accuracy,
    by_word,
    shuffled,
)
from ddpm_core.evaluation.numbers.by_caption import Read, agreement_metric
from ddpm_core.text import words
from ddpm_core.text.words import has_words, vocabulary, words_of
from tests.sampling.tiny import tiny_config

COLOURS, DIGITS = ("blue", "green", "red"), ("five", "seven", "two")
WORDS = tuple(sorted([*COLOURS, *DIGITS]))


def of(*texts):
    """Return which of the words each text has."""
    return has_words([[text] for text in texts], WORDS)


def test_words_are_runs_of_letters_in_small_ones():
    """Catches words with their commas, letters beyond ASCII that split a word, and capitals."""
    assert words_of("A red, RED Straße-7\n") == {"a", "red", "strasse", "7"}
    assert words_of("rote Äpfel 七") == {"rote", "äpfel", "七"}
    assert words_of(" .,- ") == frozenset()


def test_the_vocabulary_is_what_captions_differ_by(monkeypatch):
    """Catches words that all images have, one that is counted twice for an image, and an order
    that depends on the images'."""
    captions = [[f"a {c} {d}", f"{d} in {c}"] for c in COLOURS for d in DIGITS]
    assert vocabulary(captions) == WORDS
    assert vocabulary(captions[::-1]) == WORDS
    assert vocabulary([["a"]] * 3) == ()
    monkeypatch.setattr(words, "MAX_WORDS", 2)
    assert vocabulary([*captions, ["red"], ["red two"]]) == ("red", "two")
    monkeypatch.setattr(words, "LEAST_SHARE", 0.4)
    assert vocabulary(captions) == (), "each is in a third"


def test_several_captions_of_an_image_are_one_set_of_words():
    found = has_words([["a red seven", "SEVEN of blue"], [], ["nothing"]], WORDS)
    assert [WORDS[column] for column in np.flatnonzero(found[0])] == ["blue", "red", "seven"]
    assert not found[1:].any()


def test_balanced_accuracy_of_a_judge_that_always_says_the_same_is_a_half():
    """Catches a rare word that seems to be found by a judge that never finds it."""
    has = np.zeros((100, 4), bool)
    has[:3, 0], has[:50, 1], has[:, 2] = True, True, True
    never = np.zeros_like(has)
    assert balanced_accuracy(never, has).tolist() == [0.5] * 4
    assert balanced_accuracy(has, has).tolist() == [1, 1, 0.5, 0.5]
    half = has.copy()
    half[:25, 1] = False
    assert balanced_accuracy(half, has)[1] == pytest.approx((0.5 + 1) / 2)


def test_agreement_is_of_all_visible_words_and_tells_seen_from_unseen():
    """Catches a sample that is right with one of two words, words that cannot be seen, and a
    combination that is seen because each of its words is."""
    train = of("red seven", "blue two", "blue seven", "green five")
    wanted = of("red seven", "red two", "blue two", "nothing of it", "red five")
    found = of("red seven", "red seven", "blue two five", "green", "red five")
    visible = np.array([word not in ("five", "green") for word in WORDS])
    said = agreement(found, wanted, visible, train)
    assert said.num == {"all": 4, "seen": 3, "unseen": 1, "words": 7}
    assert said.all == pytest.approx(3 / 4)
    assert said.seen == 1.0
    assert said.unseen == 0.0
    assert said.words == pytest.approx(6 / 7)
    assert said.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    nothing = agreement(found, wanted, np.zeros(6, bool), train)
    assert (nothing.all, nothing.seen, nothing.words, nothing.standard_error) == (None,) * 4
    with pytest.raises(ConfigError, match="not of the same samples"):
        agreement(found[:2], wanted, visible, train)


def test_words_are_together_where_one_image_has_all_of_them():
    """Catches words that are taken from two images, and one with more words that is left out."""
    train = of("red seven blue", "two green")
    asked = of("red seven", "two", "red two", "")
    assert are_together(asked, train).tolist() == [True, True, False, True]


def test_rows_of_words_count_the_samples_that_were_to_show_them():
    visible = np.array([word in ("red", "two") for word in WORDS])
    rows = by_word(WORDS, visible, of("red", "blue"), of("red two", "red"))
    assert rows == [
        {"word": "red", "num_samples": 2, "shown": 0.5},
        {"word": "two", "num_samples": 1, "shown": 0.0},
    ]


@pytest.mark.parametrize("prompts", ["aabb", "abca", "aaab", "ab", "aaaaaaaaab", "abcdefgh"])
def test_shuffled_prompts_are_never_the_own(prompts):
    """Catches a control in which samples are set against their own prompt, and so look right."""
    order = np.random.default_rng(0).permutation(len(prompts))
    found = shuffled(len(prompts), order, prompts)
    assert all(prompts[other] != own for own, other in zip(prompts, found, strict=True))
    assert sorted(found.tolist()) == sorted(order.tolist()) or len(set(prompts)) < len(prompts)


def test_prompts_that_are_all_alike_have_no_control():
    assert shuffled(3, np.arange(3), ["a", "a", "a"]).tolist() == [-1, -1, -1]


def test_shuffled_prompts_ask_for_something_else():
    """Catches a control of samples against their own words in another wording: as high as it can
    be, of a perfect network."""
    found = np.array([[False, False, True]] * 3 + [[False, True, False]])
    prompts = [("a red",), ("red",), ("RED!",), ("blue",)]
    seen = np.tile(np.array([[False, False, True], [False, True, False]]), (8, 1))
    held_out = Read(seen, [("red",), ("blue",)] * 8)
    metric = agreement_metric(
        Read(found, prompts), held_out, [("a red",), ("blue",)], tiny_config(), {},
        words=("a", "blue", "red"), network={},
    )  # fmt: skip
    assert (metric["value"], metric["shuffled"]) == (1, 0)
