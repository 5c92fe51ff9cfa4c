"""A commit, killed or refused at every single call that changes a file."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.faults import kill_points


@pytest.fixture
def fast_folder(tmp_path: Path):
    """In memory where that is possible: what a kill leaves behind does not depend on the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def test_a_commit_interrupted_at_any_call_leaves_old_or_new(fast_folder: Path):
    """Catches a final name before its bytes, errors that are swallowed, files left behind."""
    done = subprocess.run(
        [sys.executable, "-m", kill_points.__name__, str(fast_folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["problems"] == []
    assert result["points"] > 300
