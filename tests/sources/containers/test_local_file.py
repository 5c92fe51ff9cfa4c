"""One file, read at random."""

import gc
from pathlib import Path

import numpy as np

from ddpm_core.sources.containers.local_file import LocalFile, ReadAhead


def test_a_file_that_is_forgotten_is_closed(tmp_path):
    """Catches a descriptor that only close() gives back: after 1,024 archives nothing opens."""
    path = tmp_path / "a b"
    path.write_bytes(b"0123")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert LocalFile(path).read_at(1, 2) == b"12"
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_small_parts_in_a_row_are_read_together_and_are_those_of_one_by_one(tmp_path, monkeypatch):
    """Catches a part of another place, a short one where the file goes on, and megabytes that are
    read for large files, or for few."""
    path = tmp_path / "a b"
    content = np.random.default_rng(0).bytes(600_000)
    path.write_bytes(content)
    file = LocalFile(path)
    sizes, read_at = [], file.read_at
    monkeypatch.setattr(
        LocalFile, "read_at", lambda _self, at, size: sizes.append(size) or read_at(at, size)
    )
    ahead = ReadAhead(file)
    for at in range(0, 600_000, 1500):
        assert ahead.read_at(at, 1000) == content[at : at + 1000]
    assert len(sizes) < 8
    for at, size in ((200, 1000), (0, 1000), (300_000, 1000), (301_000, 100_000), (9, 9)):
        assert ahead.read_at(at, size) == content[at : at + size]
    assert sizes[-5:] == [1000, 1000, 1000, 100_000, 9]
    ahead = ReadAhead(file)
    ahead.read_at(0, 10)
    ahead.read_at(10, 10)
    path.write_bytes(b"y" * 600_000)
    ahead.forget()
    assert ahead.read_at(20, 10) == b"y" * 10
