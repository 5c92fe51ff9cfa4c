"""A training of two networks through the same loop, checkpoints and resume as that of one."""

import json
import shutil

import pytest
import torch
from torch import nn

from ddpm_core import cluster
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.inference.weights import load_average
from ddpm_core.models.profiles import Exponential
from ddpm_core.runs import layout, places, results
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.stepping.counting import Counts
from ddpm_core.training.stepping.optimiser import Optimiser
from ddpm_core.training.stepping.trainee import Average, Trainee
from ddpm_core.training.storing import checkpoint
from ddpm_core.training.storing.checkpoint import Origin
from ddpm_core.training.worker import train_rank
from ddpm_core.verifying.verify import verify
from tests.training.small import (
    CPU,
    copy_of,
    make_learner,
    newest_checkpoint,
    parallel_of,
    rank_slice,
    run_group,
    small_config,
    small_images,
)
from tests.training.test_worker import FakeTracker, Killed
from tests.training.toy import PARTS, Adversarial

ALONE = cluster.Place(rank=0, world_size=1, device=CPU)
ORIGIN = Origin(experiment="e" * 64, dataset="d" * 64)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A root with a training of two networks that nothing interrupted."""
    store = open_store(str(tmp_path_factory.mktemp("toy")))
    run_shard(store, small_config())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
        train_rank(store, small_config(), ALONE, Adversarial)
    return store


@pytest.fixture
def store(reference, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "datasets").symlink_to(reference.local_path("datasets"))
    key = layout.dataset_pointer_key("small")
    open_store(str(root)).write(key, reference.read(key))
    return open_store(str(root))


def kill_at(step, store, monkeypatch):
    true_step = Adversarial.step

    def fatal_step(self, number, images_u8, conditioning):
        if number == step:
            raise Killed
        true_step(self, number, images_u8, conditioning)

    with monkeypatch.context() as patch:
        patch.setattr(Adversarial, "step", fatal_step)
        with pytest.raises(Killed):
            train_rank(store, small_config(), ALONE, Adversarial)


def parts_of(training):
    return {role: copy_of(part) for role, part in training.trainee.parts().items()}


def test_two_networks_killed_end_in_the_same_bytes(store, reference, monkeypatch):
    """Catches a module, a buffer, an optimiser, its step, or an average that is not resumed."""
    config = small_config()
    for step in (7, 13):
        kill_at(step, store, monkeypatch)
        assert newest_checkpoint(store, "small").body["step"] == step // 5 * 5
    train_rank(store, config, ALONE, Adversarial)
    final = results.final_checkpoint(store, config)
    assert final == results.final_checkpoint(reference, config)
    assert set(final.files) == PARTS | {"history"}
    assert final.body["format"] == 2
    last = json.loads(final.read(store, "history").decode().splitlines()[-1])
    assert {"loss", "critic_loss", "grad_norm"} < set(last)


def test_every_average_is_read_by_its_names(reference):
    """Catches an average under another's role, and one that does not average."""
    found = results.final_checkpoint(reference, small_config())
    trained = Adversarial(small_config(), parallel_of())
    checkpoint.resume_at(reference, "small", 20, trained.trainee.parts())
    weights = dict(trained.autoencoder.named_parameters())
    read = {
        name: load_average(reference, found, module="autoencoder", average=name)
        for name in ("ema", "slow")
    }
    for name, average in read.items():
        expected = trained.trainee.averaged("autoencoder", name)
        torch.testing.assert_close(average, expected, rtol=0, atol=0)
    far, near = (
        max(float((read[name][key] - one.detach()).abs().max()) for key, one in weights.items())
        for name in ("slow", "ema")
    )
    assert far > 2 * near > 0
    with pytest.raises(CheckpointError, match=r"no average 'slow' of a module 'critic'; it has"):
        load_average(reference, found, module="critic", average="slow")
    with pytest.raises(CheckpointError, match="no average 'ema' of a module 'model'"):
        load_average(reference, found)


def test_a_damaged_part_costs_the_steps_since_the_checkpoint_before(
    store, reference, monkeypatch, tmp_path
):
    """Catches a part that is used unverified."""
    kill_at(17, store, monkeypatch)
    made = newest_checkpoint(store, "small")
    whole = Adversarial(small_config(), parallel_of())
    checkpoint.resume_at(reference, "small", 10, whole.trainee.parts())
    for role in PARTS:
        shutil.copytree(store.local_path("runs"), tmp_path / role / "runs")
        struck = open_store(str(tmp_path / role))
        path = struck.local_path(f"{made.folder}/{made.files[role].name}")
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        parts = Adversarial(small_config(), parallel_of()).trainee.parts()
        origin = Origin(made.body["experiment"], made.body["dataset"])
        assert checkpoint.resume(struck, "small", origin, parts).step == 10
        torch.testing.assert_close(parts, whole.trainee.parts(), rtol=0, atol=0)
        assert struck.exists(f"{made.folder}/quarantined.json")


def test_retention_takes_every_part(store):
    """Catches parts that stay for ever behind a `retired` mark."""
    train_rank(store, small_config(train__keep_checkpoints=2), ALONE, Adversarial)
    names = store.names(layout.checkpoint_folder("small", 10))
    assert set(names) == {"manifest.json", "retired"}


def test_verify_reads_every_part(store, monkeypatch):
    """Catches a check of the two files of old alone, or one that fails where they are not."""
    kill_at(12, store, monkeypatch)
    config = small_config()
    key = layout.run_json_key(config.name)
    store.write(key, config.to_json().encode())
    looked_at = verify(store.uri_of(key)).looked_at
    assert [line.rpartition(" ")[2] for line in looked_at if "checkpoint" in line] == ["10", "5"]
    made = newest_checkpoint(store, "small")
    name = made.files["optimiser.critic_adam"].name
    store.local_path(f"{made.folder}/{name}").write_bytes(b"torn")
    with pytest.raises(DataError, match=rf"1 thing is wrong(?s:.*){name} is damaged"):
        verify(store.uri_of(key))


def test_a_training_of_another_kind_is_not_continued(reference):
    """Catches weights that are left as they were where a part is missing."""
    made = results.final_checkpoint(reference, small_config())
    origin = Origin(made.body["experiment"], made.body["dataset"])
    denoising = make_learner(small_config())
    with pytest.raises(CheckpointError, match=r"differ in the parts ema, ema\.autoencoder, .*kind"):
        checkpoint.resume(reference, "small", origin, denoising.trainee.parts())


def test_a_checkpoint_of_a_newer_format_is_refused_and_left(tmp_path):
    """Catches a newer checkpoint that is read as one of ours, or set aside as damaged."""
    store = open_store(str(tmp_path))
    tensors = {"state": {"window": torch.zeros(2)}, "ema": {"w": torch.zeros(2)}}
    written = checkpoint.write_parts(store, "small", 5, tensors)
    files = {**written, "history": written["ema"]}
    folder = layout.checkpoint_folder("small", 5)
    body = {"step": 5, "experiment": "e" * 64, "dataset": "d" * 64, "format": 3}
    made = commit(store, folder, files, body)
    told = r"step_00000005 is a checkpoint of format 3; this program reads up to 2: use the version"
    with pytest.raises(CheckpointError, match=told):
        checkpoint.resume(store, "small", ORIGIN, tensors)
    with pytest.raises(CheckpointError, match=told):
        load_average(store, made)
    assert manifest.load(store, folder, places.checkpoint_expected(5)) == made


# -- several ranks -----------------------------------------------------------------------------


def _ranks_that_begin_apart(rank, world_size, folder):
    training = Adversarial(small_config(), parallel_of(rank, world_size))
    for part in training.trainee.parts().values():
        for tensor in part.values():
            tensor += rank
    store = open_store(str(folder / "store"))
    parallel = parallel_of(rank, world_size)
    assert worker._resume(store, "small", ORIGIN, training.trainee, parallel) is None
    torch.save(parts_of(training), folder / f"parts-{rank}")


def test_ranks_begin_with_the_weights_of_rank_0(tmp_path):
    """Catches ranks whose processors draw other initial weights: the first checkpoint refuses them,
    after every start anew.
    """
    run_group(_ranks_that_begin_apart, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"parts-{rank}", weights_only=True) for rank in (0, 1))
    own = parts_of(Adversarial(small_config(), parallel_of()))
    torch.testing.assert_close(first, own, rtol=0, atol=0)
    for parts in (first, second):
        parts["state"].pop("window")  # which only rank 0 keeps
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def _two_ranks(rank, world_size, folder):
    config, images = small_config(), small_images()
    store = open_store(str(folder / "store"))

    def run(training, start, stop):
        for step in range(start, stop):
            training.step(step, rank_slice(config, images, step, rank, world_size))

    whole = Adversarial(config, parallel_of(rank, world_size))
    run(whole, 0, 4)
    whole.trainee.counts.gather()
    assert bool(whole.trainee.counts.window.any()) == (rank == 0)
    # Each rank writes parts that it holds, rank 0 the counts; one of them publishes.
    parallel, parts = parallel_of(rank, world_size), whole.trainee.parts()
    mine = ["state", *sorted(PARTS - {"state"})][rank::2]
    held = {role: parts[role] for role in mine}
    text = checkpoint.to_text(checkpoint.write_parts(store, "small", 4, held))
    written = checkpoint.from_texts(parallel.gather_text(text))
    if rank == 0:
        checkpoint.commit(
            store, "small", ORIGIN, step=4, images_seen=48, written=written, history=[]
        )
    parallel.wait()
    run(whole, 4, 7)

    resumed = Adversarial(config, parallel)
    assert worker._resume(store, "small", ORIGIN, resumed.trainee, parallel).step == 4
    run(resumed, 4, 7)
    torch.testing.assert_close(resumed.trainee.parts(), whole.trainee.parts(), rtol=0, atol=0)
    assert resumed.trainee.counts.point() == whole.trainee.counts.point()
    if rank == 0:
        torch.save(parts_of(whole), folder / "parts")


def test_two_ranks_train_two_networks_as_one_does_and_each_writes_its_parts(tmp_path):
    """Catches gradients that leak from one network's loss into the other's, or are not shared;
    and a checkpoint that only the rank that publishes it can have written.
    """
    run_group(_two_ranks, 2, tmp_path)
    config, images = small_config(), small_images()
    alone = Adversarial(config, parallel_of())
    for step in range(7):
        alone.step(step, rank_slice(config, images, step, 0, 1))
    found = torch.load(tmp_path / "parts", weights_only=True)
    for role, part in parts_of(alone).items():
        part.pop("window", None)
        for name, tensor in part.items():
            torch.testing.assert_close(found[role][name], tensor, rtol=1e-3, atol=2e-5, msg=name)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "optimiser", "average"),
    [("state", "adam", "ema"), ("model", "model", "ema"), ("model", "adam", "history"),
     ("model", "adam", "module"), ("model", "optimiser", "ema"), ("a.b", "adam", "ema"),
     ("Model", "adam", "ema"), ("model", "adam", "model")],
)  # fmt: skip
def test_names_that_would_be_two_parts_of_one_role_are_refused(module, optimiser, average):
    """Catches a part that overwrites another in the manifest."""
    network = nn.Linear(2, 2)
    params = Optimiser(dict(network.named_parameters()))
    counts = Counts(["loss"], whole=None, latest=[], parallel=parallel_of())
    with pytest.raises(ConfigError, match="rename it"):
        Trainee(
            {module: network},
            {optimiser: params},
            [Average(module, average, Exponential(0.9))],
            counts,
        )


def test_an_average_of_a_module_that_is_not_there_is_refused():
    """Catches a KeyError where a name is misspelt."""
    network = nn.Linear(2, 2)
    counts = Counts(["loss"], whole=None, latest=[], parallel=parallel_of())
    with pytest.raises(ConfigError, match="of the module 'unet', and there are model; name one"):
        Trainee({"model": network}, {}, [Average("unet", "ema", Exponential(0.9))], counts)
