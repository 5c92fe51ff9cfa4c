import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.loading.loader import load_split
from ddpm_core.progress import parse
from ddpm_core.recipes import mnist, recipe
from ddpm_core.runs import layout, results
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.stages import STAGES
from ddpm_core.sharding import of_source
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards.index import load_index
from ddpm_core.store.commit import commit
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import open_store
from tests.sharding.small import files_below, write_mnist


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
        monkeypatch.setattr(of_source, "load_splits", fail)

    return forbid


def test_run_shard_makes_the_data_set_and_points_the_run_to_it(store, config, capfd):
    """Catches a pointer to nothing, and an end that a follower never sees."""
    folder = run_shard(store, config)
    index = load_index(store, folder)
    assert results.dataset_pointer(store, config.name) == DatasetPointer(folder, index.fingerprint)
    assert folder == layout.dataset_folder("mnist", index.fingerprint)
    assert results.dataset_of(store, config) == index.manifest
    assert len(load_split(store, index, "train")) == 10
    lines = [parse(line, STAGES) for line in capfd.readouterr().out.splitlines()]
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
    last = parse(capfd.readouterr().out.splitlines()[-1], STAGES)
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
    made = {f"runs/other/{name}.json" for name in ("dataset", "run", "begun")}
    assert set(after) - set(before) == made


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


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])


def test_a_shard_that_its_reader_found_damaged_is_made_again(store, root, config):
    """Catches a dead end: lengths are right, the stage is done already, and every reader fails."""
    folder = run_shard(store, config)
    before = files_below(root)
    flip(root / folder / "train-000000.tar")
    with pytest.raises(DataError, match=r"is damaged.*run the stage that made it again"):
        load_split(store, load_index(store, folder), "train")
    assert results.dataset_of(store, config) is None
    assert run_shard(store, config) == folder
    assert files_below(root) == before


def test_what_the_loader_advises_for_a_shard_that_was_restored_works(store, root, config):
    """Catches a remedy in an error message that nobody ever tried."""
    folder = run_shard(store, config)
    path = root / folder / "train-000000.tar"
    good = path.read_bytes()
    flip(path)
    with pytest.raises(DataError, match=r"restore the file, also delete index\.quarantined\.json"):
        load_split(store, load_index(store, folder), "train")
    path.write_bytes(good)
    (root / folder / "index.quarantined.json").unlink()
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


def train_on(store, config, dataset):
    experiment = layout.experiment_fingerprint(config)
    body = {"step": 7, "experiment": experiment, "dataset": dataset}
    commit(store, layout.checkpoint_folder(config.name, 7), {}, body)


def test_a_trained_run_keeps_its_data_set(store, config):
    """Catches a run with checkpoints that is given other images."""
    folder = run_shard(store, config)
    pointer = results.dataset_pointer(store, config.name)
    train_on(store, config, pointer.fingerprint)
    with pytest.raises(RunConflictError, match="exists with another configuration"):
        run_shard(store, config.replaced({"data.images_per_shard": 5}))
    write_mnist(Path(config.data.source), num_train=11)
    (store.local_path(folder) / "train-000000.tar").unlink()
    with pytest.raises(RunConflictError, match=r"trained on the data set .* are others"):
        run_shard(store, config)
    write_mnist(Path(config.data.source))
    assert results.dataset_pointer(store, config.name) == pointer
    assert run_shard(store, config) == folder


def test_a_pointer_to_another_whole_data_set_is_made_anew(store, config, caplog):
    """Catches "done already" over the data set of another run, which was copied here."""
    folder = run_shard(store, config)
    other = config.replaced({"name": "other", "data.images_per_shard": 5})
    run_shard(store, other)
    theirs = store.read(layout.dataset_pointer_key("other"))
    store.write(layout.dataset_pointer_key(config.name), theirs)
    with pytest.raises(DamagedError, match=r"data\.images_per_shard is 5, expected 4"):
        results.dataset_of(store, config)
    assert run_shard(store, config) == folder
    assert results.dataset_of(store, config).folder == folder
    assert "data.images_per_shard is 5, expected 4" in caplog.text


def test_a_pointer_to_images_that_the_run_was_not_trained_on_is_made_anew(store, config, caplog):
    """Catches a data set of the same settings and other images, copied from another run."""
    folder = run_shard(store, config)
    pointer = results.dataset_pointer(store, config.name)
    train_on(store, config, pointer.fingerprint)
    source = write_mnist(Path(config.data.source).parent / "more", num_train=11)
    run_shard(store, config.replaced({"name": "other", "data.source": str(source)}))
    theirs = store.read(layout.dataset_pointer_key("other"))
    store.write(layout.dataset_pointer_key(config.name), theirs)
    assert run_shard(store, config) == folder
    assert results.dataset_pointer(store, config.name) == pointer
    assert f"checkpoints were trained on {pointer.fingerprint}" in caplog.text


def test_a_data_set_under_another_s_name_is_set_aside(store, root, config):
    """Catches a folder that was copied over another: it is whole, and other images."""
    folder = run_shard(store, config)
    before = files_below(root / folder)
    other = config.replaced({"name": "other", "data.images_per_shard": 5})
    theirs = run_shard(store, other)
    shutil.rmtree(root / folder)
    shutil.copytree(root / theirs, root / folder)
    with pytest.raises(DamagedError, match=r"something else's: fingerprint is"):
        results.dataset_of(store, config)
    with pytest.raises(DataError, match=r"index of another data set"):
        load_index(store, folder)
    assert run_shard(store, config) == folder
    assert before.items() <= files_below(root / folder).items()
    assert len(load_split(store, load_index(store, folder), "train")) == 10


def test_the_run_stands_from_its_data_set_on(store, root, config):
    """Catches a name that is taken by an attempt that was refused, killed, or is still at work."""
    seen = []

    class Watched(type(store)):
        def create(self, key, data):
            seen.append((key, sorted(path.name for path in (root / "runs").rglob("*.json"))))
            return super().create(key, data)

    with pytest.raises(DataError):
        run_shard(store, config.replaced({"data.source": "/nowhere"}))
    assert not (root / "runs").exists()
    store.__class__ = Watched
    run_shard(store, config.replaced({"train.seed": 5}))
    keys = [key for key, _ in seen]
    assert keys.index("runs/mnist/run.json") < keys.index("runs/mnist/dataset.json")
    assert not dict(seen)["runs/mnist/run.json"]
    assert json.loads(store.read("runs/mnist/run.json"))["train"]["seed"] == 5


def test_a_source_that_cannot_be_used_publishes_nothing(store, root, config):
    """Catches a pointer written before its data set."""
    (Path(config.data.source) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError):
        run_shard(store, config)
    assert files_below(root) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "x"},
        {"dataset": "../../etc-" + "0" * 16},
        {"fingerprint": "0" * 64},
        {"fingerprint": 7},
        {"more": 1},
    ],
)
def test_a_pointer_that_says_something_else_is_named_and_made_anew(change, store, root, config):
    """Catches a KeyError from a file that somebody edited, and a run that it ends for ever."""
    folder = run_shard(store, config)
    path = root / layout.dataset_pointer_key(config.name)
    good = path.read_bytes()
    path.write_text(json.dumps(json.loads(good) | change))
    with pytest.raises(DataError, match=r"dataset\.json does not name a data set.* shard "):
        results.dataset_of(store, config)
    assert run_shard(store, config) == folder
    assert path.read_bytes() == good


def test_downloads_go_to_the_user_s_cache(monkeypatch, tmp_path, store, config):
    """Catches a cache in the working folder, which is another one in every job."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def load_splits(_data, *, cache):
        asked.append(cache)
        raise DataError("enough")

    monkeypatch.setattr(of_source, "load_splits", load_splits)
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


def test_a_wrong_pointer_sets_no_healthy_data_set_aside(store, root, config):
    """Catches: a digit changed in one run's dataset.json, and the data set is gone for all runs."""
    folder = run_shard(store, config)
    run_shard(store, config.replaced({"name": "other"}))
    path = root / layout.dataset_pointer_key(config.name)
    good = path.read_bytes()
    last = b"0" if not good.endswith(b'0"}') else b"1"
    path.write_bytes(good[:-3] + last + b'"}')
    with pytest.raises(DamagedError, match="fingerprint is"):
        results.dataset_of(store, config)
    assert run_shard(store, config) == folder
    assert path.read_bytes() == good
    assert not (root / folder / "index.quarantined.json").exists()
    assert results.dataset_of(store, config.replaced({"name": "other"})) is not None


def test_a_pointer_that_another_stage_made_meanwhile_stays(store, root, config, monkeypatch):
    """Catches: of two stages of one run, with two sources, the later one takes the run."""
    made = of_source._made
    theirs = DatasetPointer(layout.dataset_folder("mnist", "e" * 64), "e" * 64)

    def meanwhile(*arguments):
        found = made(*arguments)
        store.create(layout.dataset_pointer_key(config.name), theirs.to_json())
        return found

    monkeypatch.setattr(of_source, "_made", meanwhile)
    with pytest.raises(RunConflictError, match="holds other bytes"):
        run_shard(store, config)
    assert results.dataset_pointer(store, config.name) == theirs


def test_images_of_other_classes_than_the_network_has_are_no_data_set_of_the_run(
    store, root, monkeypatch
):
    """Catches a run.json that stands for a network which its data set refuses."""
    source = SimpleNamespace(classes=("cat", "dog"))
    monkeypatch.setattr(of_source, "_source", lambda *_: contextlib.nullcontext(source))
    labelled = recipe("images").replaced({"model.conditioning": "label", "model.num_classes": 3})
    with pytest.raises(ConfigError, match=r"set model\.num_classes=2"):
        run_shard(store, labelled)
    assert not root.exists() or not files_below(root)
