"""Changes of a run.json since it was written, and of housekeeping: each is logged once.

A changed file is treated as `--set` is: accepted, or refused where it would be another experiment.
The log line is for those who changed it by mistake. Housekeeping may be changed without changing
the file: the given values are in force, and those last logged are kept in begun.json.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from ddpm_core.canonical import MAX_JSON_BYTES, canonical_json, parse_json
from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.progress import WARNING
from ddpm_core.runs import layout
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

_SHOWN = 10
_log = logging.getLogger(__name__)


def recorded(store: Store, run: str) -> RunConfig | None:
    """Return what a run's run.json says, or None before it has one.

    Raises:
        ConfigError: the file is no configuration.
        StorageError: the storage does not answer.
    """
    key = layout.run_json_key(run)
    try:
        return RunConfig.from_json(
            store.read(key, at_most=MAX_JSON_BYTES), origin=store.uri_of(key)
        )
    except KeyMissingError:
        return None


def as_begun(store: Store, run: str) -> RunConfig | None:
    """Return what run.json says, with the housekeeping that it said when it was written.

    Raises:
        ConfigError: run.json is no configuration, or begun.json says what none can.
        StorageError: the storage does not answer.
    """
    now, begun = recorded(store, run), _read(store, run)
    if now is None or begun is None:
        return now
    keys = begun["keys"]
    return now.replaced({key: keys[key] for key in now.housekeeping() if key in keys})


def keep(store: Store, config: RunConfig, run_json: bytes) -> None:
    """Write begun.json: the values of a `run_json` that was just written, and its digest."""
    _write(store, config.name, config.flat(), said_of=sha256_of(run_json))


def accept(store: Store, run: str, run_json: bytes) -> None:
    """Take a run.json that the run itself wrote anew: it is not one that was changed by hand."""
    begun = _read(store, run)
    if begun is not None:
        housekeeping = begun.get("housekeeping")
        _write(store, run, begun["keys"], said_of=sha256_of(run_json), housekeeping=housekeeping)


def report_changes(store: Store, run: str) -> None:
    """Log which keys of a run's run.json were changed since it was written; once for each change.

    Raises:
        ConfigError: the file is no configuration any more.
        KeyMissingError: it is not there.
    """
    data = store.read(layout.run_json_key(run), at_most=MAX_JSON_BYTES)
    line, digest = _changes(store, run, data), sha256_of(data)
    if line is None:  # of an earlier version, or killed between the two files
        now = RunConfig.from_json(data, origin=store.uri_of(layout.run_json_key(run)))
        _write(store, run, now.flat(), said_of=digest)
    elif line:
        _log.warning("%s%s", WARNING, line)
        begun = _read(store, run) or {"keys": {}}
        _write(store, run, begun["keys"], said_of=digest, housekeeping=begun.get("housekeeping"))


def report_housekeeping(store: Store, config: RunConfig) -> None:
    """Log which housekeeping differs from the last of this run; once for each change.

    Raises:
        ConfigError: run.json is no configuration any more.
    """
    if line := housekeeping_of(store, config):
        _log.warning("%s", line)
        if (begun := _read(store, config.name)) is not None:
            ours = config.housekeeping()
            _write(store, config.name, begun["keys"], said_of=begun["said_of"], housekeeping=ours)


def housekeeping_of(store: Store, config: RunConfig) -> str:
    """Return the line that `report_housekeeping` would log, "" for none; writes nothing."""
    first, begun = recorded(store, config.name), _read(store, config.name) or {}
    if first is None:
        return ""
    then = {**first.housekeeping(), **(begun.get("housekeeping") or {})}
    changed = [
        f"{key}: {json.dumps(then[key])} -> {json.dumps(value)}"
        for key, value in config.housekeeping().items()
        if then.get(key, value) != value
    ]
    if not changed:
        return ""
    return f"run {config.name!r} goes on with other housekeeping: {'; '.join(changed)}"


def changes_of(store: Store, run: str) -> str:
    """Return the line that `report_changes` would log, "" for none or no run; writes nothing."""
    try:
        data = store.read(layout.run_json_key(run), at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        return ""
    return _changes(store, run, data) or ""


def _changes(store: Store, run: str, run_json: bytes) -> str | None:
    """Return the line about a changed file; "" for none, None if its first values are unknown."""
    begun, key = _read(store, run), layout.run_json_key(run)
    if begun is None:
        return None
    if begun["said_of"] == sha256_of(run_json):
        return ""
    config = RunConfig.from_json(run_json, origin=store.uri_of(key))
    # A key that is newer than the file had its default.
    then, now = {**config.defaults(), **begun["keys"]}, config.flat()
    changed = [
        f"{name}: {json.dumps(then.get(name))} -> {json.dumps(now.get(name))}"
        for name in dict.fromkeys((*begun["keys"], *now))
        if then.get(name) != now.get(name)
    ]
    if not changed:
        return ""
    more = len(changed) - _SHOWN
    return (
        f"{store.uri_of(key)} is no longer the file that this run was begun with, and is taken as "
        f"it is now: {'; '.join(changed[:_SHOWN])}"
        + (f"; and {more} more keys" if more > 0 else "")
    )


def _read(store: Store, run: str) -> dict[str, Any] | None:
    key = _key(run)
    try:
        found = parse_json(store.read(key, at_most=MAX_JSON_BYTES), origin=store.uri_of(key))
    except (KeyMissingError, ConfigError):
        return None
    whole = isinstance(found.get("keys"), dict) and isinstance(found.get("said_of"), str)
    return found if whole else None


def _write(
    store: Store,
    run: str,
    keys: Mapping[str, Any],
    *,
    said_of: str,
    housekeeping: Mapping[str, Any] | None = None,
) -> None:
    values = {"keys": keys, "said_of": said_of}
    if housekeeping is not None:
        values["housekeeping"] = housekeeping
    try:
        store.write(_key(run), canonical_json(values))
    except StorageError as error:
        # Read-only access is enough to use a run; the line is then logged again next time.
        _log.warning("%s", error)


def _key(run: str) -> str:
    return f"{layout.run_folder(run)}/begun.json"
