"""The train stage around the group: what is done is done, what is damaged is made again."""

import contextlib
import json
import logging

import pytest

from ddpm_core import cluster
from ddpm_core.cluster import group
from ddpm_core.config import identity
from ddpm_core.errors import CheckpointError, ConfigError, RunConflictError
from ddpm_core.progress import WARNING, parse
from ddpm_core.recipes import cifar10
from ddpm_core.runs import layout, lease, results
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.storage import open_store
from ddpm_core.training import stage
from ddpm_core.training.stage import run_train
from tests.training.small import small_config

CONFIG = small_config(compute__num_workers=2)
DATASET = "f" * 64


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path / "root"))
    pointer = results.DatasetPointer(layout.dataset_folder("digits", DATASET), DATASET)
    body = {"fingerprint": DATASET, "data": identity.data(CONFIG.data)}
    commit(store, pointer.folder, {}, body, name=layout.DATASET_INDEX)
    store.write(layout.dataset_pointer_key("small"), pointer.to_json())
    return store


@pytest.fixture
def groups(monkeypatch):
    """The payloads of the groups that were started; nothing runs."""
    started = []
    monkeypatch.setattr(cluster, "connect", lambda _compute: cluster.Connection(joined=False))
    monkeypatch.setattr(
        group, "train_group", lambda _worker, payload, _compute, name: started.append(payload)
    )
    return started


class Told:
    """Takes what MLflow would."""

    def __init__(self):
        self.points, self.stages, self.ends = [], [], []

    def open(self, _store, _config, *, stage):
        self.stages.append(stage)
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.ends.append(kind)

    def deliver(self, _result, log):
        log()

    def log_points(self, points):
        self.points += points


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """What is logged to MLflow; nothing is started for it."""
    told = Told()
    monkeypatch.setattr(stage, "open_tracker", told.open)
    return told


HISTORY = [{"step": 4.0, "loss": 0.5}, {"step": 20.0, "loss": 0.25}]


def commit_final(store, config=CONFIG):
    folder = layout.checkpoint_folder("small", config.train.num_steps)
    lines = "".join(json.dumps(point) + "\n" for point in HISTORY)
    contents = {"state": b"state", "ema": b"ema", "history": lines.encode()}
    files = {role: write_file(store, folder, role, ".bin", data)
             for role, data in contents.items()}  # fmt: skip
    body = {"step": 20, "experiment": layout.experiment_fingerprint(config), "dataset": DATASET}
    return commit(store, folder, files, body)


def test_a_finished_training_costs_nothing(store, groups, capsys):
    """Catches a cluster that is started, and data that are read, to find that all is done."""
    commit_final(store)
    store.delete(layout.dataset_pointer_key("small"))
    run_train(store, CONFIG)
    assert not groups
    line = parse(capsys.readouterr().out.strip(), STAGES)
    assert (line.done, line.total) == (20, 20)
    assert line.note.startswith("done already: ")


def test_the_curve_of_a_finished_training_is_sent_again(store, groups, told):
    """Catches the end of a curve that nobody ever sends: MLflow was down then, or a kill came
    between the last checkpoint and the end of the sending."""
    commit_final(store)
    run_train(store, CONFIG)
    assert told.stages == ["train"]
    assert told.points == [{"step": 4.0, "train/loss": 0.5}, {"step": 20.0, "train/loss": 0.25}]


def test_the_end_of_a_group_that_was_interrupted_is_noted(store, groups, told, monkeypatch):
    """Catches a cancelled training that MLflow shows as running for ever: the worker that logs is
    killed with its group."""

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(group, "train_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_train(store, CONFIG)
    assert (told.stages, told.ends) == (["train"], [KeyboardInterrupt])


def test_a_training_whose_evaluation_would_lack_its_file_is_not_begun(store, groups, tmp_path):
    """Catches days of training before anybody looks for the feature network."""
    path = tmp_path / "net.pt"
    given = {"evaluate.features": str(path), "evaluate.features_sha256": "0" * 64}
    config = CONFIG.replaced(given)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        run_train(store, config)
    assert not groups
    commit_final(store, config)
    run_train(store, config)  # done: the file may be gone


@pytest.mark.parametrize("what", ["file", "manifest"])
def test_a_damaged_result_is_made_again(store, groups, what, monkeypatch):
    """Catches "done already" over a file that nobody can read."""
    made = commit_final(store)
    name = made.files["ema"].name if what == "file" else "manifest.json"
    path = store.local_path(f"{made.folder}/{name}")
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(
        group, "train_group", lambda *_args, **_kwargs: groups.append(commit_final(store))
    )
    run_train(store, CONFIG)
    assert len(groups) == 1
    assert results.final_checkpoint(store, CONFIG) == made


def test_a_group_that_left_no_result_is_an_error(store, groups):
    """Catches workers that wrote to a disk that only they see."""
    with pytest.raises(CheckpointError, match="step_00000020 is not there; all nodes must see"):
        run_train(store, CONFIG)
    assert len(groups) == 1


def test_a_chain_that_does_not_end_in_noise_is_reported_once_and_trained(
    store, caplog, monkeypatch
):
    """Catches a training that begins without a word, an error, a line for each worker or one that
    the flow does not take for a warning, and a word where nothing is left to train.
    """
    config = small_config(compute__num_workers=2, diffusion__beta_end=0.002, train__ema_decay=0.8)
    monkeypatch.setattr(cluster, "connect", lambda _compute: cluster.Connection(joined=False))
    monkeypatch.setattr(group, "train_group", lambda *_args, **_kwargs: commit_final(store, config))
    with caplog.at_level(logging.WARNING):
        run_train(store, config)
        run_train(store, config)
    (record,) = caplog.records
    assert record.getMessage().startswith(WARNING + "abar_T=0.3")
    assert "\n" not in record.getMessage()


def test_a_chain_that_ends_in_noise_is_no_matter_for_warnings(store, groups, caplog):
    """Catches a warning that is always there."""
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError):
        run_train(store, CONFIG.replaced({"train.ema_decay": 0.8}))
    assert not caplog.records
    caplog.clear()
    short = CONFIG.replaced({"train.ema_decay": 0.99, "train.warmup_steps": 21})
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError):
        run_train(store, short)
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition("=")[0] for line in said] == [
        f"{WARNING}train.warmup_steps",
        f"{WARNING}the average of the weights with train.ema_decay",
    ]


def test_without_a_data_set_it_is_made_first(tmp_path, groups):
    """Catches a training that needs a second command first."""
    empty = open_store(str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match="is not there"):  # the group here trains nothing
        run_train(empty, CONFIG)
    assert results.dataset_of(empty, CONFIG) is not None
    assert len(groups) == 1


def test_the_stage_ends_its_connection(store, monkeypatch):
    """Catches a local Ray that outlives an error."""
    closed = []

    class Recorded(cluster.Connection):
        def close(self):
            closed.append(True)

    def fail(*_args, **_kwargs):
        raise CheckpointError("test")

    monkeypatch.setattr(cluster, "connect", lambda _compute: Recorded(joined=True))
    monkeypatch.setattr(group, "train_group", fail)
    with pytest.raises(CheckpointError, match="test"):
        stage.run_train(store, CONFIG)
    assert closed


def test_a_run_that_is_being_trained_is_not_trained_twice(store, groups):
    """Catches a second start that trains the same steps beside the first."""
    key = lease.lease_key("small")
    with lease.held(store, "small"), pytest.raises(RunConflictError, match="is being trained by"):
        run_train(store, CONFIG)
    assert not groups
    assert not store.exists(key)
    with contextlib.suppress(CheckpointError):  # no group trains here
        run_train(store, CONFIG)
    assert len(groups) == 1
    assert not store.exists(key)


def test_a_name_that_no_class_has_is_refused_before_the_training(tmp_path, groups):
    """Catches: days of training, and then samples of a class that there is not."""
    store = open_store(str(tmp_path / "labelled"))
    changes = {"model.conditioning": "label", "sample.labels": ["cat"]}
    with pytest.raises(ConfigError, match="'cat', which is no class of the images"):
        run_train(store, CONFIG.replaced(changes))
    assert not groups


@pytest.mark.parametrize(
    ("changes", "units", "gpu", "said"),
    [
        ({}, True, False, True),
        ({"train.precision": "bfloat16"}, True, False, False),
        ({"model.base_channels": 32}, True, False, False),
        ({}, False, False, False),
        ({}, True, True, False),
    ],
)
def test_idle_matrix_units_are_spoken_of(changes, units, gpu, said, monkeypatch):
    """Catches the hint on a GPU, for a network that gains nothing, or where it is followed."""
    monkeypatch.setattr(stage, "multiplies_bfloat16", lambda: units)
    monkeypatch.setattr(stage, "uses_gpu", lambda _compute: gpu)
    hint = stage._idle_units(cifar10().replaced(changes))
    assert (hint is not None and "--set train.precision=bfloat16" in hint) == said
