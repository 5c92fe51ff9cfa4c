"""A whole training by one rank, without Ray: killed anywhere, it ends in the same bytes."""

import json
import math
import threading

import pytest
import torch

from ddpm_core import cluster
from ddpm_core.errors import CheckpointError, DataError, DivergenceError, StorageError
from ddpm_core.progress import parse
from ddpm_core.runs import layout, results
from ddpm_core.runs.stages import STAGES
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store import manifest
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.storing import checkpoint
from ddpm_core.training.worker import payload_of, train_rank
from tests.training.small import CPU, average_of, make_learner, newest_checkpoint, small_config

ALONE = cluster.Place(rank=0, world_size=1, device=CPU)


class FakeTracker:
    """Takes what MLflow would."""

    def __init__(self):
        self.points, self.delivered, self.closed = [], [], None
        self.num_previews = 0

    def begin(self):
        pass

    def deliver(self, result, _log):
        self.delivered.append(result.folder)

    def log_points(self, points):
        self.points += points

    def log_previews(self):
        self.num_previews += 1

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.closed = kind


@pytest.fixture
def trackers(monkeypatch):
    """Every tracker that a training opens, in order."""
    opened = []

    def open_tracker(_store, _config, *, stage):
        assert stage == "train"
        opened.append(FakeTracker())
        return opened[-1]

    monkeypatch.setattr(worker, "open_tracker", open_tracker)
    return opened


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("data")))
    run_shard(store, small_config())
    return store


@pytest.fixture
def store(sharded, tmp_path):
    """A root with a data set and no checkpoint."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "datasets").symlink_to(sharded.local_path("datasets"))
    store = open_store(str(root))
    key = layout.dataset_pointer_key("small")
    store.write(key, sharded.read(key))
    return store


class Killed(BaseException):
    pass


def train_until(store, config, step, monkeypatch):
    """Train, and die at the beginning of that step."""
    true_step = Denoising.step

    def fatal_step(self, number, images_u8, conditioning):
        if number == step:
            raise Killed
        true_step(self, number, images_u8, conditioning)

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "step", fatal_step)
        with pytest.raises(Killed):
            train_rank(store, config, ALONE)


def final(store, config):
    return results.final_checkpoint(store, config)


@pytest.fixture(scope="module")
def reference(sharded):
    """The last checkpoint of a training that nothing interrupted."""
    config = small_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
        train_rank(sharded, config, ALONE)
    return final(sharded, config)


@pytest.mark.parametrize("steps", [(0,), (5, 12), (19,), (6, 6, 6)])
def test_killed_training_ends_in_the_same_bytes(store, trackers, reference, monkeypatch, steps):
    """Catches anything that a kill changes: weights, average, moments, curve, manifest.

    Also a training that begins anew: what was committed before the kill is not made again.
    """
    config = small_config()
    for step in steps:
        train_until(store, config, step, monkeypatch)
        newest = newest_checkpoint(store, "small")
        assert (newest.body["step"] if newest else 0) == step // 5 * 5
    train_rank(store, config, ALONE)
    assert final(store, config) == reference


def test_damage_costs_the_steps_since_the_checkpoint_before(
    store, trackers, reference, monkeypatch
):
    """Catches a checkpoint that stays set aside although it was made again."""
    config = small_config()
    train_until(store, config, 17, monkeypatch)
    made = newest_checkpoint(store, "small")
    store.local_path(f"{made.folder}/{made.files['state'].name}").write_bytes(b"torn")
    train_rank(store, config, ALONE)
    assert final(store, config) == reference
    learner = make_learner(config)
    assert checkpoint.resume_at(store, "small", 15, learner.trainee.parts()).step == 15


def test_mlflow_gets_every_point_once_more_after_a_resume(store, trackers, monkeypatch):
    """Catches points that are lost because they were measured while MLflow was down."""
    config = small_config()
    train_until(store, config, 12, monkeypatch)
    train_rank(store, config, ALONE)
    first, second = trackers
    assert first.closed is Killed
    assert second.closed is None
    assert (first.delivered, second.delivered) == ([], [final(store, config).folder])
    assert [point["step"] for point in first.points] == [4, 8, 12]
    assert [point["step"] for point in second.points] == [4, 8, 12, 16, 20]
    sent = second.points[-1]
    quartiles = {f"train/loss_q{quartile}" for quartile in range(4)}
    curve = {"train/loss", *quartiles, "train/grad_norm", "train/learning_rate"}
    speed = {"train/images_seen", "train/images_per_s", "train/step_s", "train/data_wait_s"}
    assert set(sent) == {"step"} | curve | speed
    # Speed is of the moment; the stored curve is not.
    lines = final(store, config).read(store, "history").decode().splitlines()
    stored = [json.loads(line) for line in lines]
    assert [point["step"] for point in stored] == [4, 8, 12, 16, 20]
    assert not {"images_per_s", "step_s", "data_wait_s"} & set(stored[-1])


def test_progress_is_reported_for_people_and_for_the_flow(store, trackers, capsys, monkeypatch):
    """Catches a last line that does not say that all is done, and a line per step."""
    monkeypatch.setattr(worker, "_SHOW_EVERY_S", 3600.0)
    train_rank(store, small_config(), ALONE)
    lines = [
        parse(line, STAGES) for line in capsys.readouterr().out.splitlines() if "train " in line
    ]
    # After as many steps as take their time; each of the others says it too.
    (speed,) = [line for line in lines if line.note.startswith("measured: ")]
    assert "images/s, about" in speed.note
    lines.remove(speed)
    assert [(line.done, line.total, line.unit) for line in lines] == [
        (0, 20, "steps"),
        (4, 20, "steps"),
        (20, 20, "steps"),
    ]
    assert lines[0].note == "begins"
    assert "loss 0." in lines[-1].note
    assert lines[-1].note.endswith("eta 0s")


def test_only_the_newest_checkpoints_keep_their_files(store, trackers):
    """Catches retention that is forgotten, or that takes the last one."""
    config = small_config(train__keep_checkpoints=2)
    train_rank(store, config, ALONE)
    kept = [
        step
        for step in layout.committed_steps(store, "small")
        if not manifest.is_retired(store, layout.checkpoint_folder("small", step))
    ]
    assert kept == [20, 15]


@pytest.mark.parametrize("where", ["model", "ema"])
def test_a_nan_is_never_committed(store, trackers, monkeypatch, where):
    """Catches a checkpoint of a training that diverged between two points of the curves."""
    true_step = Denoising.step

    def poisoned_step(self, number, images_u8, conditioning):
        true_step(self, number, images_u8, conditioning)
        if number == 9:  # after the point at 8, before the checkpoint at 10
            average = average_of(self)["conv_out.bias"]
            (average if where == "ema" else self.network.conv_out.bias.data)[0] = math.inf

    monkeypatch.setattr(Denoising, "step", poisoned_step)
    with pytest.raises(DivergenceError, match=rf"{where}\.conv_out\.bias .* after step 10"):
        train_rank(store, small_config(), ALONE)
    assert newest_checkpoint(store, "small").body["step"] == 5
    assert trackers[0].closed is DivergenceError


def test_without_a_data_set_nothing_is_trained(tmp_path, trackers):
    """Catches a traceback where the shard stage was forgotten."""
    with pytest.raises(DataError, match=r"no data set yet .* run the shard stage first"):
        train_rank(open_store(str(tmp_path / "empty")), small_config(), ALONE)


def test_a_training_that_cannot_begin_leaves_no_thread(store, monkeypatch):
    """Catches a program that stays for the decoding of a data set which nobody will use."""

    def away(*_values):
        raise StorageError("no answer")

    monkeypatch.setattr(worker.places, "experiments_before", away)
    with pytest.raises(StorageError, match="no answer"):
        train_rank(store, small_config(), ALONE)
    assert not [one.name for one in threading.enumerate() if one.name.startswith("filling")]


def test_another_configuration_under_the_same_name_is_refused(store, trackers, monkeypatch):
    """Catches a run continued with another learning rate."""
    train_until(store, small_config(), 7, monkeypatch)
    with pytest.raises(CheckpointError, match="another experiment"):
        train_rank(store, small_config(train__learning_rate=5e-4), ALONE)


def test_payload_is_json_and_says_all(sharded):
    """Catches a path that only the driver knows, and tensors or classes sent by pickle."""
    payload = payload_of(sharded, small_config())
    assert json.loads(json.dumps(payload)) == payload
    assert payload["store"] == sharded.uri


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (80, "1m20s"),
                          (3599.7, "1h00m"), (11_100, "3h05m")]
)  # fmt: skip
def test_durations_are_short(seconds, text):
    """Catches 60s, and minutes where hours are left."""
    assert worker._duration(seconds) == text


def test_torch_is_left_as_it_was(store, trackers):
    """Catches a training that leaves autocast, gradients or determinism switched."""
    before = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
    train_rank(store, small_config(train__num_steps=2, train__precision="bfloat16"), ALONE)
    assert (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")) == before


@pytest.mark.gpu
def test_a_training_on_a_gpu_is_killed_goes_on_and_is_read_on_a_cpu(
    store, trackers, monkeypatch, gpu
):
    """Catches batches or state on another device, and checkpoints that hold CUDA tensors."""
    config = small_config()
    there = cluster.Place(rank=0, world_size=1, device=gpu)
    true_step = Denoising.step

    def fatal_step(self, number, images_u8, conditioning):
        assert images_u8.is_pinned()
        if number == 12:
            raise Killed
        true_step(self, number, images_u8, conditioning)

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "step", fatal_step)
        with pytest.raises(Killed):
            train_rank(store, config, there)
    train_rank(store, config, there)
    assert [point["step"] for point in trackers[1].points] == [4, 8, 12, 16, 20]
    origin = checkpoint.Origin(
        *(final(store, config).body[key] for key in ("experiment", "dataset"))
    )
    on_cpu = make_learner(config)
    assert checkpoint.resume(store, "small", origin, on_cpu.trainee.parts()).step == 20
