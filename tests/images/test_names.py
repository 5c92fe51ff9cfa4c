import json

import pytest

from ddpm_core.errors import DataError
from ddpm_core.images.names import (
    HARMLESS,
    NAME_OF_A_SYSTEM,
    OTHER,
    TEXT,
    bytes_of,
    checked_name,
    quoted,
    reason_to_pass_over,
    shown,
    text_of,
)

KINDS = {
    "a.png": None,
    "train/cat/A B.JPEG": None,
    "a.b.jpg": None,
    "....webp": NAME_OF_A_SYSTEM,
    "x/.hidden.png": NAME_OF_A_SYSTEM,
    ".git/a.png": NAME_OF_A_SYSTEM,
    "__MACOSX/cat/a.png": NAME_OF_A_SYSTEM,
    "cat/Thumbs.db": NAME_OF_A_SYSTEM,
    "thumbs.db.png": None,
    "my__macosx/a.gif": None,
    "labels.CSV": TEXT,
    "x/LICENSE": TEXT,
    "readme.md": TEXT,
    "license.exe": OTHER,
    "photo.png.exe": OTHER,
    "photo": OTHER,
    "png": OTHER,
    "a.png\n": OTHER,
}


@pytest.mark.parametrize(("name", "reason"), KINDS.items(), ids=[json.dumps(one) for one in KINDS])
def test_names_tell_what_is_an_image(name, reason):
    """Catches an extension looked for anywhere in the name, and hidden files taken for images."""
    assert reason_to_pass_over(name) == reason


@pytest.mark.parametrize(
    ("name", "remedy"),
    {
        "photo.BMP": "convert it to PNG",
        "scan.tif": "16 bits",
        "weights.pkl": "write each image as a PNG",
        "stack.npy": "1 or 3 channels",
        "more.zip": "unpack it",
        "a/data.mdb": "give the folder in which it lies",
    }.items(),
)
def test_what_may_hold_images_is_distinguished_with_what_to_do(name, remedy):
    """Catches "no image" said of a thousand TIFF files, and no word of how they could be read."""
    reason = reason_to_pass_over(name)
    assert reason.startswith(OTHER)
    assert remedy in reason
    assert reason not in HARMLESS


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/a b/ä.tar", "/a b/ä.tar"),
        ("/a\x1b[31m.tar", '"/a\\u001b[31m.tar"'),
        ("/a\u202egnp.tar", '"/a\\u202egnp.tar"'),
        ("/\udcff.tar", '"/\\udcff.tar"'),
    ],
)
def test_no_control_character_of_a_place_reaches_a_terminal(place, expected):
    """Catches names that colour, clear or turn round what a terminal shows."""
    assert shown(place) == expected


UNSAFE = {
    "empty": b"",
    "parent": b"../a.png",
    "parent inside": b"a/../b.png",
    "parent at the end": b"a/..",
    "absolute": b"/etc/a.png",
    "drive": b"C:/a.png",
    "drive without a slash": b"c:a.png",
    "backslash": b"..\\a.png",
    "backslash inside": b"a\\b.png",
    "zero byte": b"a\0.png",
    "empty part": b"a//b.png",
    "dot inside": b"a/./b.png",
    "only a dot": b".",
    "ends in a slash": b"a/",
    "behind a dot": b"./../a.png",
    "absolute behind a dot": b".//etc/a.png",
    "too long": b"a" * 4097,
}


@pytest.mark.parametrize("raw", UNSAFE.values(), ids=UNSAFE)
def test_names_that_lead_elsewhere_are_refused(raw):
    """Catches a slip: a name that would be written outside of the folder it is unpacked into."""
    with pytest.raises(DataError, match=r"some\.zip holds a file named .* must be a path"):
        checked_name(raw, "some.zip")


SAFE = {
    "./a/b.png": "a/b.png",
    "././a": "a",
    "..a/b..": "..a/b..",
    "a:b.png": None,
    "a/c:d.png": "a/c:d.png",
    "-rf": "-rf",
    "ä/😀 \n.png": "ä/😀 \n.png",
}


@pytest.mark.parametrize(("name", "expected"), SAFE.items(), ids=[json.dumps(one) for one in SAFE])
def test_names_that_are_only_strange_stay_as_they_are(name, expected):
    """Catches a rule that refuses, or rewrites, more than what leads elsewhere."""
    if expected is None:
        with pytest.raises(DataError):
            checked_name(name.encode(), "some.zip")
    else:
        assert checked_name(name.encode(), "some.zip") == expected


@pytest.mark.parametrize(
    "raw", [b"a", "ä".encode(), b"\xff\xfe.png", b"\xe2\x82", bytes(range(1, 256))], ids=repr
)
def test_every_name_survives_text_and_json(raw):
    """Catches names that are not UTF-8 lost, or made equal to others, on their way to a worker."""
    assert bytes_of(json.loads(json.dumps(text_of(raw)))) == raw
    assert quoted(text_of(raw)).isascii()
    assert "\n" not in quoted(text_of(raw))
