"""Samples as PNG files: the images of the run, each under its index."""

import numpy as np
import pytest
from PIL import Image

from ddpm_core import __main__ as command
from ddpm_core.errors import CheckpointError, DataError, RunConflictError, StorageError
from ddpm_core.runs import results
from ddpm_core.sampling.export import export_samples
from ddpm_core.sampling.units import first_images


def test_every_sample_is_a_file_of_its_index(sampled, tmp_path):
    """Catches: an image of another index, and a last unit that is left out."""
    store, config = sampled
    folder = tmp_path / "my pictures" / "of it"
    assert export_samples(store, config, folder) == 16
    assert [path.name for path in sorted(folder.iterdir())] == [f"{i:08d}.png" for i in range(16)]
    samples = results.samples_of(store, config)
    images = first_images(store, samples, config.sample, config.data.shape, 16)
    for index in range(16):
        with Image.open(folder / f"{index:08d}.png") as image:
            assert np.array_equal(np.asarray(image), images[index, ..., 0])


def test_an_export_that_was_killed_is_continued_and_nothing_is_written_over(sampled, tmp_path):
    """Catches: files written again, and somebody's picture that is lost."""
    store, config = sampled
    export_samples(store, config, tmp_path)
    (tmp_path / "00000005.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    export_samples(store, config, tmp_path)
    assert (tmp_path / "00000005.png").is_file()
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())
    (tmp_path / "00000003.png").write_bytes(b"mine")
    with pytest.raises(RunConflictError, match=r"00000003.png is another file"):
        export_samples(store, config, tmp_path)
    assert (tmp_path / "00000003.png").read_bytes() == b"mine"


def test_a_run_without_samples_is_said(trained, tmp_path):
    """Catches: an empty folder, and exit code 0."""
    with pytest.raises(DataError, match="run the sample stage first"):
        export_samples(*trained, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_exported_is_said(sampled, tmp_path):
    """Catches: damaged images passed on as samples, and a traceback of the file system."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        export_samples(*sampled, tmp_path / "file" / "below")
    store, config = sampled
    samples = results.samples_of(store, config)
    key = f"{samples.folder}/{samples.files['unit-000001'].name}"
    data = bytearray(store.read(key))
    data[700] ^= 1
    store.write(key, bytes(data))
    with pytest.raises(CheckpointError, match="is damaged"):
        export_samples(store, config, tmp_path / "out")


def test_the_command_exports(sampled, tmp_path, capsys):
    """Catches: a command that is not wired."""
    store, config = sampled
    words = ["export-samples", f"{store.uri}/runs/{config.name}", str(tmp_path / "out")]
    assert command.main(words) == 0
    assert f"export-samples  16 images  {tmp_path / 'out'}" in capsys.readouterr().out
    assert command.main([*words, "--set", "sample.seed=5"]) == 3
