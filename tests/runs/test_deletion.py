"""A run is deleted for good, and nothing else is."""

import pytest

from ddpm_core.errors import ConfigError, RunConflictError
from ddpm_core.recipes import ablation_runs, digits
from ddpm_core.runs import lease
from ddpm_core.runs.deletion import delete_run
from ddpm_core.store.storage import open_store
from tests.flows.fakes import recorded


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path / "root"))
    recorded(store, digits(), "shard", "train", "sample")
    recorded(store, ablation_runs(digits())["eps-l-fixed"])
    return store


def test_a_run_is_deleted_and_what_others_use_stays(store, tmp_path):
    """Catches: a data set that is deleted with the first of its runs, another run with a longer
    name, and a folder of which some is left.
    """
    (tmp_path / "root/runs/digits/logs").mkdir()
    (tmp_path / "root/runs/digits/logs/.hidden").touch()
    said = delete_run(store, "digits", confirmed=True)
    assert said.startswith(f"deleted {store.uri}/runs/digits; what stays: its data set")
    assert said.endswith("runs of their own: digits-eps-l-fixed")
    names = sorted(path.name for path in (tmp_path / "root/runs").iterdir())
    assert names == ["digits-eps-l-fixed"]
    assert store.names("datasets")
    with pytest.raises(ConfigError, match="there is no run 'digits'"):
        delete_run(store, "digits", confirmed=True)


def test_runs_that_name_its_weights_are_named(store):
    """Catches: a run that loses its weights without a word."""
    recorded(store, digits().replaced({"name": "user", "sample.model": "digits@5"}))
    recorded(store, digits().replaced({"name": "other", "sample.model": "@5"}))
    larger = {"name": "larger", "model.low_size": [4, 4], "sample.low_from": "digits@5"}
    recorded(store, digits().replaced(larger))
    said = delete_run(store, "digits", confirmed=True)
    assert said.endswith("run.json names its weights, which are gone: larger, user")


def test_a_store_without_folders_deletes_the_name_last(store, monkeypatch):
    """Catches: a bucket with a run that is half deleted and cannot be named any more."""
    deleted, delete = [], type(store).delete
    monkeypatch.setattr(type(store), "local_path", lambda self, key: None)
    monkeypatch.setattr(
        type(store), "delete", lambda self, key: (deleted.append(key), delete(self, key))
    )
    delete_run(store, "digits", confirmed=True)
    assert deleted[-1] == "runs/digits/run.json"
    assert "runs/digits/dataset.json" in deleted
    assert all(key.startswith("runs/digits/") for key in deleted)
    assert not store.exists("runs/digits/checkpoints/step_00000800/manifest.json")


def test_a_run_that_is_being_trained_is_not_deleted(store):
    """Catches: a training whose folder is taken away under it."""
    with lease.held(store, "digits"), pytest.raises(RunConflictError, match="digits"):
        delete_run(store, "digits", confirmed=True)
    assert store.exists("runs/digits/run.json")
    delete_run(store, "digits", confirmed=True)


def test_nothing_is_deleted_that_was_not_confirmed_or_is_elsewhere(store, tmp_path):
    """Catches: weeks of training gone with a misspelt command."""
    with pytest.raises(ConfigError, match="say --yes"):
        delete_run(store, "digits", confirmed=False)
    for name in ("..", "../root", "digits/..", ""):
        with pytest.raises(ConfigError):
            delete_run(store, name, confirmed=True)
    (tmp_path / "root/runs/digits").rename(tmp_path / "elsewhere")
    (tmp_path / "root/runs/digits").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        delete_run(store, "digits", confirmed=True)
    assert (tmp_path / "elsewhere/run.json").is_file()
