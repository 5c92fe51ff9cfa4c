"""Which images stay, beside sets and loops that say the same."""

import hashlib

import numpy as np
import pytest

from ddpm_core.composing.choose import Row, chosen_labels, listed_keys, require_known, stay, unknown
from ddpm_core.errors import ConfigError


def row(contents: str, *, first: int = 0, labels: list[int] | None = None) -> Row:
    """A shard of images whose files are these letters."""
    digests = b"".join(hashlib.sha256(one.encode()).digest() for one in contents)
    return Row(
        np.array(labels if labels is not None else [0] * len(contents), np.int64),
        tuple((f"key-{first + at}",) for at in range(len(contents))),
        np.frombuffer(digests, np.uint64).reshape(-1, 4),
    )


def test_of_equal_images_the_first_stays_and_a_held_out_one_before_any_that_is_trained_on():
    """Catches: the last of equal ones, duplicates found within one shard only, and a training
    image whose equal is held out."""
    train, test = [row("abca"), row("dcx")], [row("xyy")]
    masks, left_out = stay(train, test, keys=None, drop_duplicates=True)
    assert [mask.tolist() for mask in masks["train"]] == [
        [True, True, True, False],
        [True, False, False],
    ]
    assert [mask.tolist() for mask in masks["test"]] == [[True, True, False]]
    assert (left_out["train"].duplicates, left_out["test"].duplicates) == (3, 1)


def test_files_are_equal_only_if_all_of_their_digests_is():
    """Catches: the first eight bytes taken for the whole, and equal ones that are not neighbours
    once sorted by a part."""
    digests = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4], [0, 2, 3, 4]], np.uint64)
    rows = [Row(np.zeros(4, np.int64), ((),) * 4, digests)]
    masks, _ = stay(rows, [], keys=None, drop_duplicates=True)
    assert masks["train"][0].tolist() == [True, True, False, True]
    assert unknown(rows, [Row(np.zeros(1, np.int64), ((),), digests[1:2] + np.uint64(1))])[1] == 0


def test_without_a_rule_all_stay():
    masks, left_out = stay([row("aa")], [row("a")], keys=None, drop_duplicates=False)
    assert all(mask.all() for split in masks.values() for mask in split)
    assert {sum(one.entry().values()) for one in left_out.values()} == {0}


def test_an_image_that_is_left_out_anyway_is_no_first_of_its_equals():
    """Catches: duplicates dropped before the choice by class, which loses both of two equals."""
    masks, left_out = stay(
        [row("aab", labels=[-1, 0, -1])], [row("z")], keys=None, drop_duplicates=True
    )
    assert masks["train"][0].tolist() == [False, True, False]
    assert left_out["train"].entry() == {"by_class": 2, "unlisted": 0, "duplicates": 0}


def test_a_list_chooses_by_key_and_may_not_name_what_is_not_there():
    rows = [row("abc"), row("de", first=3)]
    keys = listed_keys(b"key-1\n\nkey-4\r\nkey-5\n")
    masks, left_out = stay(rows, [row("f", first=5)], keys=keys, drop_duplicates=False)
    assert [mask.tolist() for mask in masks["train"]] == [[False, True, False], [False, True]]
    assert left_out["train"].unlisted == 3
    require_known(keys, [*rows, row("f", first=5)])
    with pytest.raises(ConfigError, match='1 keys that no image has, as "key-5"'):
        require_known(keys, rows)


def test_classes_keep_their_order_and_are_numbered_anew():
    """By name or number; catches: the order in which they are given, which would make two data
    sets of one; and labels that keep the gaps, which a network of as many labels cannot have."""
    names = ("cat", "dog", "owl")
    assert chosen_labels(names, ()) == (names, (0, 1, 2))
    assert chosen_labels(names, ("owl", 0)) == (("cat", "owl"), (0, -1, 1))


@pytest.mark.parametrize("only", [("cow",), (3,), (0, "cat"), (-1,)])
def test_classes_that_are_none_or_said_twice_are_refused(only):
    with pytest.raises(ConfigError, match=r"data\.only_classes"):
        chosen_labels(("cat", "dog", "owl"), only)
