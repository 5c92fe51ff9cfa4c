"""Committing, loading and retiring; for damaged bytes see faults/test_damage.py."""

import dataclasses
import json
from pathlib import Path

import pytest

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import RunConflictError
from ddpm_core.store.commit import commit, content_name, retire, write_file
from ddpm_core.store.content import sha256_of
from ddpm_core.store.disk import LocalStore
from ddpm_core.store.manifest import DamagedError, FileRecord, is_retired, load, quarantine
from ddpm_core.store.store import Store
from tests.store.small_commit import EXPECTED, FOLDER, KEY, STATE, commit_small

pytest_plugins = ["tests.s3_fixtures"]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Give each test a folder, and a prefix of a real S3 server: the protocol is the same."""
    if request.param == "local":
        return LocalStore(tmp_path)
    return request.getfixturevalue("real_s3_store")


def test_what_is_committed_is_loaded_and_verified(store: Store):
    """Catches a manifest that does not say all that was committed."""
    assert load(store, FOLDER, EXPECTED) is None
    committed = commit_small(store)
    loaded = load(store, FOLDER, EXPECTED)
    assert loaded == committed
    assert loaded is not None
    assert loaded.folder == FOLDER
    assert loaded.body == {"step": 1000, "experiment": "abc"}
    assert loaded.read(store, "state") == STATE
    assert loaded.read(store, "history") == b""
    with pytest.raises(DamagedError, match=r"no 'ema'; it has .*state"):
        loaded.read(store, "ema")


def test_a_manifest_is_a_function_of_what_it_commits(store: Store, tmp_path: Path):
    """Catches a time, a host, or an order of roles in it: twins would conflict."""
    commit_small(store)
    first = store.read(KEY)
    other = LocalStore(tmp_path / "other")
    commit_small(other)
    assert other.read(KEY) == first
    values = json.loads(first)
    assert set(values) == {"body", "digest", "files", "format"}
    assert values["format"] == 1
    digest = values.pop("digest")
    assert digest == sha256_of(canonical_json(values)), "the SHA-256 of itself without this key"
    assert values["files"]["state"] == {
        "name": f"state-{sha256_of(STATE)[:16]}.safetensors",
        "size": len(STATE),
        "sha256": sha256_of(STATE),
    }


def test_files_are_named_by_their_content():
    """Catches two writers of other bytes overwriting each other."""
    assert content_name("state", sha256_of(b""), ".bin") == "state-e3b0c44298fc1c14.bin"
    assert content_name("state", "0" * 64, ".bin") != content_name("state", "1" * 64, ".bin")


def test_committing_again_is_fine_and_other_content_conflicts(store: Store):
    """Catches a late writer that replaces what others have read."""
    assert commit_small(store) == commit_small(store)
    with pytest.raises(RunConflictError, match=r"manifest\.json holds other bytes"):
        commit_small(store, b"other")
    loaded = load(store, FOLDER, EXPECTED)
    assert loaded is not None
    assert loaded.read(store, "state") == STATE


def test_manifests_of_other_names_stand_beside_each_other(store: Store):
    """Catches a name that is ignored: units of samples would conflict."""
    for name, state in (("index.json", b"1"), ("000007.json", b"2")):
        commit_small(store, state, name=name)
    assert load(store, FOLDER, EXPECTED) is None
    for name, state in (("index.json", b"1"), ("000007.json", b"2")):
        loaded = load(store, FOLDER, EXPECTED, name=name)
        assert loaded is not None
        assert loaded.read(store, "state") == state
    quarantine(store, FOLDER, "spoilt", name="000007.json")
    assert load(store, FOLDER, EXPECTED, name="000007.json") is None
    assert load(store, FOLDER, EXPECTED, name="index.json") is not None


# -- retention ---------------------------------------------------------------------------------


def test_retiring_deletes_the_files_and_keeps_the_manifest(store: Store):
    """Catches a deleted manifest, which a late writer could commit again without its files."""
    commit_small(store)
    with pytest.raises(RunConflictError):
        commit_small(store, b"of an attempt that lost")
    retire(store, FOLDER)
    assert store.names(FOLDER) == ["manifest.json", "retired"]
    assert is_retired(store, FOLDER)
    assert load(store, FOLDER, EXPECTED) is None
    commit_small(store)
    assert load(store, FOLDER, EXPECTED) is None, "a late writer does not bring it back"
    retire(store, FOLDER)
    assert store.names(FOLDER) == ["manifest.json", "retired"]


def test_retiring_deletes_files_of_any_name(store: Store):
    """Catches files that stay for ever because their name looks like nobody's."""
    store.write(f"{FOLDER}/plain", b"1")
    commit(store, FOLDER, {"plain": FileRecord("plain", 1, sha256_of(b"1"))}, {})
    store.write(f"{FOLDER}/notes.txt", b"not ours")
    retire(store, FOLDER)
    assert store.names(FOLDER) == ["manifest.json", "notes.txt", "retired"]


def test_retiring_what_was_never_committed_does_nothing(store: Store):
    """Catches a marker that would hide the commit to come."""
    write_file(store, FOLDER, "state", ".safetensors", STATE)
    retire(store, FOLDER)
    assert not is_retired(store, FOLDER)
    commit_small(store)
    assert load(store, FOLDER, EXPECTED) is not None


def test_a_damaged_folder_can_be_retired(store: Store, caplog: pytest.LogCaptureFixture):
    """Catches a retention that one bad old checkpoint stops for ever."""
    commit_small(store)
    store.write(KEY, b"{")
    retire(store, FOLDER)
    assert store.names(FOLDER) == ["manifest.json", "retired"]
    assert "damaged" in caplog.text


def test_records_are_frozen(store: Store):
    """Catches a manifest that is changed after it was verified."""
    committed = commit_small(store)
    with pytest.raises(dataclasses.FrozenInstanceError):
        committed.folder = "elsewhere"  # type: ignore[misc]
