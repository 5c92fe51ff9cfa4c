"""Tokens: the numbers of ByT5, whole characters, and an end even where nothing stands before it."""

import pytest
import torch
from transformers import ByT5Tokenizer

from ddpm_core.errors import ConfigError
from ddpm_core.text import tokens

TEXTS = ["", "a red seven", "eine rote Füchsin", "狐", "🦊 two\nlines", "x" * 40]


def test_tokens_are_those_of_byt5():
    """Catches another order of the special tokens, a lost end, and a mask of the wrong side."""
    theirs = ByT5Tokenizer()(TEXTS, padding="max_length", max_length=48, return_tensors="pt")
    ours = tokens.encode(TEXTS, 48)
    assert torch.equal(ours.tokens, theirs["input_ids"])
    assert torch.equal(ours.mask, theirs["attention_mask"].bool())
    assert tokens.decode(ours) == TEXTS
    assert [tokens.num_tokens(text) for text in TEXTS] == ours.mask.sum(1).tolist()


CUTS = [(1, ""), (2, ""), (3, "ü"), (4, "üa"), (6, "üa"), (7, "üa狐")]


@pytest.mark.parametrize(("length", "left"), CUTS)
def test_a_text_that_is_too_long_is_cut_between_characters(length, left):
    """Catches a cut inside a character, and a text that loses its end where it is cut."""
    cut = tokens.encode(["üa狐"], length)
    assert tokens.decode(cut) == [left]
    assert (cut.tokens == tokens.END).sum() == 1


def test_what_is_no_text_is_refused():
    with pytest.raises(ConfigError, match="UTF-8"):
        tokens.encode(["\ud800"], 8)
    with pytest.raises(ConfigError, match="at least 1"):
        tokens.encode(["a"], 0)
