"""What is typed after --set becomes values, and nothing is guessed."""

import argparse

import pytest

from ddpm_core.cli import add_run_arguments, parse_overrides
from ddpm_core.errors import ConfigError


def test_overrides_read_json_and_fall_back_to_text():
    """Catches: everything as text, or a path that has to be quoted twice."""
    items = ["train.num_steps=5", "data.source=../mnist", "model.channel_mults=[1,2]", "a.b=x=y"]
    assert parse_overrides(items) == {
        "train.num_steps": 5,
        "data.source": "../mnist",
        "model.channel_mults": [1, 2],
        "a.b": "x=y",
    }


@pytest.mark.parametrize("item", ["train.num_steps", "=5", ""])
def test_an_override_without_key_or_value_is_refused(item):
    """Catches: an override that silently does nothing."""
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_overrides([item])


def test_an_override_given_twice_is_refused():
    """Catches: the last one wins, silently."""
    with pytest.raises(ConfigError, match="twice"):
        parse_overrides(["a.b=1", "a.b=2"])


def test_on_bad_is_short_for_a_key():
    """Catches: a second way to say it that says something else."""
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    given = parser.parse_args(["--on-bad", "skip", "--set", "data.max_bad_share=0.1"])
    assert parse_overrides(given.overrides) == {"data.on_bad": "skip", "data.max_bad_share": 0.1}


@pytest.mark.parametrize(
    ("item", "part"),
    [('train={"seed": 1, "seed": 2}', "keep one"), ("train.loss=\udcff", "not UTF-8")],
    ids=["a key twice", "bytes"],
)
def test_an_override_that_means_two_things_or_none_is_refused(item, part):
    """Catches: the last of two keys wins, silently; and a message that is the whole configuration,
    because JSON has no such text.
    """
    with pytest.raises(ConfigError, match=part):
        parse_overrides([item])
