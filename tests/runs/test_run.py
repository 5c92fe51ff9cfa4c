"""A run's name stands for one configuration, wherever it is named from."""

import json
import os

import pytest

from ddpm_core.errors import ConfigError, RunConflictError, StorageError
from ddpm_core.recipes import digits, mnist, recipe
from ddpm_core.runs import begun, layout
from ddpm_core.runs.run import (
    begin_stage,
    check_run,
    check_stage,
    configure,
    open_run,
    open_stage,
    require_feature_file,
)
from ddpm_core.store.storage import open_store, sha256_of


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def test_run_json_is_written_once_and_the_same_again_is_no_conflict(store):
    """Catches: a second run of the same thing that rewrites or refuses its own record."""
    open_run(store, digits())
    first = store.read(layout.run_json_key("digits"))
    open_run(store, digits())
    assert store.read(layout.run_json_key("digits")) == first
    assert json.loads(first)["train"]["num_steps"] == digits().train.num_steps


@pytest.mark.parametrize(
    "change",
    [{"train.num_steps": 7}, {"sample.seed": 7}, {"evaluate.seed": 7}, {"model.dropout": 0.5}],
)
def test_the_same_name_with_another_configuration_is_refused_with_a_diff(store, change):
    """Catches: resuming silently under another configuration, or overwriting the record."""
    open_run(store, digits())
    before = store.read(layout.run_json_key("digits"))
    with pytest.raises(RunConflictError) as caught:
        open_run(store, digits().replaced(change))
    (key, value), message = next(iter(change.items())), str(caught.value)
    assert f"{key}: " in message
    assert f"-> {value}" in message
    assert "--run NAME" in message
    assert store.read(layout.run_json_key("digits")) == before


def test_workers_and_the_place_of_the_raw_data_may_differ(store):
    """Catches: a run that cannot go on on a machine with another number of workers."""
    open_run(store, mnist())
    config = open_run(store, mnist().replaced({"compute.num_workers": 4, "data.source": "/x"}))
    assert config.compute.num_workers == 4


def test_a_stage_of_a_run_on_record_may_sample_otherwise_but_not_be_another_experiment(store):
    """Catches: a finished run of which no more samples can be drawn; and the opposite."""
    open_run(store, digits())
    more = open_stage(store, digits().replaced({"sample.num_images": 5000}))
    assert more.sample.num_images == 5000
    with pytest.raises(RunConflictError, match=r"train\.seed: 0 -> 1"):
        open_stage(store, digits().replaced({"train.seed": 1}))


def test_the_root_follows_from_where_the_run_json_lies(store, tmp_path):
    """Catches: a stage that looks for its run under ./runs whatever file it was given."""
    open_run(store, digits())
    path = store.local_path(layout.run_json_key("digits"))
    root, config = configure(str(path), root=None, run=None, changes={})
    assert root == str(tmp_path / "root")
    assert config == digits()


def test_changing_the_experiment_of_a_run_json_in_place_is_refused(store):
    """Catches: `train runs/.../run.json --set train.seed=1` that trains under the old name."""
    open_run(store, digits())
    path = str(store.local_path(layout.run_json_key("digits")))
    with pytest.raises(RunConflictError, match=r"train\.seed"):
        configure(path, root=None, run=None, changes={"train.seed": 1})
    _, config = configure(path, root=None, run="other", changes={"train.seed": 1})
    assert (config.name, config.train.seed) == ("other", 1)


def test_a_relative_path_is_resolved_where_the_command_was_given(tmp_path, monkeypatch):
    """Catches: a relative path that a worker resolves in its own working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    changes = {"data.source": "raw/mnist", "evaluate.features": "~/net.pt",
               "evaluate.features_sha256": "0" * 64}  # fmt: skip
    _, config = configure("mnist", root=None, run=None, changes=changes)
    assert config.data.source == str(tmp_path / "raw/mnist")
    assert config.evaluate.features == str(tmp_path / "home/net.pt")
    for other in ({}, {**changes, "evaluate.features": "https://host/net.pt"}):
        _, config = configure("mnist", root=None, run=None, changes=other)
        assert config.evaluate.features == other.get("evaluate.features", "trained")


def test_a_check_refuses_what_opening_would_and_writes_nothing(store):
    """Catches: a dry run that shows a plan which is then refused, or that leaves a record."""
    other = digits().replaced({"train.num_steps": 7})
    assert not check_run(store, other)
    assert not check_stage(store, other)
    assert not store.exists(layout.run_json_key("digits"))
    open_run(store, digits())
    assert check_run(store, digits())
    for check in (check_run, check_stage):
        with pytest.raises(RunConflictError, match=r"train\.num_steps: 800 -> 7"):
            check(store, other)
    more = digits().replaced({"sample.num_images": 5000})
    assert check_stage(store, more)
    with pytest.raises(RunConflictError, match="num_images"):
        check_run(store, more)


def test_the_record_of_another_process_that_was_first_counts(store, monkeypatch):
    """Catches: two processes that begin one run with two configurations at the same time."""
    create = type(store).create

    def late(self, key, data):
        create(self, key, digits().to_json().encode())
        create(self, key, data)

    monkeypatch.setattr(type(store), "create", late)
    with pytest.raises(RunConflictError, match=r"train\.num_steps: 800 -> 7"):
        open_run(store, digits().replaced({"train.num_steps": 7}))


def test_a_feature_network_that_is_not_there_is_named(tmp_path):
    """Catches: days of training before the evaluation finds no file."""
    path = tmp_path / "net.pt"
    given = {"evaluate.features": str(path), "evaluate.features_sha256": "0" * 64}
    with pytest.raises(ConfigError, match=r"evaluate\.features='.*net\.pt' cannot be read"):
        require_feature_file(digits().replaced(given))
    path.write_bytes(b"a network")
    with pytest.raises(ConfigError, match=r"evaluate\.features_sha256 is 0{64}"):
        require_feature_file(digits().replaced(given))
    given["evaluate.features_sha256"] = sha256_of(b"a network")
    require_feature_file(digits().replaced(given))
    require_feature_file(digits())
    require_feature_file(digits().replaced({**given, "evaluate.features": "https://host/net.pt"}))


@pytest.mark.parametrize(
    ("target", "part"),
    [("digit", "neither a recipe"), ("nowhere/run.json", "no file"), ("", "neither a recipe")],
)
def test_a_target_that_is_nothing_is_named(target, part, tmp_path, monkeypatch):
    """Catches: a traceback for a misspelt recipe or path."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=part):
        configure(target, root=None, run=None, changes={})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, r"data.source='default', but lsun_cat is nothing .*--set data.source=PLACE"),
        ({"data.source": "https://h/a.zip"}, r"fetched from outside and data.source_sha256 is not"),
    ],
)
def test_a_collection_without_a_source_is_refused_before_anything_starts(changes, said):
    """Catches: a cluster that starts up to find that nobody said where the images are."""
    with pytest.raises(ConfigError, match=said):
        configure("lsun-cat", root=None, run=None, changes=changes)


def test_what_to_do_about_bad_files_may_change_from_start_to_start(store):
    """Catches: a run that ends with a list of bad files, and may then not be told to skip them."""
    run = recipe("images").replaced({"data.source": "/a.zip"})
    open_run(store, run)
    open_run(store, run.replaced({"data.on_bad": "skip", "data.max_bad_share": 0.1}))
    with pytest.raises(RunConflictError, match=r"data.crop"):
        open_run(store, run.replaced({"data.crop": "none"}))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (os.mkfifo, StorageError, "run.json is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), StorageError, "run.json is no regular file"),
        (lambda path: (path.touch(), os.truncate(path, 2**33)), ConfigError, "longer than"),
    ],
    ids=["fifo", "device", "8 GiB"],
)
def test_a_run_json_that_never_ends_is_refused_as_a_target_and_as_a_record(
    make, kind, said, store, tmp_path
):
    """Catches: a FIFO that is waited for, and a device or a huge file that fills the memory."""
    folder = tmp_path / "root" / "runs" / "digits"
    folder.mkdir(parents=True)
    make(folder / "run.json")
    with pytest.raises(kind, match=said):
        configure(str(folder / "run.json"), root=None, run=None, changes={})
    with pytest.raises(kind, match=said):
        check_run(store, digits())


# -- housekeeping ----------------------------------------------------------------------------------


def test_housekeeping_may_change_under_one_name_and_is_said_once(store, caplog):
    """Catches: a refusal of another number of checkpoints; one that changes in silence, or is
    repeated by every stage; a run.json that is written anew."""
    open_run(store, digits())
    record = store.read(layout.run_json_key("digits"))
    other = digits().replaced({"train.keep_checkpoints": 9, "sample.num_grid_images": 16})
    assert check_run(store, other)
    assert check_stage(store, other)
    assert open_run(store, other).train.keep_checkpoints == 9
    begin_stage(store, other)
    assert caplog.messages == [
        "run 'digits' goes on with other housekeeping: train.keep_checkpoints: 3 -> 9; "
        "sample.num_grid_images: 100 -> 16"
    ]
    begin_stage(store, other)
    assert len(caplog.messages) == 1
    begin_stage(store, digits())  # back to what it was begun with
    assert caplog.messages[1].endswith(
        "train.keep_checkpoints: 9 -> 3; sample.num_grid_images: 16 -> 100"
    )
    begin_stage(store, digits().replaced({"compute.num_workers": 8}))
    assert len(caplog.messages) == 2
    assert store.read(layout.run_json_key("digits")) == record


def test_housekeeping_is_said_by_a_dry_run_and_not_kept(store, caplog):
    """Catches: a dry run after which the stage itself says nothing."""
    other = digits().replaced({"train.log_every": 5})
    assert begun.housekeeping_of(store, other) == ""  # there is no run
    open_run(store, digits())
    for _ in range(2):
        assert "train.log_every: 20 -> 5" in begun.housekeeping_of(store, other)
    assert begun.housekeeping_of(store, digits()) == ""
    begin_stage(store, other)
    assert "train.log_every: 20 -> 5" in caplog.text


def test_a_changed_run_json_and_other_housekeeping_are_both_said(store, caplog):
    """Catches: a note of the one that forgets the other."""
    open_run(store, digits())
    begin_stage(store, digits().replaced({"train.log_every": 5}))
    key = layout.run_json_key("digits")
    values = json.loads(store.read(key))
    values["sample"]["seed"] = 3
    store.write(key, json.dumps(values).encode())
    caplog.clear()
    begin_stage(store, digits().replaced({"train.log_every": 5}))
    assert len(caplog.messages) == 1
    assert "sample.seed: 0 -> 3" in caplog.text


def test_what_is_given_is_in_force_and_a_result_is_still_refused(store):
    """Catches: a way past the refusal for all of `train`, once some of its keys are free."""
    open_run(store, digits())
    path = str(store.local_path(layout.run_json_key("digits")))
    _, config = configure(path, root=None, run=None, changes={"train.checkpoint_every": 50})
    assert config.train.checkpoint_every == 50
    with pytest.raises(RunConflictError) as caught:
        configure(
            path, root=None, run=None, changes={"train.checkpoint_every": 50, "train.seed": 1}
        )
    assert "train.seed: 0 -> 1" in str(caught.value)
    assert "checkpoint_every" not in str(caught.value)
