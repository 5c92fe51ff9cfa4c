"""A piece of work that is kept: published once it is done, found again by the next start.

    <kind of whole>/<whole>/
      <unit>-<digest>.<suffix>    what the unit came to, a file for each role
      <unit>.json                 its manifest: it is finished
      manifest.json               the whole, made of all units

What a unit comes to follows from what it is and from its whole, so it does not matter who works on
it, or how often. Knows no torch.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ddpm_core.store import manifest
from ddpm_core.store.commit import commit_first
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, FileRecord, Manifest
from ddpm_core.store.storage import Store


class Unit(Protocol):
    """What is worked on: a small value."""

    @property
    def name(self) -> str:
        """What its files begin with, unique in its whole; its manifest is NAME.json."""

    @property
    def body(self) -> Mapping[str, Any]:
        """What it is, as JSON: which images, looked at in which way."""


U = TypeVar("U", bound=Unit)


def manifest_name(unit: Unit) -> str:
    """Return the file name of the unit's manifest."""
    return f"{unit.name}.json"


def whole_of(folder: str) -> dict[str, str]:
    """Return what a unit in `folder` says of the whole it belongs to: {"samples": NAME}."""
    _, kind, name = folder.rsplit("/", 2)
    return {kind: name}


def _nothing(_unit: Unit) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Units(Generic[U]):
    """The units of one whole, as they are published in its folder."""

    store: Store
    folder: str
    made_with: Callable[[U], Mapping[str, Any] | None] = _nothing
    """what a unit depends on and its whole does not say; units of earlier versions without it
    count. None: not known yet, so that no unit of this kind counts"""

    def expected(self, unit: U) -> Expected | None:
        """Return the body of a unit's manifest; None while it is not known."""
        made_with = self.made_with(unit)
        if made_with is None:
            return None
        return Expected({**whole_of(self.folder), **unit.body}, made_with)

    def publish(
        self, unit: U, files: Mapping[str, FileRecord], more: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Commit a unit whose files are written.

        If it stands there already with other bytes (made on another kind of device, which rounds
        otherwise), that one counts, unless it is damaged or another's.

        Args:
            unit: which.
            files: role -> file.
            more: what else its manifest says.

        Raises:
            ValueError: it is not known yet what it was made with.
        """
        expected = self.expected(unit)
        if expected is None:
            raise ValueError(f"what {unit.name} was made with is not known")
        body = {**expected.body, **expected.if_written, **(more or {})}
        name = manifest_name(unit)
        return commit_first(self.store, self.folder, files, body, expected, name=name)

    def finished(
        self, units: Sequence[U], *, by_length: bool = False, read: Collection[str] = ()
    ) -> dict[str, Manifest]:
        """Return name -> manifest of the units that are there and whole, in their order.

        One that is damaged, or another's, is set aside, which is logged: working on it again
        replaces it.

        Args:
            units: which.
            by_length: whether to look at the lengths of files, by one listing, and to leave their
                bytes to their readers.
            read: roles whose bytes are verified all the same.
        """
        sizes = self.store.sizes(self.folder)

        def check(found: Manifest, store: Store) -> None:
            if by_length:
                found.require_sizes(store, sizes)
            for role in found.files:
                if not by_length or role in read:
                    found.read(store, role)

        kept = {}
        for unit in units:
            name, expected = manifest_name(unit), self.expected(unit)
            if name in sizes and expected is not None:
                found = manifest.intact(self.store, self.folder, expected, check=check, name=name)
                if found is not None:
                    kept[unit.name] = found
        return kept

    def is_finished(self, unit: U) -> bool:
        """Say whether a unit is there and whole, without a listing; one that is damaged is set
        aside.
        """
        name, expected = manifest_name(unit), self.expected(unit)
        if expected is None:
            return False
        return manifest.intact(self.store, self.folder, expected, name=name) is not None

    def missing(self, units: Sequence[U]) -> list[U]:
        """Return the units that are not finished, in their order; every file is read."""
        return without(units, self.finished(units))

    def read(self, unit: U, role: str) -> bytes:
        """Return a file of a finished unit, verified; a damaged unit is set aside.

        Raises:
            DamagedError: it is not there, not as it was committed, or another's.
        """
        expected, name = self.expected(unit), manifest_name(unit)
        found = None
        try:
            if expected is not None:
                found = manifest.load(self.store, self.folder, expected, name=name)
            if found is not None:
                return found.read(self.store, role)
        except DamagedError as error:
            self.set_aside(unit, str(error))
            raise
        where = self.store.uri_of(f"{self.folder}/{name}")
        raise DamagedError(f"{where} is gone; run the stage again")

    def set_aside(self, unit: U, reason: str) -> None:
        """Quarantine a unit, with the reason: working on it again replaces it."""
        manifest.quarantine(self.store, self.folder, reason, name=manifest_name(unit))


def without(units: Sequence[U], finished: Iterable[str]) -> list[U]:
    """Return the units whose names are not among `finished`, in their order."""
    names = set(finished)
    return [unit for unit in units if unit.name not in names]
