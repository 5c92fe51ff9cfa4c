"""A run with random weights: what sampling and evaluation start from, without a training."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.weights import read_tensors
from ddpm_core.recipes import digits
from ddpm_core.runs import layout, results
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store, open_store
from ddpm_core.training.storing import checkpoint


def tiny_config(**changes) -> RunConfig:
    """Return digits with a chain of 21 steps and 4 units of 4 samples."""
    return digits().replaced(
        {
            "name": "tiny",
            "model.base_channels": 32,
            "model.channel_mults": [1],
            "model.num_res_blocks": 1,
            "model.attention_resolutions": [],
            "model.num_groups": 8,
            "diffusion.num_timesteps": 21,
            "train.num_steps": 10,
            "train.global_batch_size": 12,
            "sample.num_images": 16,
            "sample.unit_size": 4,
            "sample.batch_size": 2,
            "sample.num_grid_images": 10,
            "sample.num_strip_images": 3,
            "evaluate.num_likelihood_images": 40,
            "evaluate.batch_size": 16,
            "evaluate.feature_steps": 5,
            "compute.num_workers": 1,
            **changes,
        }
    )


def classifier_config(**changes) -> RunConfig:
    """Return a classifier of the images and the noise of `tiny_config`."""
    config = tiny_config(name="judge")
    keys = ("base_channels", "channel_mults", "num_res_blocks", "attention_resolutions")
    half = config.model.model_dump(mode="json", include={*keys, "num_groups"})
    return config.replaced({"model": {"kind": "classifier", **half}, **changes})


def clip_config(**changes) -> RunConfig:
    """Return CLIP of the images and the noise of `tiny_config`."""
    towers = {
        "kind": "clip",
        "patch_size": 4,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "text_hidden_size": 16,
        "text_num_layers": 1,
        "text_num_heads": 2,
        "num_features": 8,
        "text_length": 16,
    }
    return tiny_config(name="clip").replaced({"model": towers, **changes})


def commit_random_weights(store: Store, config: RunConfig, *, seed: int = 0) -> Manifest:
    """Shard the data and commit a final checkpoint whose weights were never trained.

    Unlike a fresh network's, whose output is 0, these weights do something to the image.
    """
    dataset = run_shard(store, config)
    pointer = results.dataset_pointer(store, config.name)
    assert pointer is not None
    assert pointer.folder == dataset
    generator = torch.Generator().manual_seed(seed)
    ema = {
        name: value.detach() + 0.05 * torch.randn(value.shape, generator=generator)
        for name, value in build_network(config).named_parameters()
    }
    history = [
        {"step": step, "loss": 1 / step, **{f"loss_q{q}": (q + 1) / step for q in range(4)}}
        for step in (5, 10)
    ]
    step = config.train.num_steps
    parts = {"state": {"model.x": torch.zeros(1)}, "ema": ema}
    return checkpoint.commit(
        store,
        config.name,
        checkpoint.Origin(layout.experiment_fingerprint(config), pointer.fingerprint),
        step=step,
        images_seen=10,
        written=checkpoint.write_parts(store, config.name, step, parts),
        history=history,
    )


def commit_earlier(store: Store, config: RunConfig, step: int) -> Manifest:
    """Commit a checkpoint of an earlier step, with other weights, and others as trained."""
    last = results.final_checkpoint(store, config)
    assert last is not None
    ema = read_tensors(store, last, "ema")
    raw = {f"model.{name}": 0.5 * value for name, value in ema.items()}
    parts = {"state": raw, "ema": {name: 0.8 * value for name, value in ema.items()}}
    return checkpoint.commit(
        store,
        config.name,
        checkpoint.Origin(last.body["experiment"], last.body["dataset"]),
        step=step,
        images_seen=5,
        written=checkpoint.write_parts(store, config.name, step, parts),
        history=[{"step": step, "loss": 1.0, **{f"loss_q{q}": 1.0 for q in range(4)}}],
    )


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Compute as an actor of one core does; besides, threads on a busy machine wait for another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path / "root"))


@pytest.fixture(scope="session")
def _trained_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "root"
    commit_random_weights(open_store(str(root)), tiny_config())
    return root


@pytest.fixture(scope="session")
def _sampled_root(_trained_root, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sampled") / "root"
    shutil.copytree(_trained_root, root)
    with pytest.MonkeyPatch.context() as patch:
        run_in_process(patch)
        record_tracking(patch)
        run_sample(open_store(str(root)), tiny_config())
    return root


@pytest.fixture(scope="session")
def _evaluated_root(_sampled_root, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("evaluated") / "root"
    shutil.copytree(_sampled_root, root)
    with pytest.MonkeyPatch.context() as patch:
        run_in_process(patch)
        record_tracking(patch)
        run_evaluate(open_store(str(root)), tiny_config())
    return root


@pytest.fixture
def trained(_trained_root, store) -> tuple[Store, RunConfig]:
    """Give a store with a data set and a final checkpoint, and the configuration."""
    shutil.copytree(_trained_root, store.uri)
    return store, tiny_config()


@pytest.fixture
def sampled(_sampled_root, store) -> tuple[Store, RunConfig]:
    """Give a store with complete samples besides."""
    shutil.copytree(_sampled_root, store.uri)
    return store, tiny_config()


@pytest.fixture
def evaluated(_evaluated_root, store) -> tuple[Store, RunConfig]:
    """Give a store with a complete evaluation besides."""
    shutil.copytree(_evaluated_root, store.uri)
    return store, tiny_config()


def files_of(store: Store, folder: str) -> dict[str, bytes]:
    """Return the files of a folder, by name."""
    return {name: store.read(f"{folder}/{name}") for name in store.names(folder)}


def cpu() -> torch.device:
    return torch.device("cpu")


class InProcess:
    """Does what the actors would do, here; `units` lists what was worked on."""

    def __init__(self) -> None:
        self.units: list = []
        self.reverse = False  # let the results arrive in another order
        self.device = torch.device("cpu")

    def map_units(self, make_worker: Callable, payload: dict, units, compute, *, on_done) -> None:
        worker = make_worker(json.loads(json.dumps(payload)), lambda: self.device)
        for unit in reversed(units) if self.reverse else units:
            result = worker(unit)
            self.units.append(unit)
            on_done(unit, result)


def run_in_process(patch: pytest.MonkeyPatch) -> InProcess:
    here = InProcess()
    patch.setattr(cluster, "connect", lambda compute: nullcontext())
    patch.setattr(cluster, "map_units", here.map_units)
    return here


@pytest.fixture
def in_process(monkeypatch) -> InProcess:
    """Let the stages work without Ray."""
    return run_in_process(monkeypatch)


class RecordingTracker:
    """Keeps what a stage hands to MLflow."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.points: list[dict[str, float]] = []
        self.models: list[tuple[int, int]] = []
        self.failed: bool | None = None
        self.has_begun = False
        self.is_variant = False
        self.registers = True
        self.store: Store | None = None
        self.described: list[bool] = []

    def begin(self) -> None:
        self.has_begun = True

    def deliver(self, result, log) -> None:
        log()

    def log_metrics(self, values, *, step=0) -> None:
        self.metrics |= {f"{key}@{step}": value for key, value in values.items()}

    def log_points(self, points) -> None:
        self.points += points

    def log_artifact(self, path, result, role) -> None:
        self.files[path] = result.read(self.store, role)

    def log_made(self, path, make) -> None:
        self.files[path] = make()

    def log_image(self, name, result, role) -> None:
        self.log_artifact(f"pictures/{name}", result, role)

    def describe(self) -> None:
        # What counts is that there is a grid to show.
        self.described.append("pictures/grid.png" in self.files)

    def adopt(self, runs) -> None:
        self.children = list(runs)

    def set_tags(self, tags) -> None:
        self.tags |= tags

    def register_model(self, weights, numbers) -> None:
        # What counts is that the numbers come before the model.
        self.models.append((weights.step, len(self.metrics)))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.failed = kind is not None


def record_tracking(patch: pytest.MonkeyPatch) -> RecordingTracker:
    tracker = RecordingTracker()

    def open_tracker(store, config, *, stage):
        tracker.store = store
        return tracker

    for module in ("sampling.stage", "evaluation.stage", "study.stage", "study.ablations"):
        patch.setattr(f"ddpm_core.{module}.open_tracker", open_tracker)
    return tracker


@pytest.fixture
def recording_tracker(monkeypatch) -> RecordingTracker:
    return record_tracking(monkeypatch)
