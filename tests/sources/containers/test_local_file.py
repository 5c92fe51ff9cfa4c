"""One file, read at random."""

import gc
from pathlib import Path

from ddpm_core.sources.containers.local_file import LocalFile


def test_a_file_that_is_forgotten_is_closed(tmp_path):
    """Catches a descriptor that only close() gives back: after 1,024 archives nothing opens."""
    path = tmp_path / "a b"
    path.write_bytes(b"0123")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert LocalFile(path).read_at(1, 2) == b"12"
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
