"""The table of stages against what it names."""

import inspect

import pytest

from ddpm_core.config import RunConfig, identity
from ddpm_core.recipes import digits
from ddpm_core.runs import layout
from ddpm_core.runs.stages import STAGES, stages_of
from ddpm_core.store.storage import open_store
from tests.flows.fakes import recorded


@pytest.mark.parametrize("name", STAGES)
def test_every_entry_is_a_function_of_store_and_configuration(name):
    """Catches: a stage that is found not to exist on the cluster, when its turn comes."""
    function = STAGES[name].load()
    assert list(inspect.signature(function).parameters) == ["store", "config"]
    assert f"{function.__module__}:{function.__name__}" == STAGES[name].entry


@pytest.mark.parametrize("name", STAGES)
def test_every_result_lies_in_its_place(name, tmp_path):
    """Catches: a place that verify and the deletion of results look for in vain."""
    store, config = open_store(str(tmp_path)), digits()
    before = list(STAGES)[: list(STAGES).index(name)]
    recorded(store, config, *before)
    folder = layout.run_folder(config.name)
    assert STAGES[name].place not in store.names(folder)
    assert STAGES[name].result(store, config) is None
    recorded(store, config, name)
    found = STAGES[name].result(store, config)
    assert STAGES[name].place in store.names(folder)
    if STAGES[name].sections:
        assert found.folder.rpartition("/")[0] == f"{folder}/{STAGES[name].place}"


def test_names_in_the_table_are_of_the_table_and_of_the_configuration():
    """Catches: a need, a section or a picture that is misspelt and never looked up."""
    earlier, counted = [], set(identity.experiment(digits()))
    for name, stage in STAGES.items():
        assert stage.name == name
        assert set(stage.needs) <= set(earlier), "a stage needs stages before it"
        assert set(stage.sections) <= set(RunConfig.model_fields) - counted
        assert stage.cover is None or stage.cover in stage.pictures
        assert bool(stage.numbers.title) == bool(stage.numbers.columns)
        earlier.append(name)
    assert len({stage.place for stage in STAGES.values()}) == len(STAGES)


def test_pipelines_are_what_they_were():
    """Catches: a stage that is moved to another place, or left out, for want of a word."""
    assert stages_of("train-ddpm") == ("shard", "train", "sample", "evaluate")
    assert stages_of("paper") == (*stages_of("train-ddpm"), "study", "ablations")
