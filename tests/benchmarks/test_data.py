"""Benchmarks run seldom, and what they call changes: each is run here with a handful of images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data_sets import CASES, image_files
from benchmarks.decoders import decoders, fastest, pillow


@pytest.mark.slow
def test_readers_see_all_images_of_the_disk(tmp_path: Path) -> None:
    """Catches an index, a batch or a loader that is built as it was some versions ago. In a process
    of its own, as a benchmark is: its readers fork theirs.
    """
    out = tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks.data", "--only", "MNIST", "--out", str(out)]
    command += ["--images", "400", "--rounds", "1", "--processes", "1"]
    subprocess.run(command, capture_output=True, check=True)
    head, _, row, in_memory = [line for line in out.read_text().splitlines() if "|" in line]
    cells = dict(zip(head.split("|"), row.split("|"), strict=True))
    rates = [cells[f" {name} "] for name in ("ours", "webdataset", "torch folder", "bound")]
    assert all(float(rate.replace(",", "")) > 0 for rate in rates)
    assert cells[" decoder of the bound "].strip() in decoders(CASES[0].kind)
    assert in_memory.startswith("| MNIST-sized PNG | memory (small set) |")


def test_a_decoder_of_other_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a bound that is fast since it decodes something else, BGR say."""
    files = image_files(CASES[1], 4)

    def swapped(file: bytes) -> np.ndarray:
        return pillow(file)[..., ::-1]

    monkeypatch.setattr("benchmarks.decoders.OTHERS", {"JPEG": {"json": swapped}})
    with pytest.raises(SystemExit, match="json decodes CIFAR-sized JPEG to something else"):
        fastest(CASES[1], files)
