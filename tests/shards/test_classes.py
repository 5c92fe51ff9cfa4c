"""The classes of a data set: in words, and as many as the network has labels."""

import pytest

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.recipes import digits, recipe
from ddpm_core.runs import layout
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.run import open_run
from ddpm_core.shards import classes
from ddpm_core.shards.classes import (
    Classes,
    classes_text,
    known_classes,
    labelled_classes,
    require_classes,
)
from ddpm_core.store.storage import open_store

THREE = recipe("images").replaced({"model.conditioning": "label", "model.num_classes": 3})


def test_another_number_of_classes_is_refused_with_what_to_set():
    """Catches a network whose last rows are never trained, or that lacks a row."""
    require_classes(THREE, ["cat", "dog", "fox"])
    require_classes(recipe("images"), ["all"])
    require_classes(digits(), ["a", "b"])
    with pytest.raises(ConfigError, match=r"2 classes \(cat, dog\); set model.num_classes=2"):
        require_classes(THREE, ["cat", "dog"])
    with pytest.raises(ConfigError, match="all images are of one class, 'all'"):
        require_classes(THREE, ["all"])


def test_classes_are_said_with_their_labels_and_counts():
    """Catches a label that nobody can give to sample.labels, and a line of a thousand names."""
    assert classes_text(["cat", "dog"], [10, 20]) == "0 cat (10), 1 dog (20)"
    assert classes_text(["0", "1"]) == "0, 1"
    many = classes_text([f"n{number:04d}" for number in range(1000)])
    assert many.endswith("19 n0019, ... (1000 in all)")


def test_labels_mean_what_they_meant_in_the_training(monkeypatch, tmp_path):
    """Catches borrowed weights whose labels are named by another data set; and weights of other
    labels than the data set has, where no training looks.
    """
    store, pets = open_store(str(tmp_path)), Classes(("cat", "dog", "fox"), (5, 5, 5))
    found = {"theirs": pets}
    monkeypatch.setattr(classes, "known_classes", lambda _store, config: found.get(config.name))
    open_run(store, THREE.replaced({"name": "theirs"}))
    borrowed = THREE.replaced({"name": "ours", "sample.model": "theirs"})
    assert labelled_classes(store, borrowed) == pets
    found["ours"] = Classes(("cat", "dog", "fox"), (1, 2, 3))
    assert labelled_classes(store, borrowed) == pets
    assert labelled_classes(store, THREE.replaced({"name": "ours"})) == found["ours"]
    found["ours"] = Classes(("ant", "cat", "dog"), (1, 2, 3))
    with pytest.raises(ConfigError, match=r"0 ant, 1 cat, 2 dog here and 0 cat, 1 dog, 2 fox"):
        labelled_classes(store, borrowed)
    found["ours"] = Classes(("cat", "dog"), (1, 2))
    for config in (borrowed, THREE.replaced({"name": "ours"})):
        with pytest.raises(ConfigError, match=r"set model\.num_classes=2"):
            labelled_classes(store, config)
    assert labelled_classes(store, recipe("images").replaced({"name": "ours"})) is None


def test_an_index_that_cannot_be_read_is_not_one_that_is_not_made(tmp_path):
    """Catches samples of one set with names and without, as the index could be read or not."""
    store = open_store(str(tmp_path))
    assert known_classes(store, THREE) is None
    pointer = DatasetPointer(layout.dataset_folder("images", "d" * 64), "d" * 64)
    store.create(layout.dataset_pointer_key(THREE.name), pointer.to_json())
    with pytest.raises(DataError, match="there is no data set at"):
        known_classes(store, THREE)
