"""Shards that lie where others put them: opened where they lie, or fetched from their bucket.

Nothing protects them but what the index pinned. A shard that is another one by now is refused by
name: by its digest, or by its length and what its place says of it.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ddpm_core.errors import DataError, StorageError
from ddpm_core.loading.cache import Cache
from ddpm_core.shards.one import Located
from ddpm_core.store.foreign_bucket import ForeignBucket, bucket_and_key

_BLOCK_BYTES = 2**23
_DIGEST_BYTES = 32


def is_fetched(file: Located) -> bool:
    """Say whether a shard is kept as a copy in the local cache, which has a digest of its own."""
    return file.place.startswith("s3://")


def open_outside(file: Located, cache: Cache) -> int:
    """Return a descriptor of a shard; its SHA-256 is compared only if it had to be fetched.

    Raises:
        DataError: it is not there, or is not the one that was indexed.
        StorageError: its place does not answer, or the cache cannot be used.
    """
    if is_fetched(file):
        name = hashlib.sha256(f"{file.key}\n{file.size}\n{file.pin}".encode()).hexdigest()
        return cache.open(
            f"outside-{name}.tar",
            make=lambda descriptor: _fetch(file, descriptor),
            is_sound=lambda descriptor: _is_sound(file, descriptor),
        )
    return _open_local(file)


def open_verified(file: Located) -> int:
    """Return a descriptor of a shard, after its SHA-256 was compared, if that is its pin.

    One in a bucket is fetched for this once, and not kept.

    Raises:
        DataError, StorageError: as `open_outside`.
    """
    if is_fetched(file):
        with tempfile.TemporaryFile() as copy:
            _fetch(file, copy.fileno())
            return os.dup(copy.fileno())
    descriptor = _open_local(file)
    if file.sha256 is not None:
        digest = hashlib.sha256()
        for at in range(0, file.size, _BLOCK_BYTES):
            digest.update(os.pread(descriptor, _BLOCK_BYTES, at))
        if digest.hexdigest() != file.sha256:
            os.close(descriptor)
            raise changed(file)
    return descriptor


def changed(file: Located) -> DataError:
    """Return the error of a shard that is another one than was indexed."""
    return DataError(
        f"{file.key} is not the shard that was indexed ({file.size} bytes, {file.pin}): put that "
        "one back, or give a new run the shards as they are now"
    )


def _open_local(file: Located) -> int:
    path = Path(unquote(urlsplit(file.place).path), file.name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor)
    except FileNotFoundError:
        raise DataError(
            f"{file.key} is not there: it is used in place by this data set; put it back, or mount "
            "its folder on this machine"
        ) from None
    except OSError as error:
        raise StorageError(
            f"{file.key} cannot be opened: {error.strerror}; mend that, then run again"
        ) from None
    is_pinned = file.pin.startswith("mtime:")
    if found.st_size != file.size or (is_pinned and file.pin != f"mtime:{found.st_mtime_ns}"):
        os.close(descriptor)
        raise changed(file)
    return descriptor


def _fetch(file: Located, descriptor: int) -> None:
    """Fill a file of the cache with an object, and 32 bytes that are the digest of it."""
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
        view = memoryview(block)
        while view:
            view = view[os.write(descriptor, view) :]
    if file.sha256 not in (None, digest.hexdigest()):
        raise changed(file)
    os.write(descriptor, digest.digest())


def _blocks(file: Located) -> Iterator[bytes]:
    bucket, folder = bucket_and_key(file.place)
    key = f"{folder}/{file.name}".lstrip("/")
    objects = ForeignBucket(bucket)
    etag = file.pin.removeprefix("etag:") if file.pin.startswith("etag:") else ""
    found = next((one for one in objects.objects(key) if one.key == key), None)
    if found is None or found.size != file.size or (etag and found.etag != etag):
        raise changed(file)
    for at in range(0, file.size, _BLOCK_BYTES):
        # Of the very object that was looked at: one that is replaced meanwhile is refused.
        yield objects.read(key, at, min(_BLOCK_BYTES, file.size - at), etag=found.etag)


def _is_sound(file: Located, descriptor: int) -> bool:
    if os.fstat(descriptor).st_size != file.size + _DIGEST_BYTES:
        return False
    digest = hashlib.sha256()
    for at in range(0, file.size, _BLOCK_BYTES):
        digest.update(os.pread(descriptor, min(_BLOCK_BYTES, file.size - at), at))
    return os.pread(descriptor, _DIGEST_BYTES, file.size) == digest.digest()
