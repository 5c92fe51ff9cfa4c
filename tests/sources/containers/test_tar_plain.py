"""Plain headers are checked many at once: nothing else may be read out of them than one by one."""

import io

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.shards.tar import BLOCK_BYTES
from ddpm_core.sources.containers import tar_walk
from ddpm_core.sources.containers.tar_walk import walk
from tests.sources.containers.test_tarred import FORMATS, tar_of

FILES = {
    "a/1.cls": b"3",
    "a/1.png": b"x" * 700,
    "b.png": b"",
    f"{'n' * 96}.png": b"of 100 bytes",
    f"{'n' * 97}.png": b"of 101 bytes",
    "ä.png": b"y" * BLOCK_BYTES,
    "folder/": b"",
    "last.png": b"z" * 1000,
}
ODD = b"\0-+_ 7x/"
"""bytes that a field of digits may have, and a name"""


def outcome(archive):
    """What a walk yields, without the contents that come with it, and how it ends."""
    found = []
    try:
        found += [one._replace(content=None) for one in walk(io.BytesIO(archive), "some.tar")]
    except DataError as error:
        found.append(str(error))
    return found


@pytest.fixture
def one_by_one(monkeypatch):
    """Return the outcome of a walk that looks at each header by itself."""

    def walked(archive):
        with monkeypatch.context() as patch:
            patch.setattr(tar_walk, "plain_run", lambda *_: [])
            return outcome(archive)

    return walked


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """However few there are, headers are looked at together."""
    monkeypatch.setattr(tar_walk, "_WORTH_BYTES", BLOCK_BYTES)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_header_that_is_changed_in_any_byte_says_the_same_as_by_itself(form, one_by_one):
    """Catches a checksum, a size, a magic, a name, a kind or a prefix that is taken for plain; and
    a size below nothing, which would be walked for ever."""
    files = dict(FILES)
    if form == FORMATS["ustar"]:
        del files[f"{'n' * 97}.png"]
    archive = tar_of(files, form=form)
    assert outcome(archive) == one_by_one(archive)
    random = np.random.default_rng(0).integers(0, 256, BLOCK_BYTES).tolist()
    for at in range(BLOCK_BYTES):
        for value in ODD if 124 <= at < 160 else (random[at], ODD[at % len(ODD)]):
            header = bytearray(archive[:BLOCK_BYTES])
            header[at] = value
            for checksum in (bytes(header[148:156]), b"%06o\0 " % _sum(header)):
                header[148:156] = checksum
                changed = bytes(header) + archive[BLOCK_BYTES:]
                assert outcome(changed) == one_by_one(changed), (at, value)


def _sum(header):
    return sum(header) - sum(header[148:156]) + 8 * ord(" ")


def test_contents_of_a_few_bytes_come_with_their_headers():
    """Catches the content of another member, and one that is cut where what was read ends."""
    files = {f"{number:03d}.cls": b"%d" % number for number in range(300)}
    archive = tar_of(files | {"large.png": b"x" * 65})
    found = list(walk(io.BytesIO(archive), "some.tar"))
    assert all(one.content in (None, archive[one.offset : one.offset + one.size]) for one in found)
    assert sum(one.content is not None for one in found) > 250
    assert found[-1].content is None


def test_far_apart_headers_are_read_alone_also_between_close_ones():
    """Catches an archive of large images that is read whole for its headers, since each has a
    small file beside it."""

    class Counting(io.BytesIO):
        num_read = 0

        def read(self, size=-1):
            got = super().read(size)
            self.num_read += len(got)
            return got

    files = {}
    for number in range(40):
        files |= {f"{number}.cls": b"1", f"{number}.jpg": bytes(100_000)}
    file = Counting(tar_of(files))
    assert len(list(walk(file, "some.tar"))) == 80
    assert file.num_read < 40 * 8 * BLOCK_BYTES + 20_000
