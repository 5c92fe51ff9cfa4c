"""Files of a shard found all at once: the same as one by one, or none."""

import dataclasses
import random

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.shards.columns import columns
from ddpm_core.shards.index import Shard
from ddpm_core.shards.tar import members
from ddpm_core.shards.tar_writer import pack
from tests.sharding.small import tar_of

ENDINGS = ("cls", "json")
COUNT, FIRST = 12, 95  # so that the numbers grow a digit


def files(kinds=("png", "jpg", "webp")):
    found = []
    for number in range(COUNT):
        key = f"train-{FIRST + number:08d}"
        found += [
            (f"{key}.{kinds[number % len(kinds)]}", bytes([number]) * (500 + 7 * number)),
            (f"{key}.cls", str(number).encode()),
            (f"{key}.json", b"{}" * (1 + 40 * number)),
        ]
    return found


def shard_of(named, **changes):
    offsets, at = [], 0
    for _, content in named:
        offsets.append(at + 512)
        at += 512 + -(-len(content) // 512) * 512
    sizes = tuple(len(content) for _, content in named[::3])
    return dataclasses.replace(Shard("a", COUNT, FIRST, tuple(offsets[::3]), sizes), **changes)


def found_in(tar, shard, endings=ENDINGS):
    return columns(np.frombuffer(tar, np.uint8), shard, "train", endings)


@pytest.mark.parametrize("write", [lambda named: pack(named)[0], lambda named: tar_of(dict(named))])
def test_the_files_are_those_that_are_found_one_by_one(write):
    """Catches columns shifted by a file, and lengths read of another header."""
    named = files()
    tar = write(named)
    one_by_one, found = members(tar, origin=""), found_in(tar, shard_of(named))
    assert found is not None
    for place, column in enumerate(found):
        own = one_by_one[place::3]
        assert column.offsets.tolist() == [file.offset for file in own]
        assert column.sizes.tolist() == [file.size for file in own]


NAMED = files()
TAR = pack(NAMED)[0]
CHANGED = {
    "another name": [*NAMED[:4], ("train-00000096.txt", b"1"), *NAMED[5:]],
    "another number": [*NAMED[:3], ("train-00000097.png", NAMED[3][1]), *NAMED[4:]],
    "a longer name": [*NAMED[:4], ("train-00000096.cls.x", b"1"), *NAMED[5:]],
    "an image of another kind": [("train-00000095.gif", NAMED[0][1]), *NAMED[1:]],
    "other order": NAMED[:3] + NAMED[6:9] + NAMED[3:6] + NAMED[9:],
    "one file more": [*NAMED, ("train-00000107.pkl", b"")],
    "one file less": NAMED[:-1],
    "more between": [*NAMED[:6], ("train-00000097.aaa", b""), *NAMED[6:]],
    "nothing": [],
}


@pytest.mark.parametrize("named", CHANGED.values(), ids=CHANGED)
def test_an_archive_of_other_files_is_not_taken(named):
    """Catches images of a shard whose files are others than the index says."""
    assert found_in(pack(named)[0], shard_of(NAMED)) is None


@pytest.mark.parametrize(
    ("tar", "changes"),
    [
        (TAR + bytes(511) + b"x", {}),
        (TAR[:-1], {}),
        (TAR[: -20 * 512], {}),
        (tar_of(dict(NAMED), type=b"2"), {}),
        (TAR, {"first_number": FIRST + 1}),
        (TAR, {"first_number": 10**8}),
        (TAR, {"offsets": tuple(offset + 512 for offset in shard_of(NAMED).offsets)}),
        (TAR, {"offsets": tuple(offset + 1 for offset in shard_of(NAMED).offsets)}),
        (TAR, {"sizes": tuple(size + 1 for size in shard_of(NAMED).sizes)}),
        (TAR, {"num_images": 11, "offsets": shard_of(NAMED).offsets[:11]}),
    ],
)
def test_what_the_index_says_otherwise_is_not_taken(tar, changes):
    assert found_in(tar, shard_of(NAMED, **changes)) is None
    assert found_in(TAR, shard_of(NAMED), ("cls",)) is None
    assert found_in(TAR, shard_of(NAMED)) is not None


def test_a_file_between_two_images_is_not_passed_over():
    """Catches what stands between the images that the index names, and nobody looked at."""
    more = [*NAMED[:6], ("train-00000096.pkl", b"cos"), *NAMED[6:]]
    tar, offsets = pack(more)
    places = (*offsets[:6:3], *offsets[7::3])
    assert found_in(tar, shard_of(NAMED, offsets=places)) is None


def test_no_changed_header_leads_elsewhere():
    """Catches a field that is not looked at and says what a file is, or where the next one lies."""
    rng, shard = random.Random(0), shard_of(NAMED)  # noqa: S311
    good = [column.offsets.tolist() for column in found_in(TAR, shard)]
    headers = [file.offset - 512 for file in members(TAR, origin="")]
    num_none = 0
    for _ in range(300):
        changed = bytearray(TAR)
        field = rng.choice([range(100), range(124, 136), [156], range(257, 265)])
        changed[rng.choice(headers) + rng.choice(field)] ^= 1 << rng.randrange(8)
        with pytest.raises(DataError):
            members(bytes(changed), origin="")
        found = found_in(bytes(changed), shard)
        num_none += found is None
        if found is not None:  # a length that ends in the same block: the digest would find it
            assert [column.offsets.tolist() for column in found] == good
    assert num_none > 270
