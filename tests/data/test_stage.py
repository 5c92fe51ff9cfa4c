import json
from pathlib import Path

import pytest

from ddpm_core import layout
from ddpm_core.data import stage
from ddpm_core.data.index import load_index
from ddpm_core.data.loader import load_split
from ddpm_core.data.stage import run_shard
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.progress import parse
from ddpm_core.recipes import mnist
from ddpm_core.storage import open_store
from tests.data.small import files_below, write_mnist


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def store(root):
    return open_store(str(root))


@pytest.fixture
def config(tmp_path):
    source = write_mnist(tmp_path / "source")
    return mnist().replaced(
        {"data.source": str(source), "data.images_per_shard": 4, "compute.num_workers": 1}
    )


@pytest.fixture
def no_source(monkeypatch):
    def fail(*_arguments, **_options):
        pytest.fail("reads the source again")

    def forbid():
        monkeypatch.setattr(stage, "load_splits", fail)

    return forbid


def test_run_shard_makes_the_data_set_and_points_the_run_to_it(store, config, capfd):
    """Catches a pointer to nothing, and an end that a follower never sees."""
    folder = run_shard(store, config)
    index = load_index(store, folder)
    assert layout.dataset_pointer(store, config.name) == {
        "dataset": folder,
        "fingerprint": index.fingerprint,
    }
    assert folder == layout.dataset_folder("mnist", index.fingerprint)
    assert layout.dataset_of(store, config) == index.manifest
    assert len(load_split(store, index, "train")) == 10
    lines = [parse(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line.stage, line.done, line.total) for line in lines] == [
        ("shard", done, 16) for done in (0, 4, 8, 10, 14, 16)
    ]


def test_a_second_time_nothing_is_read_or_written(store, root, config, capfd, no_source):
    """Catches sharding on every start of the pipeline."""
    folder = run_shard(store, config)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    no_source()
    assert run_shard(store, config) == folder
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    last = parse(capfd.readouterr().out.splitlines()[-1])
    assert (last.done, last.total) == (16, 16)
    assert "done already" in last.note


def test_another_run_uses_the_same_data_set(store, root, config):
    """Catches a data set per run, or per place that the source lies in."""
    folder = run_shard(store, config)
    before = files_below(root)
    source = Path(config.data.source)
    moved = source.rename(source.with_name("moved"))
    other = config.replaced({"name": "other", "data.source": str(moved), "train.num_steps": 7})
    assert run_shard(store, other) == folder
    after = files_below(root)
    assert set(after) - set(before) == {"runs/other/dataset.json"}


@pytest.mark.parametrize("name", ["train-000001.tar", "test-000000.tar", "train-first.png"])
@pytest.mark.parametrize("cut", [True, False])
def test_what_is_missing_or_cut_is_made_again(name, cut, store, root, config):
    """Catches a stage that calls itself done by the index alone."""
    folder = run_shard(store, config)
    before = files_below(root)
    path = root / folder / name
    if cut:
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    assert run_shard(store, config) == folder
    assert files_below(root) == before


def test_a_damaged_index_is_made_again(store, root, config):
    """Catches a run that can never be repaired by running it again."""
    folder = run_shard(store, config)
    before = files_below(root)
    (root / folder / "index.json").write_bytes(b"{}")
    assert run_shard(store, config) == folder
    assert files_below(root) == before


def test_what_the_loader_advises_for_a_damaged_shard_works(store, root, config):
    """Catches a remedy in an error message that nobody ever tried."""
    folder = run_shard(store, config)
    path = root / folder / "train-000000.tar"
    good = path.read_bytes()
    path.write_bytes(good[:600] + bytes([good[600] ^ 1]) + good[601:])
    with pytest.raises(DataError, match="delete it and run the shard stage again"):
        load_split(store, load_index(store, folder), "train")
    path.unlink()
    run_shard(store, config)
    assert len(load_split(store, load_index(store, folder), "train")) == 10


def test_an_unfinished_data_set_is_completed_from_its_own_source_only(store, root, config):
    """Catches a run whose images change under it after a crash."""
    folder = run_shard(store, config)
    (root / folder / "train-000000.tar").unlink()
    write_mnist(Path(config.data.source), num_train=11)
    before = files_below(root)
    with pytest.raises(RunConflictError, match=r"uses .*not complete.*source"):
        run_shard(store, config)
    assert files_below(root) == before


def test_a_run_keeps_its_data_set(store, config):
    """Catches a changed configuration that goes on with the old images without a word."""
    run_shard(store, config)
    with pytest.raises(RunConflictError, match="give the run another name"):
        run_shard(store, config.replaced({"data.images_per_shard": 5}))


def test_a_source_that_cannot_be_used_publishes_nothing(store, root, config):
    """Catches a pointer written before its data set."""
    (Path(config.data.source) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError):
        run_shard(store, config)
    assert files_below(root) == {}


def test_a_pointer_that_says_something_else_is_named(store, root, config):
    """Catches a KeyError from a file that somebody edited."""
    run_shard(store, config)
    path = root / layout.dataset_pointer_key(config.name)
    path.write_text(json.dumps({"dataset": "x"}))
    with pytest.raises(DataError, match=r"dataset\.json does not name a data set"):
        run_shard(store, config)


def test_downloads_go_to_the_user_s_cache(monkeypatch, tmp_path, store, config):
    """Catches a cache in the working folder, which is another one in every job."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def load_splits(_data, *, cache):
        asked.append(cache)
        raise DataError("enough")

    monkeypatch.setattr(stage, "load_splits", load_splits)
    with pytest.raises(DataError, match="enough"):
        run_shard(store, config.replaced({"data.source": "default"}))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match="enough"):
        run_shard(store, config)
    assert asked == [
        tmp_path / "cache" / "ddpm-pipeline",
        tmp_path / "home" / ".cache" / "ddpm-pipeline",
    ]
