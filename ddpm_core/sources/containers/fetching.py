"""Archives from elsewhere, fetched once into the cache: continued where they were cut."""

import hashlib
import os
from functools import partial
from pathlib import Path

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.images.names import quoted
from ddpm_core.progress import Progress
from ddpm_core.sources.containers.kinds import check_kind
from ddpm_core.sources.download import MAX_UNKNOWN_BYTES, fetch_pinned, locked
from ddpm_core.store.durable import require_room
from ddpm_core.store.foreign_bucket import ForeignBucket, Object

_PART_BYTES = 2**25


def fetch_url(url: str, suffix: str, cache: Path, sha256: str | None) -> Path:
    """Return the cached file of an https:// URL, checked by its digest.

    Raises:
        ConfigError: no digest is given.
        DataError: it has another one.
        StorageError: it cannot be fetched; running again continues.
    """
    if sha256 is None:
        raise ConfigError(
            "data.source is a URL, and data.source_sha256 is not set: what comes from the Internet "
            "is used only if its SHA-256 is known. Take it from whoever publishes the file"
        )
    return fetch_pinned(
        url,
        sha256,
        cache,
        suffix=suffix,
        max_bytes=MAX_UNKNOWN_BYTES,
        key="data.source",
        stage="shard",
    )


def fetch_object(
    bucket: ForeignBucket, found: Object, suffix: str, cache: Path, sha256: str | None
) -> Path:
    """Return the cached copy of an object, whole.

    It is named by its place, length and ETag: an object that is replaced is fetched again.

    Raises:
        DataError: it is no archive of the kind that `suffix` says, changes meanwhile, or has
            another digest than `sha256`.
        StorageError: it cannot be fetched, or the cache not be written; running again continues.
    """
    place = hashlib.sha256(repr((bucket.uri, *found)).encode()).hexdigest()
    path = cache / "fetched" / f"{place}{suffix}"
    with locked(path):
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            if not part.is_file():
                read_at = partial(bucket.read, found.key, etag=found.etag)
                check_kind(suffix, found.size, read_at, f"{bucket.uri}/{found.key}")
            _continue(bucket, found, part)
            part.replace(path)
    if sha256 is not None:
        _check(path, f"{bucket.uri}/{found.key}", sha256)
    return path


def _continue(bucket: ForeignBucket, found: Object, part: Path) -> None:
    with part.open("ab") as target:
        have = target.tell()
        if have > found.size:
            have = target.truncate(0)
        require_room(part, found.size - have)
        while have < found.size:
            size = min(_PART_BYTES, found.size - have)
            target.write(bucket.read(found.key, have, size, etag=found.etag))
            have += size
            if 10 * have // found.size > 10 * (have - size) // found.size:
                note = f"fetching {quoted(found.key.rpartition('/')[2])}"
                Progress("shard", have, found.size, "bytes", note).show()
        target.flush()
        os.fsync(target.fileno())


def _check(path: Path, uri: str, sha256: str) -> None:
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    if digest != sha256:
        path.unlink()
        raise DataError(
            f"{uri} has the SHA-256 {digest}, data.source_sha256 says {sha256}; correct one of them"
        )
