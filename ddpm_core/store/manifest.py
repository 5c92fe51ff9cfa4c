"""The commit protocol: content-named files, then a manifest that is put only if absent.

Without its manifest nothing exists. A manifest holds nothing of the moment, so two writers of
the same thing write the same bytes and a late one does no harm; retention marks `retired`
before it deletes and keeps the manifest, so that a late one cannot bring back what is going.

A folder's name claims what lies in it, and so does the manifest's body. Every reader says what it
expects; a manifest that is whole and says something else is refused like a damaged one: a folder
that was copied under another's name is not what the name promises.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import CheckpointError, RunConflictError
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 2**28
"""The index of a data set of ten million images has 170 MB, 17 bytes for each."""

_log = logging.getLogger(__name__)
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,199}")
_CONTENT_NAME = re.compile(r".+-[0-9a-f]{16}(\.[A-Za-z0-9.]+)?")
_SHOWN = 200  # characters of a value in a message
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MARKERS_TEXT = b"see ddpm_core/manifest.py\n"
REMEDY = (
    "restore this very file, or delete it and run the stage that made it again, which makes it anew"
)
"""what to do about a damaged file"""


class DamagedError(CheckpointError):
    """Committed bytes are not what was committed; the message names file, expected and found.

    Or they are whole and something else's. Either way the stage that made them sets them aside
    and makes them again.
    """


@dataclass(frozen=True)
class Expected:
    """What a manifest must say of itself to be the one that is read."""

    body: Mapping[str, Any]
    """keys of the body, each with its value"""
    if_written: Mapping[str, Any] = field(default_factory=dict)
    """keys that earlier versions did not write: compared where they are there"""

    def refusal(self, body: Mapping[str, Any]) -> str | None:
        """Return how `body` differs, both identities in words; None if it is the expected one."""
        required = dict(_differences(self.body, body))
        written = {key: value for key, value in self.if_written.items() if key in body}
        found = [*required.items(), *_differences(written, body)]
        return "; ".join(text for _, text in found) or None


@dataclass(frozen=True)
class FileRecord:
    """A file of a manifest: its name in the folder, length in bytes, and SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was committed in `folder`: `body` says what it is, `files` maps roles to files."""

    folder: str
    body: dict[str, Any]
    files: dict[str, FileRecord]

    def read(self, store: Store, role: str) -> bytes:
        """Return the bytes of the file in `role`, verified.

        Raises:
            DamagedError: missing, of another length, or of another SHA-256.
            StorageError: the storage does not answer.
        """
        if role not in self.files:
            raise DamagedError(
                f"{store.uri_of(self.folder)} has no {role!r}; it has {', '.join(self.files)}"
            )
        record = self.files[role]
        key = f"{self.folder}/{record.name}"
        # A second look tells a flipped bit on the way from one that stays.
        for checked in (False, True):
            try:
                data = store.read(key, at_most=record.size, checked=checked)
            except KeyMissingError:
                raise _missing(store, key, record) from None
            if len(data) == record.size and sha256_of(data) == record.sha256:
                return data
        length = f"over {record.size}" if len(data) > record.size else str(len(data))
        raise DamagedError(
            f"{store.uri_of(key)} is damaged: expected {record.size} bytes, SHA-256 "
            f"{record.sha256}; found {length} bytes, SHA-256 {sha256_of(data)}; {REMEDY}"
        )

    def require_sizes(self, store: Store, sizes: Mapping[str, int] | None = None) -> None:
        """Refuse a folder in which a file is missing or has another length; reads no file.

        Args:
            store: where.
            sizes: `store.sizes` of the folder, where the caller has it.

        Raises:
            DamagedError: the first such file.
            StorageError: the storage does not answer.
        """
        sizes = store.sizes(self.folder) if sizes is None else sizes
        for record in self.files.values():
            key = f"{self.folder}/{record.name}"
            found = sizes.get(record.name)
            if found is None:
                raise _missing(store, key, record)
            if found != record.size:
                raise DamagedError(
                    f"{store.uri_of(key)} is damaged: expected {record.size} bytes, found {found}; "
                    f"{REMEDY}"
                )

    def require_bytes(self, store: Store) -> None:
        """Read every file and refuse one that is not what was committed.

        Raises:
            DamagedError: the first such file.
            StorageError: the storage does not answer.
        """
        for role in self.files:
            self.read(store, role)


def content_name(stem: str, sha256: str, suffix: str) -> str:
    """Return `stem-<first 16 digits of the SHA-256>suffix`; `suffix` starts with a dot."""
    return f"{stem}-{sha256[:16]}{suffix}"


def is_content_name(name: str) -> bool:
    """Say whether a file of this name was written by `write_file`: it is no manifest."""
    return _CONTENT_NAME.fullmatch(name) is not None


def write_file(store: Store, folder: str, stem: str, suffix: str, data: bytes) -> FileRecord:
    """Put `data` below `folder` under its content name; it counts once a manifest names it."""
    # Taken once: a digest of 200 MB costs a quarter of a second, in which every rank waits.
    sha256 = sha256_of(data)
    record = FileRecord(content_name(stem, sha256, suffix), len(data), sha256)
    store.write(f"{folder}/{record.name}", data, sha256=sha256)
    return record


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
    manifest = _parse(folder, data, origin=store.uri_of(key))
    quarantined = store.exists(_quarantine_key(folder, name))
    try:
        store.create(key, data)
    except RunConflictError:
        if not quarantined and not _is_damaged(store, folder, name):
            raise
        _log.warning("replacing the damaged manifest %s", store.uri_of(key))
        store.write(key, data)
    if quarantined:
        store.delete(_quarantine_key(folder, name))
    return manifest


def load(
    store: Store, folder: str, expected: Expected, *, name: str = "manifest.json"
) -> Manifest | None:
    """Return what was committed in `folder`, or None: nothing was, or retired or quarantined.

    Raises:
        DamagedError: the manifest is not the one that was committed, or not the expected one.
        CheckpointError: a newer version of this program wrote it.
        StorageError: the storage does not answer; never read as None.
    """
    key = f"{folder}/{name}"
    try:
        data = store.read(key, at_most=MAX_MANIFEST_BYTES)
    except KeyMissingError:
        return None
    if is_retired(store, folder):
        return None
    if store.exists(_quarantine_key(folder, name)):
        _log.warning("%s is quarantined: passed over", store.uri_of(key))
        return None
    found = _parsed(store, folder, name, data)
    _require(store, found, name, expected)
    return found


def intact(
    store: Store,
    folder: str,
    expected: Expected,
    *,
    check: Callable[[Manifest, Store], None] = Manifest.require_bytes,
    name: str = "manifest.json",
) -> Manifest | None:
    """Return what was committed in `folder` if it is the expected and whole, else None.

    What is damaged or something else's is quarantined, which is logged: making it again
    replaces it.

    Args:
        store: where.
        folder: of the files.
        expected: what the manifest must say of itself.
        check: how closely the files are looked at: `Manifest.require_bytes` reads them all,
            `Manifest.require_sizes` lists them.
        name: file name of the manifest.

    Raises:
        CheckpointError: a newer version of this program wrote it.
        StorageError: the storage does not answer; never read as None.
    """
    # A second look: somebody may have made it again while the first one was reading.
    for _ in range(2):
        try:
            found = load(store, folder, expected, name=name)
            if found is not None:
                check(found, store)
        except DamagedError as error:
            reason = str(error)
        else:
            return found
    quarantine(store, folder, reason, name=name)
    return None


def retire(store: Store, folder: str) -> None:
    """Mark what was committed in `folder` as `retired`, then delete its files, not the manifest.

    Dying in between is fine: retiring again finishes it. Without a manifest nothing happens.
    """
    try:
        named = [record.name for record in _read(store, folder, "manifest.json").files.values()]
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


def load_marked(store: Store, folder: str, expected: Expected) -> Manifest | None:
    """Return the manifest of a folder, also if it is retired or quarantined; None if none is there.

    Raises:
        DamagedError: the manifest is not the one that was committed, or not the expected one.
        StorageError: the storage does not answer.
    """
    try:
        found = _read(store, folder, "manifest.json")
    except KeyMissingError:
        return None
    _require(store, found, "manifest.json", expected)
    return found


def is_retired(store: Store, folder: str) -> bool:
    """Say whether retention has marked `folder`, whose files may be gone."""
    return store.exists(f"{folder}/retired")


def unretire(store: Store, folder: str) -> None:
    """Remove a mark that retention did not make; the files it names may be gone all the same."""
    store.delete(f"{folder}/retired")


def quarantine(store: Store, folder: str, what: str, *, name: str = "manifest.json") -> None:
    """Have `load` pass over this manifest from now on; `what` says why, for people.

    A later commit of the same folder and name lifts it.
    """
    _log.error("quarantined %s: %s", store.uri_of(f"{folder}/{name}"), what)
    store.write(_quarantine_key(folder, name), canonical_json({"what": what}))


def _quarantine_key(folder: str, name: str) -> str:
    stem = name.removesuffix(".json")
    return (
        f"{folder}/quarantined.json" if stem == "manifest" else f"{folder}/{stem}.quarantined.json"
    )


def _require(store: Store, found: Manifest, name: str, expected: Expected) -> None:
    if (refusal := expected.refusal(found.body)) is not None:
        where = store.uri_of(f"{found.folder}/{name}")
        raise DamagedError(f"{where} is something else's: {refusal}; {REMEDY}")


def _missing(store: Store, key: str, record: FileRecord) -> DamagedError:
    return DamagedError(
        f"{store.uri_of(key)} is missing; its manifest promises {record.size} bytes, SHA-256 "
        f"{record.sha256}; {REMEDY}"
    )


def _differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield (key, both values in words) of each key whose value is another."""
    for key, wanted in expected.items():
        value = found.get(key)
        if isinstance(wanted, Mapping) and isinstance(value, Mapping):
            every = {**dict.fromkeys(value), **wanted}
            yield from _differences(every, value, f"{prefix}{key}.")
        elif value != wanted or type(value) is not type(wanted):
            yield f"{prefix}{key}", f"{prefix}{key} is {_shown(value)}, expected {_shown(wanted)}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_damaged(store: Store, folder: str, name: str) -> bool:
    try:
        _read(store, folder, name)
    except DamagedError as error:
        _log.error("%s", error)
        return True
    return False


def _read(store: Store, folder: str, name: str) -> Manifest:
    return _parsed(store, folder, name, store.read(f"{folder}/{name}", at_most=MAX_MANIFEST_BYTES))


def _parsed(store: Store, folder: str, name: str, data: bytes) -> Manifest:
    key = f"{folder}/{name}"
    try:
        return _parse(folder, data, origin=store.uri_of(key))
    except DamagedError:
        # A second look tells a flipped bit on the way from one that stays.
        data = store.read(key, at_most=MAX_MANIFEST_BYTES)
        return _parse(folder, data, origin=store.uri_of(key))


def _parse(folder: str, data: bytes, *, origin: str) -> Manifest:
    """Return the manifest in `data`, which must be the very bytes that `commit` writes."""

    def damaged(expected: str, found: str) -> DamagedError:
        return DamagedError(f"{origin} is damaged: expected {expected}, found {found}; {REMEDY}")

    if len(data) > MAX_MANIFEST_BYTES:
        raise damaged(f"at most {MAX_MANIFEST_BYTES} bytes", "more")
    try:
        values: dict[str, Any] = dict(json.loads(data))
        digest = values.pop("digest", None)
        found = sha256_of(canonical_json(values))
        rewritten = canonical_json({**values, "digest": digest})
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged("a JSON object", f"{len(data)} bytes: {str(error)[:200]}") from None
    # Equal bytes, not equal values: no second key of the same name, no NaN, no other spelling.
    if digest != found or rewritten != data:
        raise damaged(f"digest {str(digest)[:64]}", found)
    if values.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{origin} has format {values.get('format')!r}; this program reads "
            f"{FORMAT_VERSION}: use the version of the program that wrote it"
        )
    if set(values) != {"body", "files", "format"} or not isinstance(values["body"], dict):
        raise damaged("body, files and format", ", ".join(sorted(values)))
    files = values["files"]
    if not isinstance(files, dict) or not all(_is_record(record) for record in files.values()):
        raise damaged("files with name, size and sha256", repr(files)[:200])
    return Manifest(
        folder, values["body"], {role: FileRecord(**record) for role, record in files.items()}
    )


def _is_record(record: object) -> bool:
    return (
        isinstance(record, dict)
        and set(record) == {"name", "size", "sha256"}
        and isinstance(record["name"], str)
        and _FILE_NAME.fullmatch(record["name"]) is not None
        and type(record["size"]) is int
        and record["size"] >= 0
        and isinstance(record["sha256"], str)
        and _SHA256.fullmatch(record["sha256"]) is not None
    )
