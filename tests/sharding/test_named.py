"""The shard stage of runs on named data sets, and the names that it gives."""

import shutil

import pytest

from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.preflight import preflight
from ddpm_core.recipes import mnist
from ddpm_core.runs import layout, results
from ddpm_core.runs.dataset_names import lineage
from ddpm_core.runs.run import configure
from ddpm_core.sharding import of_source
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from tests.sharding.small import files_below, write_mnist


@pytest.fixture
def root(tmp_path):
    return tmp_path / "a root"


@pytest.fixture
def store(root):
    return open_store(str(root))


@pytest.fixture
def config(tmp_path):
    source = write_mnist(tmp_path / "source")
    return mnist().replaced(
        {
            "data.source": str(source),
            "data.images_per_shard": 4,
            "data.set_name": "strokes",
            "data.licence": "CC BY-SA 3.0",
            "compute.num_workers": 1,
        }
    )


@pytest.fixture
def sharded(store, config):
    """The data set, under its name; its source is gone."""
    folder = run_shard(store, config)
    shutil.rmtree(config.data.source)
    return folder


def on(store, text="strokes", run="other", **changes):
    keys = {"data.sets": text, "compute.num_workers": 1, **changes}
    return configure("mnist", root=store.uri, run=run, changes=keys)[1]


def planned(store, config, *stages):
    return preflight(store, config, stages or ("shard",), command=str, here=True)


def test_a_run_on_a_named_set_needs_no_source(store, root, config, sharded, capfd, monkeypatch):
    """Catches: a stage that looks for the source; a data set, or an experiment, of its own."""
    monkeypatch.setattr(of_source, "load_splits", lambda *_, **__: pytest.fail("reads the source"))
    monkeypatch.setattr(of_source, "listed", lambda *_, **__: pytest.fail("lists the source"))
    before, other = files_below(root), on(store)
    found = planned(store, other)
    assert (found.source.num_train, found.source.num_test) == (10, 6)
    assert f"data set: {other.data.sets}" in found.lines(other)
    capfd.readouterr()
    assert run_shard(store, other) == sharded
    assert f"done already: {root}/{sharded} ({other.data.sets})" in capfd.readouterr().out
    assert results.dataset_of(store, other) == results.dataset_of(store, config)
    assert layout.experiment_fingerprint(other) == layout.experiment_fingerprint(config)
    made = {f"runs/other/{name}.json" for name in ("dataset", "run", "begun")}
    assert set(files_below(root)) - set(before) == made
    assert planned(store, other).missing == []


def test_what_a_named_set_lacks_is_said_and_nothing_is_begun(store, root, sharded):
    """Catches: a run that begins on a data set of which a shard is gone."""
    other = on(store)
    (root / sharded / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"strokes@.* is damaged.*data\.sets=null"):
        run_shard(store, other)
    assert not (root / "runs/other").exists()
    index = root / sharded / "index.json"
    index.write_bytes(index.read_bytes().replace(b'"test":6', b'"test":7'))
    with pytest.raises(DataError, match=r"shard stage of a run with the source"):
        planned(store, other, "shard", "train")


def test_a_labelled_network_is_held_against_the_classes_of_the_set(store, sharded):
    """Catches: a network of as many labels as the recipe has classes, on a set of others."""
    other = on(store, **{"model.conditioning": "label"})
    assert planned(store, other).source.classes == tuple(map(str, range(10)))
    assert run_shard(store, other) == sharded
    with pytest.raises(ConfigError, match=r"model\.num_classes"):
        on(store, **{"model.conditioning": "label", "model.num_classes": 7})


def test_the_name_keeps_source_and_licence_and_is_in_no_fingerprint(
    store, config, sharded, tmp_path
):
    """Catches: a note that makes another data set, or is lost."""
    (entry,) = lineage(store, "strokes")
    assert (entry.source, entry.licence) == (config.data.source, "CC BY-SA 3.0")
    source = str(write_mnist(tmp_path / "elsewhere"))
    changes = {"name": "b", "data.source": source, "data.licence": None, "data.set_name": None}
    assert run_shard(store, config.replaced(changes)) == sharded
    assert lineage(store, "strokes") == [entry]
    assert lineage(store, "mnist") == []


def test_a_name_of_other_images_is_refused_before_anything_is_made(store, root, config, tmp_path):
    """Catches: a data set that is made, and then has no name; a name that moves."""
    run_shard(store, config)
    write_mnist(tmp_path / "more", num_train=11)
    before = files_below(root)
    other = config.replaced({"name": "b", "data.source": str(tmp_path / "more")})
    with pytest.raises(RunConflictError, match=r"'strokes' is that of .*other images.*--name"):
        run_shard(store, other)
    assert files_below(root) == before
    with pytest.raises(RunConflictError, match=r"made otherwise"):
        planned(store, other.replaced({"data.images_per_shard": 5}))


def test_what_a_name_means_is_made_again_by_the_command_that_made_it(store, root, config):
    """Catches: a name that stands in the way of the repair of its own data set."""
    folder = run_shard(store, config)
    before = files_below(root)
    (root / folder / "index.json").write_bytes(b"{}")
    planned(store, config)
    assert run_shard(store, config) == folder
    assert files_below(root) == before


def test_a_plan_says_which_set_is_used_or_may_be(store, config):
    """Catches: a recipe that silently uses, or passes over, a data set that is there."""
    config = config.replaced({"data.set_name": None, "data.licence": None})
    assert planned(store, config).dataset is None
    run_shard(store, config)
    (entry,) = lineage(store, "mnist")
    other = config.replaced({"name": "b"})
    assert planned(store, other).dataset.startswith(f"{entry.pinned} is made alike")
    assert planned(store, other.replaced({"data.images_per_shard": 5})).dataset is None
    assert planned(store, config, "shard", "train").dataset == entry.pinned
