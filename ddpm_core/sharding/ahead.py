"""Shards that are made ahead: before it is known which data set they are of.

    making/<name>-<digest>/
      begun.json                          when a command last worked on it
      train-000000-<sha256>.tar           a shard
      train-000000.json                   its manifest, and what was found of each of its files

A data set's folder is named by the digests of all its files. To read each file once, shards are
made while the digests are taken, in a folder that is named by the source and by what is made of
it. When all digests are known they are put into the data set's own folder, by a link or a copy that
the server makes, and the folder goes. What a kill leaves is used by the next start, whichever of
its sources have not changed; what nobody comes back for is deleted after `LEFT_FOR_S`.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import DataConfig, identity
from ddpm_core.sharding.looked import ScanResult
from ddpm_core.shards.index import Split
from ddpm_core.shards.shard import MadeShard, made_shard, shard_name, shard_role
from ddpm_core.sources import ledger
from ddpm_core.sources.items import Items
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import KeyMissingError, Store

FOLDER = "making"
LEFT_FOR_S = 14 * 86_400.0
_BEGUN = "begun.json"
_MAX_BEGUN_BYTES = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AheadShard:
    """A shard that was made ahead, and what was found of its files."""

    made: MadeShard
    scan: ScanResult
    names: str
    """as `names_of`"""
    signature: str | None
    """as `Looked.signature`, when they were read"""


def folder_of(data: DataConfig) -> str:
    """Return the folder for shards of a source that are made by these settings."""
    about = {"data": identity.data(data), "files": ledger.key_of(data)}
    return f"{FOLDER}/{data.name}-{fingerprint(about)[:16]}"


def names_of(items: Items, classes: Sequence[str]) -> str:
    """Return what differs for files of other names or labels, or other classes."""
    return fingerprint({"classes": [ascii(one) for one in classes], "files": items.names_sha256()})


def about(scan: ScanResult, names: str, signature: str | None) -> dict[str, Any]:
    """Return what the manifest of a shard that is made ahead says beside."""
    return {
        "names": names,
        "signature": signature,
        "sha256s": scan.sha256s.hex(),
        "problems": {str(at): text for at, text in scan.problems.items()},
        "notes": {str(at): text for at, text in scan.notes.items()},
        "deep": list(scan.deep),
    }


def finished(
    store: Store, folder: str, split: Split, number: int, *, verify: bool
) -> AheadShard | None:
    """Return a shard that was made ahead, if it is there.

    Args:
        store: where.
        folder: of shards made ahead.
        split: of the shard.
        number: of the shard in its split.
        verify: whether its bytes are read; else what wrote them has just said so.
    """
    role = shard_role(split, number)
    expected = Expected({"dataset": folder.rpartition("/")[2]})
    check = Manifest.require_bytes if verify else _unchecked
    found = manifest.intact(store, folder, expected, check=check, name=f"{role}.json")
    if found is None:
        return None
    body = found.body
    try:
        scan = ScanResult(
            bytes.fromhex(body["sha256s"]),
            _by_position(body["problems"]),
            _by_position(body["notes"]),
            [int(at) for at in body["deep"]],
        )
        made = made_shard(found, shard_name(split, number))
        return AheadShard(made, scan, str(body["names"]), body["signature"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it is no manifest of a shard made ahead: {type(error).__name__} {error}"
        manifest.quarantine(store, folder, reason, name=f"{role}.json")
        return None


def forget(store: Store, folder: str, split: Split, number: int) -> None:
    """Delete the manifest of a shard that was made ahead of other files: it is made anew."""
    store.delete(f"{folder}/{shard_role(split, number)}.json")


def adopt(store: Store, folder: str, dataset: str, found: AheadShard) -> MadeShard | None:
    """Put a shard that was made ahead into the folder of its data set.

    Killed on the way it stays where it was. None if another process has taken it away.

    Args:
        store: where.
        folder: of shards made ahead.
        dataset: folder of the data set.
        found: of the very files that the data set has there.
    """
    made, shard = found.made, found.made.shard
    try:
        store.copy(f"{folder}/{made.record.name}", f"{dataset}/{shard.name}")
    except KeyMissingError:
        return None
    adopted = replace(made, record=replace(made.record, name=shard.name))
    name = f"{shard.role}.json"
    commit(store, dataset, {shard.role: adopted.record}, adopted.body(dataset), name=name)
    store.delete(f"{folder}/{name}")
    store.delete(f"{folder}/{made.record.name}")
    return adopted


def begin(store: Store, folder: str) -> None:
    """Note that a command works on a folder now."""
    store.write(f"{folder}/{_BEGUN}", canonical_json({"time_s": int(time.time())}))


def clear(store: Store, folder: str) -> None:
    """Delete a folder of shards made ahead."""
    names = store.names(folder)
    # Last what says how old the rest is, if this is killed.
    for name in sorted(names, key=lambda one: (one == _BEGUN, one)):
        store.delete(f"{folder}/{name}")


def sweep(store: Store) -> None:
    """Delete folders that no command has worked on for `LEFT_FOR_S`."""
    for name in store.names(FOLDER):
        folder = f"{FOLDER}/{name}"
        begun_s = 0.0
        with suppress(KeyMissingError, ValueError, TypeError, KeyError):
            begun = json.loads(store.read(f"{folder}/{_BEGUN}", at_most=_MAX_BEGUN_BYTES))
            begun_s = float(begun["time_s"])
        if time.time() - begun_s > LEFT_FOR_S and store.names(folder):
            _log.info("deleting %s, which nobody came back for", store.uri_of(folder))
            clear(store, folder)


def _by_position(said: Mapping[str, str]) -> dict[int, str]:
    return {int(at): str(text) for at, text in said.items()}


def _unchecked(_found: Manifest, _store: Store) -> None:
    pass
