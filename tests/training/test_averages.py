"""Several averages in one training, and the snapshots of those that others are made of."""

import pytest
import torch
from torch import nn

from ddpm_core import cluster
from ddpm_core.config.averages import averages_of, count_snapshots, has_snapshot
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.weights import load_average
from ddpm_core.models.profiles import Exponential
from ddpm_core.recipes import digits
from ddpm_core.runs import layout, places, results
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store import manifest
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.stepping.counting import Counts
from ddpm_core.training.stepping.trainee import Average, Trainee
from ddpm_core.training.worker import train_rank
from tests.training.small import (
    CPU,
    make_learner,
    parallel_of,
    rank_slice,
    small_config,
    small_images,
)
from tests.training.test_worker import FakeTracker, Killed, train_until

ALONE = cluster.Place(rank=0, world_size=1, device=CPU)
SEVERAL = {
    "train__ema_decays": [0.5, 0.99],
    "train__power_averages": [0.05, 0.1],
    "train__keep_checkpoints": 2,
}
NAMES = ["ema", "ema_5", "ema_99", "power_05", "power_1"]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("data")))
    run_shard(store, small_config())
    return store


@pytest.fixture
def roots(sharded, tmp_path):
    """Two roots with the data set and no checkpoint."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "datasets").symlink_to(sharded.local_path("datasets"))
        store, key = open_store(str(tmp_path / name)), layout.dataset_pointer_key("small")
        store.write(key, sharded.read(key))
        made.append(store)
    return made


def snapshots_of(store):
    """Return the manifests of all snapshots."""
    return [
        manifest.load(
            store, layout.snapshot_folder("small", step), places.checkpoint_expected(step)
        )
        for step in layout.steps_in(store, layout.snapshots_folder("small"))
    ]


def test_a_training_of_several_averages_killed_ends_in_the_same_bytes(roots, monkeypatch):
    """Catches an average that is not resumed, or whose decay counts its steps from the restart; a
    snapshot that a kill loses; and one that retention takes.

    The kill at 10 comes between the snapshot of step 10 and its checkpoint.
    """
    straight, killed = roots
    config = small_config(**SEVERAL)
    train_rank(straight, config, ALONE)
    train_until(killed, config, 7, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(worker.checkpoint, "commit", die)
        with pytest.raises(Killed):
            train_rank(killed, config, ALONE)
    assert [one.body["step"] for one in snapshots_of(killed)] == [10, 5]
    train_rank(killed, config, ALONE)
    final = results.final_checkpoint(killed, config)
    assert final == results.final_checkpoint(straight, config)
    assert set(final.files) == {"state", *NAMES, "history"}
    assert final.body["format"] == 2
    assert snapshots_of(killed) == snapshots_of(straight)
    assert [one.body["step"] for one in snapshots_of(killed)] == [20, 15, 10, 5]
    last = snapshots_of(killed)[0]
    assert set(last.files) == {"power_05", "power_1"}
    assert all(last.files[name] == final.files[name] for name in last.files)
    assert set(killed.names(layout.checkpoint_folder("small", 5))) == {"manifest.json", "retired"}
    for one in snapshots_of(killed):
        one.require_bytes(killed)
    read = [load_average(killed, final, average=name) for name in (*NAMES, "raw")]
    assert all(one.keys() == read[0].keys() for one in read)


def die(*_args, **_kwargs):
    raise Killed


def test_more_averages_leave_the_weights_and_ema_as_they_are(roots):
    """Catches averages that draw from the training's randomness, or change one another; and a
    warm-up or a power that is another's.
    """
    plain, several = (small_config(train__num_steps=5, **more) for more in ({}, SEVERAL))
    for store, config in zip(roots, (plain, several), strict=True):
        train_rank(store, config, ALONE)
    one, two = (
        results.final_checkpoint(store, config)
        for store, config in zip(roots, (plain, several), strict=True)
    )
    assert set(one.files) == {"state", "ema", "history"}
    assert "format" not in one.body
    assert all(one.files[role] == two.files[role] for role in one.files)
    # What each average holds, of the weights after every step.
    learner, images = make_learner(several), small_images()
    decays, expected = averages_of(several.train), {}
    for step in range(4):
        learner.step(step, rank_slice(several, images, step, 0, 1))
        theta = copy_params(learner)
        for name, decay in decays.items():
            kept, last = decay.at(step), expected.get(name, theta)
            expected[name] = {key: kept * last[key] + (1 - kept) * theta[key] for key in theta}
    for name in NAMES:
        found = learner.trainee.averaged(average=name)
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-7)
    assert list(decays) == NAMES


def copy_params(learner):
    return {name: param.detach().clone() for name, param in learner.network.named_parameters()}


def test_a_run_that_goes_on_with_other_averages_is_another_experiment(roots, monkeypatch):
    """Catches an average that begins half way, and is called as if it had begun with the run."""
    store, _ = roots
    train_until(store, small_config(), 7, monkeypatch)
    for change in ({"train__ema_decays": [0.5]}, {"train__ema_warmup": True}):
        with pytest.raises(CheckpointError, match="another experiment"):
            train_rank(store, small_config(**change), ALONE)
    train_rank(store, small_config(), ALONE)  # as it was begun, it goes on


def test_a_buffer_is_that_of_the_module_in_every_average():
    """Catches weights that a network with buffers cannot load, an averaged count, a stale copy."""
    module = nn.BatchNorm1d(3)
    counts = Counts(["loss"], whole=None, latest=[], parallel=parallel_of())
    averages = [Average("model", "ema", Exponential(0.9))]
    trainee = Trainee({"model": module}, {}, averages, counts)
    for step in range(3):
        module(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)) + 5)
        module.weight.data += 1
        trainee.average(step)
    found = trainee.parts()["ema"]
    assert found["num_batches_tracked"] == 3
    assert torch.equal(found["running_mean"], module.running_mean)
    assert not torch.equal(found["weight"], module.weight)
    nn.BatchNorm1d(3).load_state_dict(found)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [200, 400, 600, 800]),
        ({"train.num_snapshots": 2}, [400, 800]),
        ({"train.num_snapshots": 1}, [800]),
        ({"train.num_snapshots": 3, "train.checkpoint_every": 100}, [300, 600, 800]),
        ({"train.checkpoint_every": 300}, [300, 600, 800]),
        ({"train.num_snapshots": 0}, []),
    ],
)
def test_the_snapshots_are_spread_over_the_checkpoints(changes, steps):
    """Catches a last step without one, two in one part of the run, and a count that is another."""
    train = digits().replaced({"train.power_averages": [0.1], **changes}).train
    every = [*range(train.checkpoint_every, 800, train.checkpoint_every), 800]
    assert [step for step in every if has_snapshot(train, step)] == steps
    assert count_snapshots(train) == len(steps)
    assert not has_snapshot(digits().train, 800)
