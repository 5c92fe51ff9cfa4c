"""Which runs use a data set, by their dataset.json or their run.json; and which data sets do."""

from collections.abc import Iterator
from contextlib import suppress

from ddpm_core.config.data_ref import is_folder_name
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import begun, results
from ddpm_core.runs.dataset_names import NamedSet, index_of
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store


def users(store: Store) -> dict[str, list[str]]:
    """Return which runs have a data set: fingerprint, or how it begins -> their names."""
    found: dict[str, list[str]] = {}
    for run in store.names("runs"):
        for fingerprint in dict.fromkeys(_used_by(store, run)):
            found.setdefault(fingerprint, []).append(run)
    return found


def made_with(store: Store, folder: str) -> list[str]:
    """Return the folders of data sets whose images lie in that of another, and go with it.

    A data set whose index cannot be read does not count.
    """
    found = []
    for name in store.names("datasets"):
        if not is_folder_name(name) or f"datasets/{name}" == folder:
            continue
        with suppress(DataError):
            body = index_of(store, f"datasets/{name}").body
            shards = body.get("shards")
            places = shards.get("places") if isinstance(shards, dict) else None
            if isinstance(places, list) and folder in places:
                found.append(f"datasets/{name}")
    return found


def users_of(named: NamedSet, used: dict[str, list[str]]) -> list[str]:
    """Return the runs that use one data set.

    Args:
        named: it.
        used: by which runs which one is used, as of `users`.
    """
    ours = named.pointer.fingerprint
    theirs = [runs for one, runs in used.items() if ours.startswith(one) or one.startswith(ours)]
    return sorted({run for runs in theirs for run in runs})


def _used_by(store: Store, run: str) -> Iterator[str]:
    with suppress(DamagedError):
        if (pointer := results.dataset_pointer(store, run)) is not None:
            yield pointer.fingerprint
    with suppress(ConfigError):  # a damaged run.json
        config = begun.recorded(store, run)
        sets = None if config is None else config.data.references
        for ref in sets.refs if sets is not None else ():
            if ref.fingerprint is not None:
                yield ref.fingerprint
