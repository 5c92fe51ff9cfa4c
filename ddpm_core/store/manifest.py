"""A manifest: what was committed in a folder, read with the identity that is expected.

Without its manifest nothing exists; `commit` writes it. A folder's name claims what lies in it, and
so does the manifest's body. Every reader says what it expects; a manifest that is whole and says
something else is refused like a damaged one: a folder that was copied under another's name is not
what the name promises.
"""

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import CheckpointError
from ddpm_core.store.content import BLOCK_BYTES
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest_bytes import REMEDY as REMEDY
from ddpm_core.store.manifest_bytes import DamagedError as DamagedError
from ddpm_core.store.manifest_bytes import FileRecord as FileRecord
from ddpm_core.store.manifest_bytes import parsed
from ddpm_core.store.source import Source
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

MAX_MANIFEST_BYTES = 2**28
"""The index of a data set of ten million images has 170 MB, 17 bytes for each."""

_log = logging.getLogger(__name__)


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
        record = self._record(store, role)
        key = f"{self.folder}/{record.name}"
        # A second read distinguishes a bit flipped on the way from one flipped in the store.
        for checked in (False, True):
            try:
                data = store.read(key, at_most=record.size, checked=checked)
            except KeyMissingError:
                raise _missing(store, key, record) from None
            if len(data) == record.size and sha256_of(data) == record.sha256:
                return data
        raise _damaged(store, key, record, len(data), sha256_of(data))

    def read_through(
        self, store: Store, role: str, use: Callable[[io.BufferedIOBase], object]
    ) -> None:
        """Read the file in `role` block by block, for what is too long to be in memory twice.

        Args:
            store: where.
            role: which file.
            use: called with the file at its beginning, once more if it is read again. What it took
                counts when this returns: only then are the bytes known to be what was committed.
                Its CheckpointError is raised if they are.

        Raises:
            DamagedError: missing, of another length, or of another SHA-256.
            CheckpointError: of `use`.
            StorageError: the storage does not answer.
        """
        record = self._record(store, role)
        key = f"{self.folder}/{record.name}"
        # A second read distinguishes a bit flipped on the way from one flipped in the store.
        for _ in range(2):
            source, problem = Source(store, key, record.size), None
            file = io.BufferedReader(source, min(BLOCK_BYTES, record.size + 1))
            try:
                use(file)
                source.exhaust()
            except KeyMissingError:
                raise _missing(store, key, record) from None
            except CheckpointError as error:
                problem = error
                source.exhaust()
            if source.size == record.size and source.digest.hexdigest() == record.sha256:
                if problem is not None:
                    raise problem
                return
        raise _damaged(store, key, record, source.size, source.digest.hexdigest())

    def _record(self, store: Store, role: str) -> FileRecord:
        if role not in self.files:
            raise DamagedError(
                f"{store.uri_of(self.folder)} has no {role!r}; it has {', '.join(self.files)}"
            )
        return self.files[role]

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
            self.read_through(store, role, lambda _file: None)


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
    if store.exists(quarantine_key(folder, name)):
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
    # Read again: another process may have made it again meanwhile.
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


def load_marked(store: Store, folder: str, expected: Expected) -> Manifest | None:
    """Return the manifest of a folder, also if it is retired or quarantined; None if none is there.

    Raises:
        DamagedError: the manifest is not the one that was committed, or not the expected one.
        StorageError: the storage does not answer.
    """
    try:
        found = as_it_stands(store, folder, "manifest.json")
    except KeyMissingError:
        return None
    _require(store, found, "manifest.json", expected)
    return found


def is_retired(store: Store, folder: str) -> bool:
    """Say whether retention has marked `folder`, whose files may be gone."""
    return store.exists(f"{folder}/retired")


def quarantine(store: Store, folder: str, what: str, *, name: str = "manifest.json") -> None:
    """Quarantine a manifest: `load` ignores it from now on; `what` says why, for people.

    A later commit of the same folder and name lifts it.
    """
    _log.error("quarantined %s: %s", store.uri_of(f"{folder}/{name}"), what)
    store.write(quarantine_key(folder, name), canonical_json({"what": what}))


def quarantine_key(folder: str, name: str) -> str:
    """Return the key of the mark that has `load` pass over a manifest."""
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


def _damaged(store: Store, key: str, record: FileRecord, size: int, sha256: str) -> DamagedError:
    length = f"over {record.size}" if size > record.size else str(size)
    return DamagedError(
        f"{store.uri_of(key)} is damaged: expected {record.size} bytes, SHA-256 {record.sha256}; "
        f"found {length} bytes, SHA-256 {sha256}; {REMEDY}"
    )


def as_it_stands(store: Store, folder: str, name: str) -> Manifest:
    """Return a manifest, whatever it says and however it is marked.

    Raises:
        KeyMissingError: there is none.
        DamagedError: it is not the one that was committed.
        StorageError: the storage does not answer.
    """
    return _parsed(store, folder, name, store.read(f"{folder}/{name}", at_most=MAX_MANIFEST_BYTES))


def _parsed(store: Store, folder: str, name: str, data: bytes) -> Manifest:
    key = f"{folder}/{name}"
    try:
        return parse(folder, data, origin=store.uri_of(key))
    except DamagedError:
        # A second read distinguishes a bit flipped on the way from one flipped in the store.
        data = store.read(key, at_most=MAX_MANIFEST_BYTES)
        return parse(folder, data, origin=store.uri_of(key))


def parse(folder: str, data: bytes, *, origin: str) -> Manifest:
    """Return the manifest in `data`, which must be the very bytes that `commit` writes."""
    body, files = parsed(data, at_most=MAX_MANIFEST_BYTES, origin=origin)
    return Manifest(folder, body, files)
