"""The classes of a data set: in words, and as many as the network has labels."""

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits, recipe
from ddpm_core.shards.classes import classes_text, require_classes

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
