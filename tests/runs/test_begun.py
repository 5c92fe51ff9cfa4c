"""A run.json that was changed since it was written is taken as it is, and spoken of once."""

import json

import pytest

from ddpm_core.recipes import digits
from ddpm_core.runs import begun, layout
from ddpm_core.runs.run import begin_stage, open_run
from ddpm_core.store.storage import open_store


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path / "root"))
    open_run(store, digits())
    return store


def change(store, **values):
    """Change keys of the section `sample` in the file."""
    key = layout.run_json_key("digits")
    now = json.loads(store.read(key))
    now["sample"] |= values
    store.write(key, json.dumps(now, indent=2).encode())


def said(caplog) -> str:
    text = caplog.text
    caplog.clear()
    return text


def test_a_file_as_it_was_written_is_not_spoken_of(store, caplog):
    """Catches: a warning at every stage."""
    begin_stage(store, digits())
    assert said(caplog) == ""


def test_each_change_is_said_once_with_key_and_values(store, caplog):
    """Catches: silence, and a warning that is repeated by every stage."""
    change(store, seed=1, num_images=512)
    assert begun.changes_of(store, "digits")  # a dry run: says it and keeps nothing
    begin_stage(store, digits())
    text = said(caplog)
    assert "no longer the file that this run was begun with" in text
    assert "sample.seed: 0 -> 1" in text
    assert "sample.num_images: 256 -> 512" in text
    begin_stage(store, digits())
    assert said(caplog) == ""
    change(store, seed=2)
    begin_stage(store, digits())
    assert "sample.seed: 0 -> 2" in said(caplog)
    change(store, seed=0, num_images=256)
    begin_stage(store, digits())
    assert said(caplog) == ""


def test_another_spelling_of_the_same_is_no_change(store, caplog):
    """Catches: a digest of the bytes alone, which a formatter changes."""
    key = layout.run_json_key("digits")
    store.write(key, json.dumps(json.loads(store.read(key))).encode())
    begin_stage(store, digits())
    assert said(caplog) == ""


@pytest.mark.parametrize("content", [None, b"{", b'{"keys": 1}', b"\xff"])
def test_a_run_of_an_earlier_version_is_taken_as_it_is_found(content, store, caplog):
    """Catches: a run of the version before, or a damaged note, that cannot go on."""
    key = "runs/digits/begun.json"
    store.delete(key)
    if content is not None:
        store.write(key, content)
    change(store, seed=1)
    begin_stage(store, digits())
    assert said(caplog) == ""
    change(store, seed=2)
    begin_stage(store, digits())
    assert "sample.seed: 1 -> 2" in said(caplog)
