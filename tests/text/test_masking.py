"""Bytes that are hidden: which, how many, and what becomes of them."""

import pytest
import torch

from ddpm_core.text.masking import choose_bytes, hide, hide_most
from ddpm_core.text.tokens import END, FIRST_BYTE, HIDDEN, decode, encode


def test_bytes_alone_are_chosen_and_one_of_each_text_that_has_any():
    """Catches: an end or a filling that is to be said, a text of which nothing is, and a share of
    what is not chosen."""
    text = encode(["abcd", "", "é"], 6)
    drawn = torch.tensor([0.3, 0.05, 0.2, 0.9, 0.0, 0.0]).expand(3, 6)
    chosen = choose_bytes(text, drawn, 0.15)
    assert chosen.tolist() == [[0, 1, 0, 0, 0, 0], [0] * 6, [0, 1, 0, 0, 0, 0]]
    none = choose_bytes(text, drawn.clamp(min=0.2), 0.15)
    assert none.sum(dim=1).tolist() == [2, 0, 1]
    assert choose_bytes(text, drawn, 1.0).sum(dim=1).tolist() == [4, 0, 2]


def test_hidden_bytes_are_hidden_and_the_rest_stays():
    """Catches: a mark of what is hidden that a byte has too, a mask that changes."""
    text = encode(["abcd", ""], 6)
    chosen = torch.zeros(2, 6, dtype=torch.bool)
    chosen[0, 1:3] = True
    found = hide(text, chosen)
    assert found.tokens[0].tolist() == [97 + 3, HIDDEN, HIDDEN, 100 + 3, END, 0]
    assert HIDDEN < FIRST_BYTE
    assert torch.equal(found.mask, text.mask)
    assert decode(text) == ["abcd", ""]


def test_of_ten_chosen_eight_are_hidden_one_is_exchanged_and_one_stays():
    """Catches: shares of all bytes instead of the chosen, another byte that is always the same, and
    bytes that were not chosen and change."""
    text = encode(["m" * 63] * 400, 64)
    drawn = torch.rand(400, 64, 3, generator=torch.Generator().manual_seed(0))
    chosen = choose_bytes(text, drawn[..., 0], 0.5)
    found = hide_most(text, chosen, drawn[..., 1:]).tokens
    assert torch.equal(found[~chosen], text.tokens[~chosen])
    of_chosen = found[chosen]
    shares = [(of_chosen == HIDDEN), (of_chosen == ord("m") + 3)]
    hidden, kept = (float(one.float().mean()) for one in shares)
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1 + 0.1 / 256, abs=0.02)
    others = of_chosen[(of_chosen != HIDDEN) & (of_chosen != ord("m") + 3)] - FIRST_BYTE
    assert others.min() >= 0
    assert others.max() <= 255
    assert len(others.unique()) > 240
