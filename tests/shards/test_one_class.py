"""Where no distance can be measured it is said before the training."""

from dataclasses import replace

import pytest

from ddpm_core.recipes import digits
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards.index import load_index
from ddpm_core.shards.members import ClassMember
from ddpm_core.shards.one_class import distance_warning, why_no_distance
from ddpm_core.store.storage import open_store

FOREIGN = {"evaluate.features": "net.pt", "evaluate.features_sha256": "0" * 64}
COLLECTION = {"data.name": "images", "data.source": "photos"}


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def index(store):
    return load_index(store, run_shard(store, digits()))


@pytest.mark.parametrize(
    ("counts", "has_distance"),
    [((40,), False), ((0, 40, 0), False), ((39, 1), True), ((4,) * 10, True)],
)
def test_features_are_learned_from_several_classes(index, counts, has_distance):
    """Catches: random weights called a trained network, where one class has all images; a refusal
    for a class that has few."""
    classes = tuple(str(number) for number in range(len(counts)))
    other = replace(
        index, others={"label": ClassMember(classes, {"train": counts, "test": (1, 1)})}
    )
    reason = why_no_distance(digits(), other)
    assert (reason is None) == has_distance
    assert why_no_distance(digits().replaced(FOREIGN), other) is None
    if reason is not None:
        assert "one class" in reason
        assert "give evaluate.features=inception" in reason
        assert "\n" not in reason


def test_before_there_is_a_data_set_the_configuration_may_know():
    """Catches: a warning that comes with the data set only, or one for folders that may be
    classes."""
    photos = digits().replaced(COLLECTION)
    assert why_no_distance(photos, None) is None
    assert why_no_distance(digits(), None) is None
    flat = photos.replaced({"data.class_folders": False})
    assert "one class" in why_no_distance(flat, None)
    assert why_no_distance(flat.replaced(FOREIGN), None) is None


def test_the_warning_is_of_the_run_s_own_data_set(store):
    """Catches: a warning by the configuration, where the data set says otherwise."""
    flat = digits().replaced({**COLLECTION, "data.class_folders": False})
    assert distance_warning(store, flat).startswith(
        "no Frechet distance will be measured, bits/dim"
    )
    run_shard(store, digits())
    assert distance_warning(store, digits()) is None
    # Its ten classes are on record, whatever the configuration would have made.
    assert distance_warning(store, flat) is None
