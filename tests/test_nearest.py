"""The command that makes a run again."""

import shlex

import pytest

from ddpm_core.cli import parse_overrides
from ddpm_core.recipes import RECIPES, recipe
from ddpm_core.recipes.nearest import command_of, nearest_recipe
from ddpm_core.runs import layout

CHANGED = {
    "digits-classes": {"train.num_steps": 300, "sample.labels": [3, "7"]},
    "images": {"data.source": "/data/my photos", "data.background": [0, 0, 255]},
    "digits": {"train.start_from": "1234"},
    "digits-flow": {"name": "mine", "compute.num_workers": 1},
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_run_is_made_again_by_its_recipe_and_what_differs(name):
    """Catches: a command that makes another run, one with every key of run.json, and a place or a
    list that a shell takes apart."""
    config = recipe(name).replaced({"name": "again", **CHANGED[name]})
    _, _, _, chosen, _, run, *rest = shlex.split(command_of(config))
    assert chosen == name
    again = recipe(chosen).replaced({"name": run, **parse_overrides(rest[1::2])})
    assert layout.experiment_fingerprint(again) == layout.experiment_fingerprint(config)
    assert again.data.source == config.data.source
    assert len(nearest_recipe(config)[1]) <= 3


def test_each_recipe_is_nearest_to_itself():
    for name in RECIPES:
        assert nearest_recipe(recipe(name)) == (name, {}), name
