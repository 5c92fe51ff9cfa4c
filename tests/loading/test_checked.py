"""Blocks of bytes that are compared before they are used, once."""

import numpy as np
import pytest

from ddpm_core.errors import StorageError
from ddpm_core.loading import checked
from ddpm_core.loading.checked import CheckedBlocks, digests_of, num_blocks

NUM_BYTES = 95


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(checked, "BLOCK_BYTES", 10)


class Made:
    """Bytes, and what was done to mend them."""

    def __init__(self, *, mends=True):
        self.good = bytes(range(NUM_BYTES))
        self.content, self.mended, self._mends = bytearray(self.good), [], mends
        digests = digests_of(memoryview(self.good), range(num_blocks(NUM_BYTES)))
        self.blocks = CheckedBlocks(memoryview(self.content), digests, self._mend)

    def _mend(self, begin, end):
        self.mended.append((begin, end))
        if self._mends:
            self.content[begin:end] = self.good[begin:end]

    def require(self, *stretches):
        first, last = np.array(stretches, np.int64).T
        self.blocks.require(first, last)


@pytest.mark.parametrize(
    ("at", "stretch"), [(0, (0, 0)), (9, (3, 4)), (25, (12, 33)), (30, (12, 33)), (94, (91, 94))]
)
def test_a_damaged_block_is_mended_before_it_is_used(at, stretch):
    """Catches blocks in the middle or at the end of a stretch that are not looked at."""
    made = Made()
    made.content[at] ^= 1
    made.require((50, 59), stretch)
    assert made.mended == [(at // 10 * 10, min(at // 10 * 10 + 10, NUM_BYTES))]
    assert made.content == made.good


def test_what_is_not_wanted_is_not_looked_at_and_nothing_twice(monkeypatch):
    """Catches an opening that costs as much as reading all, and every batch that costs it again."""
    made, looked = Made(), []
    made.content[40] ^= 1
    monkeypatch.setattr(
        checked,
        "digests_of",
        lambda content, blocks: looked.extend(blocks) or digests_of(content, blocks),
    )
    for _ in range(3):
        made.require((0, 5), (11, 22), (39, 39))
    assert looked == [0, 1, 2, 3]
    assert not made.mended
    made.require((0, NUM_BYTES - 1))
    assert made.mended == [(40, 50)]


def test_what_cannot_be_mended_is_an_error_each_time():
    """Catches damage that is forgotten once it was said."""
    made = Made(mends=False)
    made.content[7] ^= 1
    for _ in range(2):
        with pytest.raises(StorageError, match="another one each time"):
            made.require((0, 1))
