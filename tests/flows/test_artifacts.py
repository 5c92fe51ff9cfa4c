"""What is shown on Prefect's pages, as far as it needs no server."""

import base64
from dataclasses import replace

import numpy as np

from ddpm_core.drawing import pictures
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.commit import write_file
from flows import artifacts
from flows.command_line import TRAIN_DDPM
from tests.flows.fakes import PNG, recorded


def test_grid_is_inlined_in_a_size_that_a_page_can_hold(store, config):
    """Catches: a file:// link, which no browser opens from Prefect's page, for a grid in colour."""
    recorded(store, config, *TRAIN_DDPM.stages())
    samples = STAGES["sample"].result(store, config)
    small = artifacts._inlined(store, samples, "grid")
    assert base64.b64decode(small.removeprefix("data:image/png;base64,")) == PNG
    assert artifacts._inlined(store, samples, "none") is None
    noise_u8 = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    record = write_file(store, samples.folder, "grid", ".png", pictures.to_png(noise_u8))
    assert record.size > 1_000_000
    large = artifacts._inlined(store, replace(samples, files={"grid": record}), "grid")
    assert large.startswith("data:image/jpeg;base64,")
    assert len(large) < 300_000


def test_artifact_keys_are_what_prefect_takes():
    """Catches: a run named a.b_c whose artifacts are all refused."""
    assert artifacts.artifact_key("a.b_c", "train", "result") == "a-b-c-train-result"
