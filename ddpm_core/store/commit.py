"""Publishing: content-named files, then a manifest that is put only if absent; retention.

A manifest holds nothing of the moment, so two writers of the same thing write the same bytes and a
late one does no harm; retention marks `retired` before it deletes and keeps the manifest, so that a
late one cannot bring back what is going.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import RunConflictError
from ddpm_core.store.content import Content
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import (
    Manifest,
    as_it_stands,
    intact,
    parse,
    quarantine_key,
)
from ddpm_core.store.manifest_bytes import FORMAT_VERSION, DamagedError, FileRecord
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

_log = logging.getLogger(__name__)
_CONTENT_NAME = re.compile(r".+-[0-9a-f]{16}(\.[A-Za-z0-9.]+)?")
# For ever as it was, though that file is another now: a mark of other bytes would be a conflict.
_MARKERS_TEXT = b"see ddpm_core/manifest.py\n"


def content_name(stem: str, sha256: str, suffix: str) -> str:
    """Return `stem-<first 16 digits of the SHA-256>suffix`; `suffix` starts with a dot."""
    return f"{stem}-{sha256[:16]}{suffix}"


def is_content_name(name: str) -> bool:
    """Say whether a file of this name was written by `write_file`: it is no manifest."""
    return _CONTENT_NAME.fullmatch(name) is not None


def write_file(store: Store, folder: str, stem: str, suffix: str, data: Content) -> FileRecord:
    """Put `data` below `folder` under its content name; it counts once a manifest names it."""
    # Taken once: a digest of 200 MB costs a quarter of a second, in which every rank waits.
    sha256 = sha256_of(data)
    record = FileRecord(content_name(stem, sha256, suffix), len(data), sha256)
    store.write(f"{folder}/{record.name}", data, sha256=sha256)
    return record


def write_files(
    store: Store, folder: str, contents: Mapping[str, tuple[str, bytes]]
) -> dict[str, FileRecord]:
    """Put (suffix, data) of each role, each under the content name of its role."""
    return {
        role: write_file(store, folder, role, suffix, data)
        for role, (suffix, data) in contents.items()
    }


def commit(
    store: Store,
    folder: str,
    files: Mapping[str, FileRecord],
    body: Mapping[str, Any],
    *,
    name: str = "manifest.json",
) -> Manifest:
    """Publish `files`, all written before, with one put of the manifest.

    Committing the same again is fine, by whomever. A manifest that is damaged or quarantined
    is replaced, and its quarantine lifted: the caller has just written every file anew.

    Args:
        store: where.
        folder: folder of the files.
        files: role -> file, as `write_file` returned it.
        body: what this is, as JSON; nothing of the moment (time, host, attempt), or a second
            attempt at the same thing would conflict with the first.
        name: file name of the manifest.

    Raises:
        RunConflictError: a manifest of other content stands there.
    """
    key = f"{folder}/{name}"
    content = {
        "body": dict(body),
        "files": {role: asdict(record) for role, record in files.items()},
        "format": FORMAT_VERSION,
    }
    data = canonical_json({**content, "digest": sha256_of(canonical_json(content))})
    manifest = parse(folder, data, origin=store.uri_of(key))
    quarantined = store.exists(quarantine_key(folder, name))
    try:
        store.create(key, data)
    except RunConflictError:
        if not quarantined and not _is_damaged(store, folder, name):
            raise
        _log.warning("replacing the damaged manifest %s", store.uri_of(key))
        store.write(key, data)
    if quarantined:
        store.delete(quarantine_key(folder, name))
    return manifest


def commit_first(
    store: Store,
    folder: str,
    files: Mapping[str, FileRecord],
    body: Mapping[str, Any],
    expected: Expected,
    *,
    name: str = "manifest.json",
) -> Manifest:
    """Publish as `commit`, or return what stands there already: the first one counts.

    Others come with other bytes where the same was made on another kind of device, which rounds
    otherwise. What stands there does not count if it is damaged, or not the expected one.
    """
    try:
        return commit(store, folder, files, body, name=name)
    except RunConflictError:
        first = intact(store, folder, expected, name=name)
    return first if first is not None else commit(store, folder, files, body, name=name)


def retire(store: Store, folder: str) -> None:
    """Mark what was committed in `folder` as `retired`, then delete its files, not the manifest.

    Dying in between is fine: retiring again finishes it. Without a manifest nothing happens.
    """
    try:
        found = as_it_stands(store, folder, "manifest.json")
        named = [record.name for record in found.files.values()]
    except KeyMissingError:
        return
    except DamagedError as error:
        _log.warning("retiring a damaged folder: %s", error)
        named = []
    store.create(f"{folder}/retired", _MARKERS_TEXT)
    # Also what no manifest names: files of attempts that lost or died.
    listed = [one for one in store.names(folder) if is_content_name(one)]
    for one in sorted({*named, *listed}):
        store.delete(f"{folder}/{one}")


def unretire(store: Store, folder: str) -> None:
    """Remove a mark that retention did not make; the files it names may be gone all the same."""
    store.delete(f"{folder}/retired")


def _is_damaged(store: Store, folder: str, name: str) -> bool:
    try:
        as_it_stands(store, folder, name)
    except DamagedError as error:
        _log.error("%s", error)
        return True
    return False
