"""Names of data sets: which data set has a name, and which had it before it grew.

datasets/names/faces/000001.json    the first data set of that name
datasets/names/faces/000002.json    the same with more images: what the name means now

An entry is committed as a result is: put if absent, with a digest, never overwritten. So of two who
give a name at once one wins, and the older data sets stay what `faces@FINGERPRINT` means.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ddpm_core.config.data_ref import DataRef, is_folder_name
from ddpm_core.config.explain import near
from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.runs import layout
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

_ENTRY = re.compile(r"[0-9]{6}\.json")
_SHOWN = 20
_REMEDY = (
    "run the shard stage with the source that it was made from, or delete it: ddpm datasets delete"
)


@dataclass(frozen=True)
class NamedSet:
    """A data set below the root, by one of its names."""

    name: str
    pointer: DatasetPointer
    number: int = 0
    """of the entry, from 1 on; 0: it has no name but its folder's"""
    source: str | None = None
    """where its images came from, as it was given; for people"""
    licence: str | None = None
    """note on what may be done with the images"""

    @property
    def pinned(self) -> str:
        """The reference that names this very data set."""
        return f"{self.name}@{self.pointer.fingerprint[: layout.SHORT]}"


def lineage(store: Store, name: str) -> list[NamedSet]:
    """Return the data sets that have or had a name, oldest first; [] if there is none.

    Raises:
        DataError: an entry is damaged.
        StorageError: the storage does not answer.
    """
    folder = layout.dataset_name_folder(name)
    entries = [one for one in store.names(folder) if _ENTRY.fullmatch(one)]
    return [_entry(store, name, one) for one in entries]


def names(store: Store) -> list[str]:
    """Return all names that were given."""
    return store.names(layout.DATASET_NAMES)


def unnamed(store: Store) -> list[str]:
    """Return the folders, without `datasets/`, of data sets that no name means."""
    named = {one.pointer.folder for one in _entries(store)}
    folders = [one for one in store.names("datasets") if is_folder_name(one)]
    return [one for one in folders if f"datasets/{one}" not in named and _is_there(store, one)]


def names_of(store: Store, fingerprint: str) -> list[NamedSet]:
    """Return the entries that are of this data set."""
    return [one for one in _entries(store) if one.pointer.fingerprint == fingerprint]


def find(store: Store, ref: DataRef) -> NamedSet:
    """Return the data set that a reference means: by its name, or the name of its folder.

    Raises:
        ConfigError: there is none; with those that there are.
        DataError: an entry, or the index, is damaged.
        StorageError: the storage does not answer.
    """
    found = lineage(store, ref.name)
    if not found and is_folder_name(ref.name) and _is_there(store, ref.name):
        index = index_of(store, f"datasets/{ref.name}")
        pointer = DatasetPointer(index.folder, str(index.body.get("fingerprint")))
        found = [NamedSet(ref.name, pointer)]
    if not found:
        raise ConfigError(_no_such(store, ref.name))
    if ref.fingerprint is None:
        return found[-1]
    meant = [one for one in found if one.pointer.fingerprint.startswith(ref.fingerprint)]
    if len({one.pointer.fingerprint for one in meant}) != 1:
        has = ", ".join(dict.fromkeys(one.pinned for one in found))
        what = "several data sets" if meant else "no data set"
        raise ConfigError(
            f"{ref.unweighted} means {what} below {store.uri}; give one of {has}"
            + (", with more digits" if meant else "")
        )
    return meant[-1]


def index_of(store: Store, folder: str, fingerprint: str | None = None) -> Manifest:
    """Return the index of a data set, as it was committed; its shards are not looked at.

    Raises:
        DataError: it is damaged or gone.
        StorageError: the storage does not answer.
    """
    where = store.uri_of(f"{folder}/{layout.DATASET_INDEX}")
    expected = Expected({} if fingerprint is None else {"fingerprint": fingerprint})
    try:
        found = manifest.load(store, folder, expected, name=layout.DATASET_INDEX)
    except DamagedError as error:
        raise DataError(f"{error}: {_REMEDY}") from None
    if found is None:
        raise DataError(f"{where} is gone, or set aside as damaged; {_REMEDY}")
    return found


def require_free(store: Store, name: str, fingerprint: str) -> NamedSet | None:
    """Refuse a name that other images have.

    Returns:
        The entry of this very data set; None: the name is free.

    Raises:
        RunConflictError: saying what to do.
        DataError: an entry is damaged.
    """
    found = lineage(store, name)
    if not found:
        return None
    for one in reversed(found):
        if one.pointer.fingerprint == fingerprint:
            return one
    raise RunConflictError(
        f"the name {name!r} is that of a data set of other images ({found[-1].pinned}), and these "
        f"have the fingerprint {fingerprint[: layout.SHORT]}; give another name, with --name, or "
        f"delete that one: ddpm datasets delete {name}"
    )


def give(
    store: Store,
    name: str,
    pointer: DatasetPointer,
    *,
    source: str | None = None,
    licence: str | None = None,
) -> NamedSet:
    """Give a data set a name, unless it has it; another note on its licence is a further entry.

    Raises:
        RunConflictError: other images have the name; or it means a data set that grew of this one,
            and the note is another.
        DataError: an entry is damaged.
        StorageError: the storage refuses or does not answer.
    """
    found = require_free(store, name, pointer.fingerprint)
    if found is not None and licence in (None, found.licence):
        return found
    entries = lineage(store, name)
    if found is not None:
        if entries[-1].pointer != pointer:
            raise RunConflictError(
                f"{name!r} is {entries[-1].pinned} by now, and a note on the licence of "
                f"{found.pinned} would make it the older one again; give the older one a name of "
                "its own, with --name, beside --licence"
            )
        source = found.source if source is None else source
    number = entries[-1].number + 1 if entries else 1
    return enter(store, NamedSet(name, pointer, number, source, licence))


def enter(store: Store, one: NamedSet) -> NamedSet:
    """Put an entry, if nothing has its number yet; return what has it.

    Raises:
        RunConflictError: another data set came first.
        StorageError: the storage refuses or does not answer.
    """
    body = {
        "name": one.name,
        "dataset": one.pointer.folder,
        "fingerprint": one.pointer.fingerprint,
        "source": one.source,
        "licence": one.licence,
    }
    folder, file = layout.dataset_name_folder(one.name), f"{one.number:06d}.json"
    try:
        commit(store, folder, {}, body, name=file)
    except RunConflictError:
        require_free(store, one.name, one.pointer.fingerprint)
        return _entry(store, one.name, file)
    return one


def _entries(store: Store) -> Iterator[NamedSet]:
    """Yield all entries; a damaged one is said where its name is looked up."""
    for name in names(store):
        with suppress(DataError):
            yield from lineage(store, name)


def _is_there(store: Store, folder: str) -> bool:
    return store.exists(f"datasets/{folder}/{layout.DATASET_INDEX}")


def _entry(store: Store, name: str, file: str) -> NamedSet:
    folder = layout.dataset_name_folder(name)
    where, remedy = store.uri_of(f"{folder}/{file}"), "delete the file, and give the name again"
    try:
        found = manifest.load(store, folder, Expected({"name": name}), name=file)
    except DamagedError as error:
        raise DataError(f"{error}: {remedy}, with the shard stage's --name") from None
    body: dict[str, Any] = {} if found is None else found.body
    pointer = DatasetPointer(str(body.get("dataset")), str(body.get("fingerprint")))
    if not pointer.is_consistent:
        raise DataError(f"{where} names no data set; {remedy}, with the shard stage's --name")
    number = int(file.removesuffix(".json"))
    return NamedSet(name, pointer, number, body.get("source"), body.get("licence"))


def _no_such(store: Store, name: str) -> str:
    known = list(_known(store))
    if not known:
        return (
            f"there is no data set {name!r} below {store.uri}, nor any other; the shard stage makes"
            " one, and gives it a name: --name NAME"
        )
    close = near(name, known)
    meant = f"did you mean {close!r}? " if close else ""
    more = f", ... ({len(known)} in all)" if len(known) > _SHOWN else ""
    return (
        f"there is no data set {name!r} below {store.uri}; {meant}there are "
        f"{', '.join(known[:_SHOWN])}{more}"
    )


def _known(store: Store) -> Iterator[str]:
    yield from names(store)
    yield from unnamed(store)
