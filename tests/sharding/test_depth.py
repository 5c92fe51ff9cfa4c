"""Grey images of 16 bits, kept to their full depth from the file to the samples."""

import io
import json
import tarfile
from contextlib import closing

import numpy as np
import pytest
import torch

from ddpm_core import cluster
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.evaluation.measuring.context import EvaluationContext
from ddpm_core.evaluation.measuring.worker import likelihood_part
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.images import png
from ddpm_core.loading import loader
from ddpm_core.loading.batches import Batches
from ddpm_core.loading.loader import load_split
from ddpm_core.runs import chosen, results
from ddpm_core.runs.run import open_stage
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sampling.units import first_images
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.verifying import verify
from ddpm_core.verifying.report import Report
from ddpm_core.verifying.results import verify_result
from tests.format_1.make import old_config
from tests.sampling.tiny import RecordingTracker, record_tracking, run_in_process


def pixels_of(number):
    rows, columns = np.mgrid[0:8, 0:8]
    return ((rows * 4001 + columns * 3001 + number * 137) % 2**16).astype(np.uint16)[..., None]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(16):
        (folder / f"{number:03d}.png").write_bytes(png.encode(pixels_of(number)))
    return folder


@pytest.fixture
def here(monkeypatch):
    """Let the stages work in this process."""
    run_in_process(monkeypatch)
    record_tracking(monkeypatch)
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_more: RecordingTracker())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("held_bytes", [0, 2**20], ids=["streamed", "held"])
def test_every_bit_reaches_the_batches(held_bytes, folder, tmp_path, monkeypatch):
    """Catches: 8 bits, or bytes exchanged, anywhere between the file and the network; a view for
    people that is cut off (v >> 8), and statistics of 256 levels."""
    store, config = open_store(str(tmp_path / "root")), old_config(folder, **{"data.depth": 16})
    index = load_index(store, run_shard(store, config))
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", held_bytes)
    assert (index.image.dtype, index.shape) == ("uint16", (1, 8, 8))
    own = {pixels_of(number).tobytes() for number in range(16)}
    with closing(load_split(store, index, "train")) as images:
        found = images.images(0, 12).numpy()
        assert {one.tobytes() for one in found} < own
        levels = found.astype(float)
        assert (index.image.mean[0], index.image.std[0]) == pytest.approx(
            (levels.mean(), levels.std())
        )
        with Batches(images, config.train, start=0, rank=0, world_size=1, pinned=False) as batches:
            batch = batches.take()
            assert np.array_equal(batch.images.numpy(), found[batch.numbers])
    with closing(load_split(store, index, "train", eight_bits=True)) as images:
        shown = images.take(np.arange(12)).numpy()
        assert np.array_equal(shown, np.floor(found / 257 + 0.5).astype(np.uint8))
        assert np.array_equal(images.images(0, 12).numpy(), shown)
        if held_bytes:  # each actor maps it, and may not have a copy of its own
            assert images.pixels.dtype == torch.uint16


@pytest.mark.usefixtures("here")
def test_a_run_of_16_bits_draws_and_measures_16(folder, tmp_path):
    """Catches: samples of 8 bits, bits/dim of 256 levels, and a data set that `verify` refuses."""
    store, config = open_store(str(tmp_path / "root")), old_config(folder, **{"data.depth": 16})
    run_shard(store, config)
    open_stage(store, config)
    worker.train_rank(store, config, cluster.Place(0, 1, torch.device("cpu")))
    run_sample(store, config)
    run_evaluate(store, config)
    assert verify.verify(config.name, root=store.uri).problems == []
    found = json.loads(results.evaluation_of(store, config).read(store, "metrics"))
    pointer = results.dataset_pointer(store, config.name)
    made = chosen.require(store, config)
    context = EvaluationContext(store, config, pointer, None, torch.device("cpu"), made.sha256)
    coarse = likelihood_part(
        context.denoiser, context.test.images(0, 2), torch.arange(2), seed=config.evaluate.seed
    )
    coarse_bits = (coarse["prior"] + coarse["terms"].sum(1)).mean()
    expected = float(coarse_bits) + np.log2(65535 / 255)
    assert found["bits_per_dim"]["value"] == pytest.approx(expected, abs=0.1)
    samples = results.samples_of(store, config)
    with tarfile.open(fileobj=io.BytesIO(samples.read(store, "unit-000000"))) as archive:
        files = [archive.extractfile(one).read() for one in archive if one.name.endswith("png")]
    deep = np.stack([png.decode(file, (8, 8, 1), origin="", depths=png.DEPTHS) for file in files])
    assert deep.dtype == np.uint16
    assert (deep % 257 != 0).any()  # levels that 8 bits have not
    report, steps = Report(), {made.sha256: {made.step}}
    verify_result(store, samples.folder, {pointer.fingerprint}, steps, report, dtype="uint8")
    assert "does not begin as a PNG of 8 bits" in report.problems[0]
    shown = first_images(store, samples, config.sample, config.data.shape, len(deep))
    assert np.array_equal(shown, np.floor(deep / 257 + 0.5).astype(np.uint8))


@pytest.mark.usefixtures("here")
def test_a_depth_that_few_files_have_is_said(folder, tmp_path, caplog):
    """Catches: 8 bits that take twice the bytes without a word; a word where all are deep."""
    store, config = open_store(str(tmp_path / "root")), old_config(folder, **{"data.depth": 16})
    run_shard(store, config)
    assert "data.depth=16" not in caplog.text
    for number in range(12):
        shallow = (pixels_of(number) // 257).astype(np.uint8)
        (folder / f"{number:03d}.png").write_bytes(png.encode(shallow))
    run_shard(open_store(str(tmp_path / "other")), config)
    assert "data.depth=16, and 4 of 16 files have 16 bits for each sample" in caplog.text
    assert "data.depth=8 keeps them whole" in caplog.text


@pytest.mark.usefixtures("here")
def test_colour_of_16_bits_is_refused_by_the_scan(folder, tmp_path):
    """Catches: a file that is found to be of the wrong kind when the data set is committed."""
    (folder / "015.png").write_bytes(png.encode(pixels_of(0).repeat(3, axis=2)))
    store = open_store(str(tmp_path / "root"))
    with pytest.raises(DataError, match="16-bit PNG with colour"):
        run_shard(store, old_config(folder, **{"data.depth": 16}))
    assert not (tmp_path / "root" / "datasets").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("grey", False), ("encoding", "original"), ("resize", "lanczos")]
)
def test_what_would_lose_bits_is_refused(key, value, folder):
    """Catches: a key under which 16 bits are wanted and 8 are kept."""
    with pytest.raises(ConfigError, match=f"depth=16 with .*{key}={value}.*depth=8"):
        old_config(folder, **{"data.depth": 16, f"data.{key}": value})
