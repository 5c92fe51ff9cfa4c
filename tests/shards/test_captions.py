"""Files of captions: what is read of them, what is refused and why, and how they are counted."""

import pytest

from ddpm_core.shards.caption_rows import CaptionRows
from ddpm_core.shards.captions import (
    MAX_CAPTION_BYTES,
    MAX_CAPTIONS,
    MAX_FILE_BYTES,
    CaptionCounts,
    captions_in,
    file_of,
    sum_of,
)
from ddpm_core.shards.members import TextMember, member_of
from ddpm_core.text import tokens

READ = {
    "a line each": (b"a cat\na dog", ("a cat", "a dog")),
    "white space and empty lines": (b"\n  a cat \t\r\n\r\n\r a dog\n", ("a cat", "a dog")),
    "a byte order mark": (b"\xef\xbb\xbfa cat", ("a cat",)),
    "no line": (b" \n", ()),
    # Letters stay what they are: composed, in two parts, right to left, beyond 16 bits.
    "letters": (
        "\u00e9 e\u0301 \u05e9\u05dc\u05d5\u05dd \U0001f408\u2028b".encode(),
        ("\u00e9 e\u0301 \u05e9\u05dc\u05d5\u05dd \U0001f408\u2028b",),
    ),
    "as long as may be": (b"x" * MAX_CAPTION_BYTES, ("x" * MAX_CAPTION_BYTES,)),
}


@pytest.mark.parametrize(("content", "captions"), READ.values(), ids=READ)
def test_a_caption_is_a_line(content, captions):
    """Catches: a strip that is forgotten, `splitlines`, which cuts at U+2028, a normal form."""
    assert captions_in(content) == captions
    assert captions_in(file_of(captions)) == captions


REFUSED = {
    "latin 1": (b"caf\xe9", "no text in UTF-8: byte 3 is 0xe9; save"),
    "UTF-16": ("a cat".encode("utf-16"), "no text in UTF-8: byte 0 is 0xff"),
    "NUL": (b"a\0cat", r'NUL byte in the caption "a\\u0000cat"'),
    "too long": (b"x" * (MAX_CAPTION_BYTES + 1), f"caption of {MAX_CAPTION_BYTES + 1} bytes"),
    # Letters of two bytes: the bound is of bytes.
    "too long in bytes": (
        "\u00e9".encode() * (MAX_CAPTION_BYTES // 2 + 1),
        "caption of 4098 bytes",
    ),
    "too many": (b"x\n" * (MAX_CAPTIONS + 1), f"has {MAX_CAPTIONS + 1} captions"),
    "too large": (b" " * (MAX_FILE_BYTES + 1), f"has {MAX_FILE_BYTES + 1} bytes"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_caption_is_refused_with_its_reason(content, reason):
    with pytest.raises(ValueError, match=reason):
        captions_in(content)


def test_captions_of_json_are_a_text_or_a_list_at_a_key():
    assert captions_in(b'{"caption": "a cat\\nCAT", "other": 3}', "caption") == ("a cat", "CAT")
    assert captions_in(b'{"caption": ["a cat", "b"]}', "caption") == ("a cat", "b")
    assert captions_in(b'{"other": 3}', "caption") == ()
    assert captions_in(b'{"caption": null}', "caption") == ()
    for content, reason in (
        (b'{"caption": 3}', "neither a text nor a list"),
        (b'{"caption": ["a", 3]}', "neither a text nor a list"),
        (b"{", "is no JSON"),
        (rb'{"caption": "\ud800"}', "half a character"),
        (b'{"caption": "a\\u0000"}', "NUL byte"),
    ):
        with pytest.raises(ValueError, match=reason):
            captions_in(content, "caption")


def test_counts_are_of_bytes_and_add_up():
    """Catches: lengths in letters; a cut that forgets the token of the end; another percentile."""
    counts = CaptionCounts()
    for captions in (("\u00e9\u00e9", "abc"), (), ("abcdefghij",)):
        counts.add(captions)
    assert counts.entry() == {
        "images": [[0, 1], [1, 1], [2, 1]],
        "bytes": [[3, 1], [4, 1], [10, 1]],
    }
    assert (counts.num_with, counts.num_without, counts.longest) == (2, 1, 10)
    assert [counts.percentile(share) for share in (0.01, 1 / 3, 0.5, 2 / 3, 0.67, 1)] == [
        *(3, 3, 4, 4),
        *(10, 10),
    ]
    assert [counts.num_cut(length) for length in (11, 10, 5, 4, 3)] == [0, 1, 1, 2, 3]
    assert all(tokens.num_tokens(one) <= 11 for one in ("\u00e9\u00e9", "abc", "abcdefghij"))
    assert CaptionCounts.of_entry(counts.entry()) == counts
    assert sum_of([counts, counts]).entry()["bytes"] == [[3, 2], [4, 2], [10, 2]]
    assert str(counts) == (
        "2 images with 1 to 2 each, 1 without; half have up to 4 bytes, 95 % up to 10, the longest "
        "10"
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"images": [[1, 2]], "bytes": [[3, 1]]},
        {"images": [[1, -1]], "bytes": []},
        {"images": [[1, 1.0]], "bytes": [[1, 1]]},
        {"images": []},
    ],
)
def test_counts_that_contradict_themselves_are_refused(entry):
    with pytest.raises((KeyError, ValueError)):
        CaptionCounts.of_entry(entry)


def test_a_member_says_what_it_is():
    counts = CaptionCounts()
    counts.add(("a",))
    for member in (
        TextMember("txt"),
        TextMember("json", "caption", {"train": counts, "test": CaptionCounts()}),
    ):
        assert member_of(member.entry()) == member
    assert "counts" not in TextMember("txt").entry()


def test_rows_hold_the_captions_of_each_image():
    """Catches: ends that are shifted by one; a choice that keeps the rows of others."""
    captions = [("a", "b c"), (), ("\u00e9",), (), ("d",)]
    rows = CaptionRows.of(captions)
    assert list(rows) == captions
    import numpy as np

    chosen = rows.chosen(np.array([4, 1, 0]))
    assert list(chosen) == [("d",), (), ("a", "b c")]
    assert len(chosen.content) == 6
