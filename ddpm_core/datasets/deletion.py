"""A data set that no run uses is deleted: its folder, its name, and what that meant before."""

from collections.abc import Sequence
from contextlib import suppress

from ddpm_core.config.data_ref import is_folder_name
from ddpm_core.datasets.table import named_as
from ddpm_core.datasets.users import made_with, users, users_of
from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.runs import layout
from ddpm_core.runs.dataset_names import NamedSet, index_of, lineage, names
from ddpm_core.runs.deletion import clear_deleted, delete_folder
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.shards.lineage import made_of
from ddpm_core.store.storage import Store


def delete_dataset(store: Store, text: str, *, confirmed: bool) -> str:
    """Delete a name with all data sets that it means or meant; return what was done, what stays.

    A folder that another name means stays, and loses this name. What appends to it made goes too.

    Args:
        store: the root.
        text: a name, or the folder's name of a data set without one.
        confirmed: whether the user has said so twice.

    Raises:
        ConfigError: there is no such data set, or it was not confirmed.
        RunConflictError: runs use it.
        StorageError: the storage refuses or does not answer; the same command continues.
    """
    if "@" in text:
        name = text.partition("@")[0]
        raise ConfigError(f"a data set is deleted with all that its name means: give {name}")
    for folder in ("datasets", layout.DATASET_NAMES):
        clear_deleted(store, folder)
    named = _named(store, text)
    name, every = named.name, lineage(store, named.name) or [named]
    if not named.number and (has := _names_for(store, named.pointer.folder)):
        raise ConfigError(
            f"{text} has a name, {' and '.join(has)}, and is deleted with that: "
            f"ddpm datasets delete {has[0]}"
        )
    used = users(store)
    if runs := sorted({run for one in every for run in users_of(one, used)}):
        raise RunConflictError(
            f"data set {name!r} is used by {', '.join(runs)}; delete the runs first: "
            f"ddpm runs delete {runs[0]}"
        )
    mine = list(dict.fromkeys(one.pointer.folder for one in every if _is_alone(store, one)))
    for folder in mine:
        if others := [one for one in made_with(store, folder) if one not in mine]:
            own = [*_names_for(store, others[0]), others[0].removeprefix("datasets/")]
            raise RunConflictError(
                f"{', '.join(map(store.uri_of, others))} is made of data set {name!r} and has its "
                f"images; delete it first: ddpm datasets delete {own[0]}"
            )
    # First, since the index of what they are made for names them: killed, the rest is found again.
    mine = [*_only_for(store, every, mine, used), *mine]
    if not confirmed:
        places = ", ".join(map(store.uri_of, mine)) or "no folder, since another name means it too,"
        raise ConfigError(
            f"this deletes {places} and the name {name!r} for good; say --yes if it is meant"
        )
    for folder in mine:
        # The index last, and the name after it: until then the same command continues.
        delete_folder(store, folder, last=f"{folder}/{layout.DATASET_INDEX}")
    entries = layout.dataset_name_folder(name)
    delete_folder(store, entries, last=f"{entries}/000001.json")
    stays = [one.pinned for one in every if one.pointer.folder not in mine]
    kept = f"; another name means {', '.join(stays)}, which stays" if stays else ""
    return f"deleted {', '.join(map(store.uri_of, mine)) or 'no folder'} and the name {name}{kept}"


def _named(store: Store, text: str) -> NamedSet:
    """Return the data set of a name; by the name of its folder also one whose index is damaged."""
    try:
        return named_as(store, text)
    except DataError:
        if not is_folder_name(text):
            raise
        return NamedSet(text, DatasetPointer(f"datasets/{text}", text[-layout.SHORT :]))


def _only_for(
    store: Store, every: Sequence[NamedSet], mine: Sequence[str], used: dict[str, list[str]]
) -> list[str]:
    """Return the folders of what appends made: of no name, used by no run, and for these alone."""
    found: list[str] = []
    for one in every:
        with suppress(DataError):  # damaged: what it was made of is not known
            for part in made_of(index_of(store, one.pointer.folder)):
                pointer = DatasetPointer(part.folder, part.fingerprint)
                others = [other for other in made_with(store, part.folder) if other not in mine]
                if part.folder in mine or others or _names_for(store, part.folder):
                    continue
                if not users_of(NamedSet(part.folder, pointer), used):
                    found.append(part.folder)
    return list(dict.fromkeys(found))


def _is_alone(store: Store, named: NamedSet) -> bool:
    """Say whether no other name means or meant a data set."""
    return all(name == named.name for name in _names_for(store, named.pointer.folder))


def _names_for(store: Store, folder: str) -> list[str]:
    """Return the names that mean or meant the data set in a folder, whose index may be damaged."""
    found = []
    for name in names(store):
        with suppress(DataError):  # a damaged entry is said where its name is looked up
            if any(one.pointer.folder == folder for one in lineage(store, name)):
                found.append(name)
    return found
