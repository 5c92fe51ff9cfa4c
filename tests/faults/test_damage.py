"""Damaged bytes are named, never used, and mended by doing the work again."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import CheckpointError, StorageError
from ddpm_core.store import manifest, source
from ddpm_core.store.commit import retire
from ddpm_core.store.content import sha256_of
from ddpm_core.store.disk import LocalStore
from ddpm_core.store.manifest import DamagedError, load, quarantine
from tests.store.small_commit import EXPECTED, FOLDER, KEY, STATE, commit_small


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def _file(store: LocalStore, role: str) -> Path:
    loaded = load(store, FOLDER, EXPECTED)
    assert loaded is not None
    return store.local_path(f"{FOLDER}/{loaded.files[role].name}")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        lambda _: b"",
    ],
    ids=["one bit", "one byte less", "one byte more", "zeros", "empty"],
)
def test_a_damaged_file_is_never_used(store: LocalStore, damage: Callable[[bytes], bytes]):
    """Catches a check of the length only, or none."""
    committed = commit_small(store)
    path = _file(store, "state")
    bad = damage(STATE)
    path.write_bytes(bad)
    with pytest.raises(DamagedError) as caught:
        committed.read(store, "state")
    message = str(caught.value)
    assert str(path) in message
    assert sha256_of(STATE) in message, "what was expected"
    assert len(bad) > len(STATE) or sha256_of(bad) in message, "what was found"
    assert caught.value.exit_code == CheckpointError.exit_code


@pytest.mark.parametrize("block", [1, 7, 1024, 5000])
@pytest.mark.parametrize("how", ["whole", "flip", "cut", "longer", "empty", "gone"])
def test_a_long_file_is_verified_block_by_block(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, how: str, block: int
):
    """Catches a last block that is not digested, a file that goes on behind its end, and an error
    about what a damaged file says instead of about its damage.
    """
    monkeypatch.setattr(source, "BLOCK_BYTES", block)
    monkeypatch.setattr(manifest, "BLOCK_BYTES", block)
    committed = commit_small(store)
    path, seen = _file(store, "state"), []
    match how:
        case "flip":
            path.write_bytes(STATE[:-1] + bytes([STATE[-1] ^ 1]))
        case "cut":
            path.write_bytes(STATE[:-1])
        case "longer":
            path.write_bytes(STATE + b"\0")
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()

    def use(file) -> None:
        seen.append(file.read())

    def refuse(file) -> None:
        file.read(1)
        raise CheckpointError("it says nonsense")

    if how == "whole":
        committed.read_through(store, "state", use)
        assert seen == [STATE]
        committed.require_bytes(store)
        with pytest.raises(CheckpointError, match="it says nonsense"):
            committed.read_through(store, "state", refuse)
        return
    for look in (use, refuse):
        with pytest.raises(DamagedError, match="is missing" if how == "gone" else "is damaged"):
            committed.read_through(store, "state", look)
    with pytest.raises(DamagedError):
        committed.require_bytes(store)
    assert all(len(data) <= len(STATE) for data in seen)


def test_a_bit_of_a_long_file_flipped_on_the_way_is_read_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
):
    """Catches a checkpoint set aside because one transfer went wrong, and the first try's bytes."""
    committed, flips, taken = commit_small(store), [True, False], []
    real = LocalStore.read_part

    def read_part(self: LocalStore, key: str, start: int, num_bytes: int) -> bytes:
        data = real(self, key, start, num_bytes)
        return bytes([data[0] ^ 1]) + data[1:] if flips.pop(0) else data

    monkeypatch.setattr(LocalStore, "read_part", read_part)
    committed.read_through(store, "state", lambda file: taken.append(file.read()))
    assert taken[-1] == STATE
    assert len(taken) == 2


def test_a_missing_file_is_damage_not_absence(store: LocalStore):
    """Catches KeyMissingError, which a caller might take for 'not committed'."""
    committed = commit_small(store)
    _file(store, "state").unlink()
    with pytest.raises(DamagedError, match="is missing"):
        committed.read(store, "state")


def test_every_flipped_byte_of_a_manifest_is_noticed(store: LocalStore):
    """Catches a key, a digit or a space that the digest does not cover."""
    commit_small(store)
    whole = store.read(KEY)
    path = store.local_path(KEY)
    for offset in range(len(whole)):
        flipped = whole[offset] ^ (1 << offset % 8)
        path.write_bytes(whole[:offset] + bytes([flipped]) + whole[offset + 1 :])
        with pytest.raises(DamagedError, match=r"manifest\.json is damaged: expected .*found"):
            load(store, FOLDER, EXPECTED)
    for bad in (whole[:-1], whole + b" ", whole + b"}", b"", bytes(len(whole))):
        path.write_bytes(bad)
        with pytest.raises(DamagedError):
            load(store, FOLDER, EXPECTED)


def _signed(values: dict) -> bytes:
    return canonical_json({**values, "digest": sha256_of(canonical_json(values))})


RECORD = {"name": "a", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b"[]",
        b'{"digest":1}',
        b"[" * 100_000,
        b'{"digest":"a","digest":"b"}',
        b'{"a":NaN,"digest":"b"}',
        b'{"a":1e999,"digest":"b"}',
        b'[["digest","a"]]',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"\xff",
        _signed({"format": 1, "files": {}}),
        _signed({"format": 1, "files": {}, "body": []}),
        _signed({"format": 1, "files": [], "body": {}}),
        _signed({"format": 1, "files": {}, "body": {}, "more": 1}),
        *(
            _signed({"format": 1, "files": {"state": {**RECORD, **change}}, "body": {}})
            for change in (
                {"name": "../../../etc/passwd"},
                {"name": "/etc/passwd"},
                {"name": ".hidden"},
                {"name": ""},
                {"name": 1},
                {"size": -1},
                {"size": True},
                {"size": 1.0},
                {"sha256": "0" * 63},
                {"sha256": "G" * 64},
                {"more": 1},
            )
        ),
    ],
    ids=str,
)
def test_a_manifest_of_another_shape_is_refused(store: LocalStore, data: bytes):
    """Catches a crafted manifest that reads files elsewhere, or ends in a traceback."""
    store.write(KEY, data)
    with pytest.raises(DamagedError):
        load(store, FOLDER, EXPECTED)


def test_an_enormous_manifest_is_not_read(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    """Catches memory filled by a file that merely has the right name."""
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 1000)
    store.write(KEY, b" " * 100_000)
    with pytest.raises(DamagedError, match="at most 1000 bytes"):
        load(store, FOLDER, EXPECTED)


def test_a_manifest_that_could_not_be_read_is_not_written(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
):
    """Catches a commit of what load refuses: the work would be lost."""
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(DamagedError, match="at most 100 bytes"):
        commit_small(store)
    assert not store.exists(KEY)


def test_a_manifest_from_the_future_says_so(store: LocalStore):
    """Catches 'damaged' for what a newer version wrote."""
    store.write(KEY, _signed({"format": 2, "whatever": 1}))
    with pytest.raises(CheckpointError, match="format 2; this program reads 1") as caught:
        load(store, FOLDER, EXPECTED)
    assert not isinstance(caught.value, DamagedError)
    with pytest.raises(CheckpointError, match="format 2"):
        commit_small(store)
    assert b'"format":2' in store.read(KEY), "left as it is"


def test_an_outage_is_neither_absence_nor_damage(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
):
    """Catches a disk that does not answer taken for 'nothing was committed'."""
    commit_small(store)

    def fail(*_args: object, **_kwargs: object) -> bytes:
        raise StorageError("down")

    monkeypatch.setattr(LocalStore, "read", fail)
    with pytest.raises(StorageError, match="down"):
        load(store, FOLDER, EXPECTED)
    with pytest.raises(StorageError, match="down"):
        retire(store, FOLDER)


def test_a_bit_flipped_on_the_way_is_read_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    """Catches a run that ends because one transfer went wrong."""
    commit_small(store)
    real, flips = LocalStore.read, [True, False, True, False]

    def read(
        self: LocalStore, key: str, *, at_most: int | None = None, checked: bool = True
    ) -> bytes:
        data = real(self, key, at_most=at_most, checked=checked)
        return bytes([data[0] ^ 1]) + data[1:] if flips.pop(0) else data

    monkeypatch.setattr(LocalStore, "read", read)
    loaded = load(store, FOLDER, EXPECTED)
    assert loaded is not None
    assert loaded.read(store, "state") == STATE
    assert flips == []


# -- quarantine --------------------------------------------------------------------------------


def test_a_quarantined_commit_is_passed_over_loudly(
    store: LocalStore, caplog: pytest.LogCaptureFixture
):
    """Catches a damaged newest checkpoint that is taken again and again, or left in silence."""
    commit_small(store)
    with caplog.at_level(logging.WARNING):
        quarantine(store, FOLDER, "state is damaged: expected x, found y")
        assert load(store, FOLDER, EXPECTED) is None
    assert "expected x, found y" in caplog.text
    assert "passed over" in caplog.text
    recorded = json.loads(store.read(f"{FOLDER}/quarantined.json"))
    assert recorded == {"what": "state is damaged: expected x, found y"}


@pytest.mark.parametrize("state", [STATE, b"rounded in another way"])
def test_training_again_past_a_quarantined_step_mends_it(store: LocalStore, state: bytes):
    """Catches a run that can never finish after one damaged checkpoint."""
    commit_small(store)
    _file(store, "state").write_bytes(b"spoilt")
    quarantine(store, FOLDER, "spoilt")
    commit_small(store, state)
    loaded = load(store, FOLDER, EXPECTED)
    assert loaded is not None
    assert loaded.read(store, "state") == state


def test_committing_over_a_damaged_manifest_mends_it(store: LocalStore):
    """Catches a damaged manifest that conflicts with the right one for ever."""
    committed = commit_small(store)
    store.write(KEY, store.read(KEY)[:-1])
    assert commit_small(store) == committed == load(store, FOLDER, EXPECTED)
