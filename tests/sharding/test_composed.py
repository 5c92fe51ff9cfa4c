"""The shard stage of runs on several data sets, and on a part of one."""

import hashlib

import pytest

from ddpm_core.config import identity
from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.preflight import preflight
from ddpm_core.recipes import mnist
from ddpm_core.reporting import gathered, report
from ddpm_core.runs import layout, results
from ddpm_core.runs.run import configure
from ddpm_core.sharding.stage import run_shard
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import load_index
from ddpm_core.shards.lineage import made_of
from ddpm_core.store.storage import open_store
from ddpm_core.tracking.opening import inputs_of
from tests.sharding.small import write_mnist


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "a root"))


@pytest.fixture
def source(tmp_path):
    return str(write_mnist(tmp_path / "source"))


def sharded(store, source, name, **changes):
    """A data set of that name."""
    keys = {
        "data.source": source,
        "data.set_name": name,
        "data.images_per_shard": 4,
        "compute.num_workers": 1,
        **changes,
    }
    config = mnist().replaced({"name": f"of-{name}", **keys})
    run_shard(store, config)
    return results.dataset_pointer(store, config.name)


@pytest.fixture
def strokes(store, source):
    return sharded(store, source, "strokes")


@pytest.fixture
def marks(store, tmp_path):
    other = write_mnist(tmp_path / "other", num_train=7, num_test=3)
    return sharded(store, str(other), "marks")


def on(store, sets, run="mixed", **changes):
    keys = {"data.sets": sets, "compute.num_workers": 1, **changes}
    return configure("mnist", root=store.uri, run=run, changes=keys)[1]


def index_of(store, run):
    pointer = results.dataset_pointer(store, run)
    return load_index(store, pointer.folder, pointer.fingerprint)


def test_a_run_on_two_sets_has_a_data_set_made_of_both(store, strokes, marks, capfd):
    """run.json pins both with their weights; the next start finds what is made."""
    config = on(store, "strokes:0.7,marks:0.3")
    short = [one.fingerprint[: layout.SHORT] for one in (strokes, marks)]
    assert config.data.sets == f"strokes@{short[0]}:0.7,marks@{short[1]}:0.3"
    (lines,) = [preflight(store, config, ("shard",), command=str, here=True).source.text]
    assert lines.startswith("17 images to train on, 9 held out, of strokes@")
    folder = run_shard(store, config)
    index = index_of(store, "mixed")
    assert [(one.fingerprint, one.weight) for one in made_of(index.manifest)] == [
        (strokes.fingerprint, 7),
        (marks.fingerprint, 3),
    ]
    assert results.dataset_of(store, config).folder == folder
    capfd.readouterr()
    assert run_shard(store, on(store, "strokes:0.7,marks:0.3")) == folder
    assert "done already" in capfd.readouterr().out


def test_a_union_is_shown_with_its_parts_and_what_was_left_out(store, strokes, marks):
    """Catches a page without the duplicates that are missing; and a run that is not found in MLflow
    by the name of one of its data sets."""
    config = on(store, "strokes,marks", **{"data.duplicates": "drop"})
    run_shard(store, config)
    rows = "".join(line for line in report._data(gathered.gather(store, config)))
    folders = [one.folder.removeprefix("datasets/") for one in (strokes, marks)]
    for text in (*folders, "7 equal to another"):
        assert text in rows
    inputs = [(name, index.body["fingerprint"]) for name, index in inputs_of(store, config)]
    (_, own), *parts = inputs
    assert own == results.dataset_pointer(store, "mixed").fingerprint
    assert parts == [("strokes", strokes.fingerprint), ("marks", marks.fingerprint)]


def test_the_experiment_counts_sets_and_weights_and_of_one_set_nothing_new(store, strokes, marks):
    """Catches: two mixtures as one experiment; and a single set that makes another of its runs."""
    of = {
        sets: identity.experiment(on(store, sets, run="other"))
        for sets in ("strokes", "strokes:0.7,marks:0.3", "strokes:0.5,marks:0.5", "strokes,marks")
    }
    same = identity.experiment(on(store, "strokes:7,marks:3", run="other"))
    ours = identity.experiment(mnist().replaced({"data.images_per_shard": 4}))
    assert of["strokes"] == ours
    assert len({repr(one) for one in of.values()}) == 4
    assert same == of["strokes:0.7,marks:0.3"]


def test_a_run_keeps_the_sets_that_it_has(store, strokes, marks):
    run_shard(store, on(store, "strokes:0.7,marks:0.3"))
    with pytest.raises(RunConflictError, match="'mixed' uses the data set mnist-"):
        on(store, "strokes:0.5,marks:0.5")
    with pytest.raises(RunConflictError, match="'mixed' uses the data set mnist-"):
        on(store, "strokes")


def test_sets_of_other_shapes_are_refused_before_anything_runs(store, source, strokes):
    sharded(store, source, "large", **{"data.height": 64, "model.attention_resolutions": [16]})
    with pytest.raises(ConfigError, match=r"strokes@\w+ of 1x32x32 uint8 images and large@\w+ of"):
        on(store, "strokes,large")


def test_a_network_of_other_classes_than_all_sets_have_is_refused_before_anything_runs(
    store, strokes, marks
):
    """Ten digits in both are ten classes; a part of two is two."""
    labelled = {"model.conditioning": "label"}
    config = on(store, "strokes,marks", **labelled)
    preflight(store, config, ("shard",), command=str, here=True)
    two = on(store, "strokes,marks", run="two", **labelled, **{"data.only_classes": ["0", 1]})
    preflight(store, two, ("shard",), command=str, here=True)
    assert two.num_classes == 2
    wrong = on(store, "strokes", run="none", **{"data.only_classes": ["ten"]})
    with pytest.raises(ConfigError, match=r"data\.only_classes has 'ten', which is no class"):
        preflight(store, wrong, ("shard",), command=str, here=True)


def test_a_part_of_a_source_is_made_beside_the_whole(store, source, strokes):
    """The whole is made once, whatever parts of it there are, and has its own fingerprint."""
    pointer = sharded(store, source, "zeros", **{"data.only_classes": [0, 4]})
    index = index_of(store, "of-zeros")
    assert [one.fingerprint for one in made_of(index.manifest)] == [strokes.fingerprint]
    assert index.label.names == ("0", "4")
    assert pointer.fingerprint != strokes.fingerprint
    again = on(store, "zeros", run="on-zeros")
    assert run_shard(store, again) == index.manifest.folder
    assert again.data.only_classes == (0, 4)


def test_a_list_is_pinned_by_its_digest(store, strokes, tmp_path):
    """A file of the same name with other keys in it does not take its place."""
    keys = tmp_path / "my keys.txt"
    keys.write_bytes(b"train-00000001\ntrain-00000007\ntest-00000000\n")
    pinned = {"data.only_keys": str(keys)}
    with pytest.raises(ConfigError, match="give the digest that sha256sum says"):
        on(store, "strokes", **pinned)
    pinned["data.only_keys_sha256"] = hashlib.sha256(keys.read_bytes()).hexdigest()
    config = on(store, "strokes", **pinned)
    keys.write_bytes(b"train-00000002\n")
    with pytest.raises(ConfigError, match="It was not loaded"):
        run_shard(store, config)
    keys.write_bytes(b"train-00000001\ntrain-00000007\ntest-00000000\n")
    run_shard(store, config)
    assert index_of(store, "mixed").num_images == {"train": 2, "test": 1}


def test_a_damaged_set_is_named_and_nothing_is_made_of_it(store, strokes, marks):
    config = on(store, "strokes,marks")
    store.delete(f"{marks.folder}/train-000000.tar")
    with pytest.raises(DataError, match=r"the data set marks@.* is damaged"):
        run_shard(store, config)
    assert results.dataset_pointer(store, "mixed") is None


def test_sets_that_were_made_otherwise_are_images_of_their_shape(store, strokes, tmp_path):
    """The section `data` of the run is neither set's, and the classes are those of both."""
    clothes = write_mnist(tmp_path / "clothes")
    sharded(store, str(clothes), "clothes", **{"data.name": "fashion_mnist"})
    labels = {"model.conditioning": "label", "model.num_classes": 20}
    config = on(store, "strokes:1,clothes:2", **labels)
    assert (config.data.name, config.data.grey, config.data.shape) == ("images", True, (1, 32, 32))
    run_shard(store, config)
    index = index_of(store, "mixed")
    assert index.label.names[9:11] == ("9", "T-shirt/top")
    run_json = store.uri_of(layout.run_json_key("mixed"))
    assert configure(run_json, root=None, run=None, changes={})[1] == config


def test_what_is_chosen_of_a_part_is_chosen_of_its_own_classes(store, source, strokes):
    """Catches: all of a part, which is no longer that part in the run; the numbers of the classes
    of the whole, looked for among those of the part; and verify, of a part beside the whole."""
    part = sharded(store, source, "part", **{"data.only_classes": [0, 4, 3]})
    everything = on(store, "part", run="all", **{"data.only_classes": []})
    run_shard(store, everything)
    assert results.dataset_of(store, everything).folder == part.folder
    assert everything == on(store, "part", run="all")
    run_shard(store, on(store, "part", run="each-once", **{"data.duplicates": "drop"}))
    assert index_of(store, "each-once").label.names == ("0", "3", "4")
    run_shard(store, on(store, "strokes:1,part:2", run="more-of-it"))
    assert problems_of(store, index_of(store, "more-of-it")) == []
