"""Which run is played with."""

import os

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.play.newest import newest_run
from ddpm_core.runs import layout, results
from ddpm_core.runs.run import open_run
from tests.sampling.tiny import (  # noqa: F401 - fixtures
    _trained_root,
    commit_random_weights,
    one_thread,
    store,
    tiny_config,
    trained,
)


def test_the_run_that_was_trained_last_is_the_newest(trained):  # noqa: F811
    """Catches: the last by name, one that is not trained, and one that cannot be read."""
    where, config = trained
    open_run(where, config)
    other = config.replaced({"name": "a-later-one"})
    open_run(where, other)
    assert newest_run(where) == "tiny"
    commit_random_weights(where, other)
    for run, age_s in ((config, 100), (other, 50)):
        folder = results.final_checkpoint(where, run).folder
        path = where.local_path(f"{folder}/manifest.json")
        os.utime(path, (1_000_000 - age_s, 1_000_000 - age_s))
    where.write(layout.run_json_key("zzz"), b"{")
    assert newest_run(where) == "a-later-one"


def test_a_bucket_with_one_trained_run_is_played_with_and_of_several_one_must_be_said(
    trained,  # noqa: F811
    monkeypatch,
):
    """Catches: a refusal where there is no choice, and the first of several by chance."""
    where, config = trained
    open_run(where, config)
    monkeypatch.setattr(type(where), "local_path", lambda self, key: None)
    assert newest_run(where) == "tiny"
    other = config.replaced({"name": "a-later-one"})
    open_run(where, other)
    commit_random_weights(where, other)
    with pytest.raises(ConfigError, match=r"say which run .* e\.g\. a-later-one of the 2"):
        newest_run(where)


def test_nothing_trained_is_said(store):  # noqa: F811
    with pytest.raises(ConfigError, match="is trained yet: run the pipeline first"):
        newest_run(store)
