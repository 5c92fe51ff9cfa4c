"""The conditioning: one object, one null, and nothing where nothing is given."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ddpm_core import conditioning
from ddpm_core.conditioning import NOTHING, Conditioning, cat, require_accepted
from ddpm_core.errors import DataError

LABELS = torch.tensor([3, 1, 4, 1, 5])
NULL = Conditioning(label=torch.tensor([10]))


@dataclass(frozen=True)
class Words:
    """A part of two tensors, as a text's is."""

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Richer(Conditioning):
    """A conditioning with parts that are no single tensor."""

    words: tuple[Words, ...] = ()


def words_of(start, count):
    tokens = torch.arange(start, start + count * 6).reshape(count, 3, 2)
    return Words(tokens, tokens[..., 0] % 2 == 0)


def same(first, second):
    assert len(first.words) == len(second.words)
    return all(
        torch.equal(a.tokens, b.tokens) and torch.equal(a.mask, b.mask)
        for a, b in zip(first.words, second.words, strict=True)
    )


def test_rows_are_taken_of_every_part_by_number_and_by_choice():
    """Catches a part that keeps its rows: image 0's text beside image 1's label."""
    given = Richer(label=LABELS, words=(words_of(0, 5), words_of(100, 5)))
    index = torch.tensor([4, 0])
    taken = given.rows(index)
    assert taken.label.tolist() == [5, 3]
    assert torch.equal(taken.words[1].tokens, given.words[1].tokens[[4, 0]])
    assert torch.equal(taken.words[0].mask, given.words[0].mask[[4, 0]])
    chosen = given.rows(torch.tensor([False, True, False, True, False]))
    assert chosen.label.tolist() == [1, 1]


def test_cat_undoes_rows():
    given = Richer(label=LABELS, words=(words_of(0, 5),))
    again = cat([given.rows(torch.arange(2)), given.rows(torch.arange(2, 5))])
    assert torch.equal(again.label, LABELS)
    assert same(again, given)


def test_rows_of_other_parts_are_not_put_together():
    with pytest.raises(DataError, match="cannot be put together: label; no conditioning"):
        cat([Conditioning(label=LABELS), NOTHING])


def test_a_dropped_row_is_the_null_and_the_others_stay():
    """Catches the two swapped, and a null of zeros, which is a class."""
    keep = torch.tensor([True, False, True, True, False])
    found = Conditioning(label=LABELS).where({"label": keep}, NULL)
    assert found.label.tolist() == [3, 10, 4, 1, 10]


def test_parts_are_dropped_each_by_its_own_draw():
    """Catches one draw for all parts."""
    given = Richer(label=LABELS, words=(words_of(0, 5),))
    null = Richer(label=NULL.label, words=(words_of(-6, 1),))
    keep = torch.tensor([True, False, False, True, True])
    found = given.where({"words": keep}, null)
    assert torch.equal(found.label, LABELS)
    assert torch.equal(found.words[0].tokens[1], null.words[0].tokens[0])
    assert torch.equal(found.words[0].tokens[3], given.words[0].tokens[3])


@pytest.mark.parametrize(
    ("given", "null"), [(NOTHING, NULL), (Conditioning(label=LABELS), NOTHING)]
)
def test_a_part_without_value_or_null_is_not_dropped(given, null):
    with pytest.raises(DataError, match="'label' cannot be dropped"):
        given.where({"label": torch.ones(5, dtype=torch.bool)}, null)


def test_one_row_is_repeated():
    assert NULL.repeated(3).label.tolist() == [10, 10, 10]


def test_nothing_stays_the_same_object():
    """Catches an unconditional run that pays for conditioning in each step."""
    assert NOTHING.rows(torch.arange(2)) is NOTHING
    assert NOTHING.to(torch.device("cpu")) is NOTHING
    assert NOTHING.repeated(4) is NOTHING
    assert NOTHING.parts == frozenset()


def test_a_network_is_called_with_exactly_what_it_takes():
    """Catches the forgotten caption: a silent unconditional result."""
    given = Conditioning(label=LABELS)
    require_accepted(given, frozenset({"label"}), model="the U-Net of digits")
    require_accepted(NOTHING, frozenset(), model="the U-Net of digits")
    with pytest.raises(DataError, match="takes label and was called with no conditioning"):
        require_accepted(NOTHING, frozenset({"label"}), model="the U-Net of digits")
    with pytest.raises(DataError, match="takes no conditioning and was called with label"):
        require_accepted(given, frozenset(), model="the U-Net of digits")


def test_what_is_no_part_is_refused():
    with pytest.raises(TypeError, match="list is no part"):
        conditioning.cat([Conditioning(label=[1])])
