"""A run is deleted: its folder, and no other. What it shares with other runs stays."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ddpm_core.config import RunConfig
from ddpm_core.config.model_ref import ModelRef
from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.recipes import PAPER_TABLE_2
from ddpm_core.runs import begun, layout, lease
from ddpm_core.runs.reference import keys_given, ref_of
from ddpm_core.runs.table import config_of
from ddpm_core.store.storage import Store

STAYS = (
    "its data set, which other runs may use (`datasets delete` deletes it); what MLflow knows of "
    "it, its registered model too, which is deleted in MLflow"
)


def delete_run(store: Store, name: str, *, confirmed: bool) -> str:
    """Delete the folder of a run; return what was done, and what stays.

    Args:
        store: the root.
        name: of the run.
        confirmed: whether the user has said so twice.

    Raises:
        ConfigError: there is no such run, or it was not confirmed.
        RunConflictError: it is being trained.
        StorageError: the storage refuses or does not answer; the same command continues.
    """
    clear_deleted(store, "runs")
    config_of(store, name)
    where = store.uri_of(layout.run_folder(name))
    if not confirmed:
        raise ConfigError(
            f"this deletes {where} for good, checkpoints and samples too; say --yes if it is meant"
        )
    with lease.held(store, name):  # no process trains it
        # run.json last: until then the run has its name, and the same command continues.
        delete_folder(store, layout.run_folder(name), last=layout.run_json_key(name))
    return f"deleted {where}; {_rest(store, name)}"


def _rest(store: Store, name: str) -> str:
    ablations = [f"{name}-{one}" for one in PAPER_TABLE_2]
    present = [one for one in ablations if store.exists(layout.run_json_key(one))]
    more = f"; its ablations, runs of their own: {', '.join(present)}" if present else ""
    if users := list(_users(store, name)):
        more += f"; runs whose run.json names its weights, which are gone: {', '.join(users)}"
    return f"what stays: {STAYS}{more}"


def _users(store: Store, name: str) -> Iterator[str]:
    """Yield the runs whose run.json names weights of this one."""
    for other in store.names("runs"):
        with suppress(ConfigError):  # a damaged run.json
            config = begun.recorded(store, other)
            if other != name and config is not None and name in _named_by(config):
                yield other


def _named_by(config: RunConfig) -> list[str | None]:
    """Return the runs whose weights a configuration names, or whose samples it enlarges."""
    low = config.sample.low_from
    lower = [] if low is None else [ModelRef.parse(low).run]
    return [*lower, *(ref_of(config, key).run for key in keys_given(config))]


def delete_folder(store: Store, folder: str, *, last: str) -> None:
    """Delete all that lies below a folder: on a disk in one step, elsewhere the key `last` last.

    Raises:
        StorageError: the storage refuses or does not answer; the same again continues.
        ConfigError: it is a link to a folder elsewhere.
    """
    path = store.local_path(folder)
    if path is not None:
        if path.exists() or path.is_symlink():
            _hide(path)
        _clear(path.parent)
        return
    keys = sorted(_keys(store, folder))
    for key in [*(key for key in keys if key != last), last]:
        store.delete(key)


def clear_deleted(store: Store, folder: str) -> None:
    """Delete what deletions that were killed have left on a disk, directly below a folder.

    Raises:
        StorageError: the storage refuses.
    """
    if (path := store.local_path(folder)) is not None:
        _clear(path)


def _hide(folder: Path) -> None:
    """Give a folder a name that nothing looks for, in one step: half of it is no run any more."""
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link to a folder elsewhere; delete both by hand")
    try:
        folder.rename(folder.with_name(f".deleted.{folder.name}.{uuid.uuid4().hex[:8]}"))
    except OSError as error:
        raise StorageError(f"cannot delete {folder}: {error.strerror or error}") from error


def _clear(folder: Path) -> None:
    for left in sorted(folder.glob(".deleted.*")):
        try:
            with suppress(FileNotFoundError):  # another process deletes it too
                shutil.rmtree(left)
        except OSError as error:
            raise StorageError(f"cannot delete {left}: {error.strerror or error}") from error


def _keys(store: Store, folder: str) -> Iterator[str]:
    for name in store.names(folder):
        key = f"{folder}/{name}"
        if store.exists(key):
            yield key
        else:
            yield from _keys(store, key)
