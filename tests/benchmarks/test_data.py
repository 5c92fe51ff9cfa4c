"""Benchmarks run seldom, and what they call changes: each is run here with a handful of images."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data
from benchmarks.data_sets import CASES, image_files
from benchmarks.decoders import decoders, fastest, pillow


@pytest.mark.slow
def test_readers_see_all_images_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an index, a batch or a loader that is built as it was some versions ago."""
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "cache"))
    options = Namespace(images=400, rounds=1, processes=1)
    found, decoder = data.measure(CASES[0], str(tmp_path / "root"), options, {})
    assert set(found) == {"ours", "webdataset", "torch folder", "bound"}
    assert all(rate > 0 for (rate,) in found.values())
    assert decoder in decoders(CASES[0].kind)


def test_a_decoder_of_other_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a bound that is fast since it decodes something else, BGR say."""
    files = image_files(CASES[1], 4)

    def swapped(file: bytes) -> np.ndarray:
        return pillow(file)[..., ::-1]

    monkeypatch.setattr("benchmarks.decoders.OTHERS", {"JPEG": {"json": swapped}})
    with pytest.raises(SystemExit, match="json decodes CIFAR-sized JPEG to something else"):
        fastest(CASES[1], files)
