"""Deterministic simulation of the commit protocol: two writers, a sweeper and a reader."""

import json
from collections.abc import Callable

import pytest

from ddpm_core.errors import RunConflictError, StorageError
from ddpm_core.store import commit as writing
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, Manifest, load
from ddpm_core.store.store import KeyMissingError, Store
from tests.faults.simulation import SimulatedStore, Turns

NUM_STEPS, NUM_KEPT = 5, 2
NUM_SCHEDULES = 2000


def test_no_schedule_breaks_the_protocol():
    """Catches any order of calls that lets a kill, a lost reply or a late writer lose data."""
    for seed in range(NUM_SCHEDULES):
        _play(seed)


def _overwriting(monkeypatch: pytest.MonkeyPatch) -> bool:
    del monkeypatch
    return True


def _named_without_content(monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(writing, "content_name", lambda stem, _, suffix: stem + suffix)
    return False


def _retiring_files_first(monkeypatch: pytest.MonkeyPatch) -> bool:
    def files_first(store: Store, folder: str) -> None:
        for name in _names_in_manifest(store, folder):
            store.delete(f"{folder}/{name}")
        store.create(f"{folder}/retired", b"")

    monkeypatch.setattr(writing, "retire", files_first)
    return False


def _deleting_the_manifest(monkeypatch: pytest.MonkeyPatch) -> bool:
    def manifest_first(store: Store, folder: str) -> None:
        names = _names_in_manifest(store, folder)
        store.delete(f"{folder}/manifest.json")
        for name in names:
            store.delete(f"{folder}/{name}")

    monkeypatch.setattr(writing, "retire", manifest_first)
    return False


@pytest.mark.parametrize(
    ("mutate", "expected"),
    [
        (_overwriting, "was rewritten"),
        (_named_without_content, "not as promised"),
        (_retiring_files_first, "not as promised"),
        (_deleting_the_manifest, "not as promised|damaged, and not retired"),
    ],
    ids=["overwriting", "named without content", "files first", "deleting the manifest"],
)
def test_each_broken_protocol_is_found(
    mutate: Callable[[pytest.MonkeyPatch], bool], expected: str, monkeypatch: pytest.MonkeyPatch
):
    """Catches a simulation that would pass whatever the protocol does."""
    create_overwrites = mutate(monkeypatch)

    def play_all() -> None:
        for seed in range(NUM_SCHEDULES):
            _play(seed, create_overwrites=create_overwrites)

    with pytest.raises(AssertionError, match=expected):
        play_all()


def test_a_schedule_can_be_replayed():
    """Catches a simulation whose failing seed would tell nothing."""
    assert _play(7).objects == _play(7).objects


def _play(seed: int, *, create_overwrites: bool = False) -> SimulatedStore:
    turns = Turns(seed)
    store = SimulatedStore(turns, create_overwrites=create_overwrites)
    first = turns.random.choice([1, 3])
    world_size = turns.random.choice([1, 2])
    turns.play(
        [
            lambda: _write(store, range(1, NUM_STEPS + 1), world_size=1),
            lambda: _write(store, range(first, NUM_STEPS + 1), world_size=world_size),
            lambda: _sweep(store),
            lambda: _follow(store),
        ]
    )
    store.calm = True
    newest = _newest(store)
    _write(store, range(newest + 1, NUM_STEPS + 1), world_size=1)
    assert _newest(store) == NUM_STEPS, "running again does not finish the run"
    return store


def _folder(step: int) -> str:
    return f"checkpoints/step_{step}"


def _write(store: Store, steps: range, *, world_size: int) -> None:
    """A training attempt: another world size rounds in another way."""
    for step in steps:
        try:
            _persist(lambda step=step: _write_step(store, step, world_size))
        except RunConflictError:
            return


def _write_step(store: Store, step: int, world_size: int) -> None:
    files = {
        role: write_file(
            store, _folder(step), role, ".bin", f"{role} {step} on {world_size}".encode()
        )
        for role in ("state", "ema")
    }
    commit(store, _folder(step), files, {"step": step})


def _sweep(store: Store) -> None:
    """Retention: all but the newest are retired."""
    for _ in range(3):
        committed = _persist(lambda: _committed(store))
        for found in committed[:-NUM_KEPT]:
            _persist(lambda found=found: writing.retire(store, found.folder))


def _follow(store: Store) -> None:
    """A sampler: reads the newest, now and then; what it reads is whole or retired meanwhile."""
    for _ in range(4):
        _persist(lambda: _read_newest(store))


def _read_newest(store: Store) -> None:
    committed = _committed(store)
    if not committed:
        return
    try:
        for role in ("state", "ema"):
            assert committed[-1].read(store, role).startswith(role.encode())
    except DamagedError:
        assert manifest.is_retired(store, committed[-1].folder), "damaged, and not retired"


def _committed(store: Store) -> list[Manifest]:
    found = [
        load(store, f"checkpoints/{name}", Expected({})) for name in store.names("checkpoints")
    ]
    return [one for one in found if one is not None]


def _newest(store: Store) -> int:
    committed = _committed(store)
    for one in committed:
        for role in one.files:
            one.read(store, role)
    return max((one.body["step"] for one in committed), default=0)


def _persist(act: Callable):
    for _ in range(5):
        try:
            return act()
        except StorageError as error:
            failure = error
    raise failure


def _names_in_manifest(store: Store, folder: str) -> list[str]:
    try:
        values = json.loads(store.read(f"{folder}/manifest.json"))
    except KeyMissingError:
        return []
    return [record["name"] for record in values["files"].values()]
