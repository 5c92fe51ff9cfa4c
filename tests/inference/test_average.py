"""Averages that are made of a run's snapshots: what they are, their names, what goes wrong."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddpm_core import __main__ as command
from ddpm_core.config.averages import has_snapshot, powers_of
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.import_export import export_weights
from ddpm_core.inference import average
from ddpm_core.inference.average import make_average
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.weights import load_average
from ddpm_core.models.ema import EMA
from ddpm_core.models.profiles import Power, gamma_of, inner_product
from ddpm_core.preflight import preflight
from ddpm_core.runs import chosen, layout, reference, results
from ddpm_core.runs.run import open_run
from ddpm_core.runs.table import show_run
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import open_store
from ddpm_core.training.storing import checkpoint, retention, snapshots
from ddpm_core.verifying.verify import verify
from tests.sampling.tiny import in_process, one_thread, recording_tracker, tiny_config

__all__ = ["in_process", "one_thread", "recording_tracker"]

STEPS, WIDTHS = 16, (0.12, 0.15)


def config_of(**changes):
    return tiny_config(
        **{
            "train.num_steps": STEPS,
            "train.checkpoint_every": 1,
            "train.warmup_steps": 1,
            "train.power_averages": [0.05, 0.1],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Give a root with a run whose weights walked at random, and the averages that were tracked.

    And the weights of each step, as one vector.
    """
    store, config = open_store(str(tmp_path_factory.mktemp("walked") / "root")), config_of()
    run_shard(store, config)
    open_run(store, config)
    origin = checkpoint.Origin(
        layout.experiment_fingerprint(config), results.dataset_pointer(store, "tiny").fingerprint
    )
    network = build_network(config).state_dict()
    generator = torch.Generator().manual_seed(0)
    decays = {**powers_of(config.train), **{w: Power(gamma_of(w)) for w in WIDTHS}}
    averages, path = {name: EMA(network) for name in decays}, []
    for step in range(STEPS):
        for tensor in network.values():
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
        path.append(torch.cat([tensor.flatten() for tensor in network.values()]).double())
        for name, ema in averages.items():
            ema.update(decays[name].at(step))
        if has_snapshot(config.train, step + 1):
            kept = {name: averages[name].state_dict() for name in powers_of(config.train)}
            snapshots.keep(store, "tiny", origin, step + 1, kept)
    parts = {"state": {"model.x": torch.zeros(1)}, "ema": network, **kept}
    written = checkpoint.write_parts(store, "tiny", STEPS, parts)
    checkpoint.commit(store, "tiny", origin, step=STEPS, images_seen=1, written=written, history=[])
    return store, {w: averages[w].state_dict() for w in WIDTHS}, torch.stack(path)


@pytest.fixture
def run(walked, tmp_path):
    """Give a root of one's own with that run, and its configuration."""
    shutil.copytree(walked[0].uri, tmp_path / "ro ot")
    return open_store(str(tmp_path / "ro ot")), config_of()


def named(config, model):
    return config.replaced({"sample.model": model})


def flip(store, found, role):
    path = store.local_path(f"{found.folder}/{found.files[role].name}")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_made_is_what_was_tracked_to_the_error_that_it_says(run, walked, width):
    """Catches snapshots under another's coefficient, a sum in float32, and an error that is none.

    The bound is that of Cauchy and Schwarz, see `tests/models/test_synthesis.py`.
    """
    (store, config), (_, tracked, path) = run, walked
    made = make_average(store, config, None, width)
    found = load_average(store, made.weights.checkpoint, average=made.weights.average)
    difference = torch.cat([(found[key] - one).flatten() for key, one in tracked[width].items()])
    gamma = gamma_of(width)
    norm = math.sqrt(inner_product(gamma, float(STEPS), gamma, float(STEPS)))
    bound = made.error * norm * path.square().sum(0).sqrt() + 1e-6
    assert bool((difference.abs() <= bound).all())
    assert 0 < made.error < 0.01
    said = made.weights.checkpoint.body["made"]
    assert said["sigma_rel"] == width
    assert said["gamma"] == pytest.approx(gamma)
    assert len(said["of"]) == 2 * STEPS
    assert all(one.dtype == torch.float32 for one in found.values())


def test_it_is_named_like_any_other_average_and_pinned(run):
    """Catches results that hang on other bytes, and a flow that trains first for what it cannot
    make; the remedy is the command that makes it.
    """
    store, config = run
    model, words = named(config, ":power_12"), r"not made .*@16' --sigma-rel 0\.12$"
    assert results.weights_of(store, model) is None
    with pytest.raises(CheckpointError, match=words):
        chosen.require(store, model)
    made = make_average(store, config, "newest", 0.12).weights
    earlier = make_average(store, config, "12", 0.12).weights
    found = chosen.require(store, model)
    assert (found.name, found.sha256) == ("tiny@16:power_12", made.sha256)
    assert found.identity("tiny") == {
        "weights_sha256": made.sha256, "average": "power_12", "step": 16
    }  # fmt: skip
    assert chosen.require(store, named(config, "@newest:power_12")).sha256 == made.sha256
    assert chosen.require(store, named(config, "@12:power_12")).sha256 == earlier.sha256
    pinned = chosen.pinned(store, model)
    assert pinned.sample.model == f"tiny@16:power_12#{made.sha256[:16]}"
    assert chosen.require(store, pinned).checkpoint == found.checkpoint
    with pytest.raises(CheckpointError, match="pinned to weights"):
        chosen.require(store, named(config, f"@12:power_12#{made.sha256[:16]}"))
    assert "average    @16:power_12, @12:power_12" in show_run(store, "tiny").splitlines()
    with pytest.raises(CheckpointError, match=r"json@5' --sigma-rel 0\.12$"):
        chosen.require(store, named(config, "@5:power_12"))
    other = config.replaced({"train.num_steps": 20, "name": "other"})
    with pytest.raises(ConfigError, match=r"power_05, power_1 and raw; name one; it is made when"):
        preflight(store, named(other, ":power_12"), ["train", "sample"], command=str, here=False)
    # One that the training keeps is in its checkpoint.
    assert chosen.require(store, named(config, ":power_1")).checkpoint.folder.endswith("00000016")


def test_what_retention_deleted_is_found_in_its_snapshot(run):
    """Catches an average that `average` says to name and that then is refused, weights of another
    step, and a snapshot that is used though it is damaged.
    """
    store, config = run
    model = named(config, "@12:power_05")
    snapshot = manifest.load(store, layout.snapshot_folder("tiny", 12), Expected({}))
    kept = load_average(store, snapshot, average="power_05")
    origin = checkpoint.Origin(snapshot.body["experiment"], snapshot.body["dataset"])
    parts = {"state": {"model.x": torch.zeros(1)}, "ema": kept, "power_05": kept}
    written = checkpoint.write_parts(store, "tiny", 12, parts)
    checkpoint.commit(store, "tiny", origin, step=12, images_seen=1, written=written, history=[])
    before = chosen.require(store, model)
    retention.prune(store, "tiny", 1)
    after = chosen.require(store, model)
    chosen.require_files(store, after)
    assert (after.name, after.sha256) == (before.name, before.sha256)
    found = load_average(store, after.checkpoint, average="power_05")
    assert all(torch.equal(found[key], one) for key, one in kept.items())
    assert chosen.require(store, named(config, "@12")).is_retired
    flip(store, snapshot, "power_05")
    with pytest.raises(DamagedError, match="name another step"):
        load_average(store, after.checkpoint, average="power_05")
    assert chosen.require(store, model).is_retired


def test_a_run_without_snapshots_has_no_average_to_be_made(run):
    """Catches advice to make what `average` then refuses."""
    store, config = run
    plain = config.replaced({"train.power_averages": []})
    assert reference.is_made(config, "power_12")
    assert not reference.is_made(plain, "power_12")
    with pytest.raises(ConfigError, match=r"ema and raw; name one$"):
        chosen.require_reachable(store, named(plain, ":power_12"))


def test_made_once_it_is_found_and_made_again_where_it_is_damaged(run, monkeypatch):
    """Catches a second run of everything that reads all snapshots, and damage that is sampled."""
    store, config = run
    made = make_average(store, config, None, 0.12)
    with monkeypatch.context() as patch:
        patch.setattr(average, "_make", None)
        assert make_average(store, config, STEPS, 0.12) == made
    flip(store, made.weights.checkpoint, "power_12")
    with pytest.raises(DamagedError, match=r"average .*json@16' --sigma-rel 0\.12$"):
        load_average(store, made.weights.checkpoint, average="power_12")
    with pytest.raises(CheckpointError, match="power_12 is not made"):
        chosen.require(store, named(config, ":power_12"))
    assert make_average(store, config, None, 0.12) == made
    again = chosen.require(store, named(config, ":power_12")).checkpoint
    load_average(store, again, average="power_12")


def test_a_damaged_snapshot_is_set_aside_and_said(run):
    """Catches a snapshot that is used unverified, and one that ends the command for ever."""
    store, config = run
    whole = make_average(store, config, 15, 0.12)
    shutil.rmtree(store.local_path(layout.averages_folder("tiny")))
    folder = layout.snapshot_folder("tiny", 9)
    flip(store, manifest.load(store, folder, Expected({})), "power_1")
    with pytest.raises(DamagedError, match="the snapshot is set aside: the same command"):
        make_average(store, config, 15, 0.12)
    without = make_average(store, config, 15, 0.12)
    assert len(without.coefficients) == 28
    assert without.error > whole.error
    assert 9 not in {step for step, _, _ in without.coefficients}


@pytest.mark.parametrize(
    ("changes", "step", "width", "words"),
    [
        ({}, "2", 0.2, r"the 2 snapshot\(s\) up to step 2 of run 'tiny' give its profile to 36 %"),
        ({}, "77", 0.2, r"no snapshot of step 77; nearest are those of step 16, 15, 14, the last"),
        ({}, None, 0.1, r"keeps this average while it trains .* name it as --model @16:power_1"),
        ({}, None, 0.4, r"--sigma-rel: 0\.4 must be at least 0\.01 and at most 0\.28"),
        ({"train.power_averages": [], "name": "other"}, None, 0.12, r"keeps no snapshots"),
        ({"name": "other"}, None, 0.12, r"other/snapshots has no snapshots"),
        ({"train.seed": 5}, None, 0.12, r"was made by another experiment"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_to_do(run, changes, step, width, words):
    """Catches an average that is another one than it is called, and a traceback."""
    store, config = run
    with pytest.raises((CheckpointError, ConfigError), match=words):
        make_average(store, config.replaced(changes), step, width)
    assert not store.names(layout.averages_folder("tiny"))


def test_verify_reads_snapshots_and_what_was_made(run):
    """Catches damage that nobody looks for, and results of made averages that rest on nothing."""
    store, config = run
    made = make_average(store, config, None, 0.12).weights
    uri = store.uri_of(layout.run_json_key("tiny"))
    looked_at = verify(uri).looked_at
    assert any(line.endswith("snapshots: 16 snapshots of averages") for line in looked_at)
    assert any(line.endswith("average power_12 of step 16") for line in looked_at)
    flip(store, made.checkpoint, "power_12")
    folder = layout.snapshot_folder("tiny", 3)
    flip(store, manifest.load(store, folder, Expected({})), "power_05")
    with pytest.raises(DataError, match="2 things are wrong"):
        verify(uri)


def values_of(tensors):
    """Return all numbers of a file, in an order that no names and no axes change."""
    return torch.cat([one.flatten() for one in tensors.values()]).sort().values


def test_samples_and_exports_of_it_say_so(run, in_process, recording_tracker, tmp_path, capsys):
    """Catches a result of a made average that passes for that of `ema`, or for no run's."""
    store, config = run
    words = ["average", "tiny@16", "--root", store.uri, "--sigma-rel", "0.12"]
    assert command.main(words) == 0
    *_, made, told = capsys.readouterr().out.splitlines()
    digest = chosen.require(store, named(config, ":power_12")).sha256
    assert made.startswith(f"average  tiny@16:power_12 {digest[:12]}: of 32 stored averages, its")
    assert told.endswith("run.json' --model @16:power_12")
    run_sample(store, named(config, "@16:power_12"))
    assert f"weights: tiny@16:power_12 {digest[:12]}" in capsys.readouterr().out
    body = results.samples_of(store, named(config, ":power_12")).body
    assert (body["average"], body["weights_sha256"], body["step"]) == ("power_12", digest, 16)
    assert recording_tracker.tags["ddpm.weights"] == "tiny@16:power_12"
    uri, whose = export_weights(
        store.uri_of(layout.run_json_key("tiny")), str(tmp_path / "out"), model=":power_12"
    )
    assert whose.sha256 == digest
    weights = load_average(store, whose.checkpoint, average="power_12")
    exported = load_file(next(Path(uri).rglob("*.safetensors")))
    assert torch.equal(*(values_of(one) for one in (exported, weights)))
    verify(store.uri_of(layout.run_json_key("tiny")))
