"""From what a user gives as data.source to the container that it means."""

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.images.names import is_of_a_system, quoted, reason_to_pass_over
from ddpm_core.sources.containers.bucket import BucketFolder
from ddpm_core.sources.containers.container import Container
from ddpm_core.sources.containers.fetching import fetch_object, fetch_url
from ddpm_core.sources.containers.folder import Folder
from ddpm_core.sources.containers.kinds import check_kind
from ddpm_core.sources.containers.lmdb_export import DATA_FILE, Lmdb, is_lmdb
from ddpm_core.sources.containers.local_file import LocalFile
from ddpm_core.sources.containers.shard_files import ShardFiles, is_a_shard, shards_in
from ddpm_core.sources.containers.tarred import Tar
from ddpm_core.sources.containers.unpacking import unpacked
from ddpm_core.sources.containers.zipped import Zip
from ddpm_core.store.foreign_bucket import ForeignBucket, Object, bucket_and_key

_ACCEPTED = (
    "a folder of images, a .zip, .tar, .tar.gz or .tgz of them, a folder of WebDataset shards, any "
    "of these at s3://bucket/prefix, an archive at https://, or a folder with an LMDB"
)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""how the names of archives end"""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def open_container(source: str, *, cache: Path, sha256: str | None = None) -> Container:
    """Return the container that `source` means; archives from elsewhere are fetched first.

    Args:
        source: a path, file:///path, s3://bucket/prefix, or https://host/archive.
        cache: folder for what has to be fetched or unpacked.
        sha256: what the archive must have; for https:// it must be given.

    Raises:
        ConfigError: `source` is none of these.
        DataError: there is nothing, or nothing of a kind that is read, or another archive.
        StorageError: it cannot be reached.
    """
    container = _opened(source, cache, sha256)
    container.source = {"source": source, "cache": str(cache), "sha256": sha256}
    return container


def reopen(description: Mapping[str, Any]) -> Container:
    """Return the container whose `description()` this is."""
    words = dict(description["place"])
    container = _KINDS[words.pop("kind")](**words)
    source = description["source"]
    if source is None or container.is_here():
        container.source = source
        return container
    return open_container(source["source"], cache=Path(source["cache"]), sha256=source["sha256"])


def _opened(source: str, cache: Path, sha256: str | None) -> Container:
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ConfigError("data.source_sha256 must be 64 of the digits 0-9a-f; correct it")
    if source.startswith("s3://"):
        return _from_s3(source, cache, sha256)
    if source.startswith("https://"):
        path = fetch_url(_checked_url(source), _suffix(urlsplit(source).path), cache, sha256)
        return _archive(path, cache, None, uri=source.partition("?")[0], identity=sha256)
    if source.startswith("file:///"):
        if re.search("[?#]", source):
            raise _refused(source, "; in a URI of a file, ? is written %3F and # is written %23")
        source = unquote(urlsplit(source).path)
    elif _SCHEME.match(source):
        raise _refused(source)
    if not source.strip() or "\0" in source:
        raise _refused(source)
    try:
        path = Path(source).expanduser().absolute()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a user that is not there, a name that is too long
        raise DataError(
            f"data.source={source[:300]!r} cannot be looked at: {error}; correct it, or its folder"
        ) from None
    if is_file:
        return _archive(path, cache, sha256, uri=str(path))
    if not is_folder:
        what = "is a pipe, a socket or a device" if path.exists() else "is no file or folder here"
        raise DataError(f"data.source={quoted(source)} {what}; give {_ACCEPTED}")
    if sha256 is not None:
        raise _no_digest(str(path))
    if is_lmdb(path):
        return Lmdb(path)
    shards = shards_in(path)
    return ShardFiles(shards, uri=str(path)) if shards else Folder(path)


def _archive(
    path: Path, cache: Path, sha256: str | None, *, uri: str, identity: str | None = None
) -> Container:
    """Return an archive; `identity` is what identifies the content of a copy in the cache."""
    suffix = _suffix(path.name)
    with closing(LocalFile(path)) as file:
        check_kind(suffix, path.stat().st_size, file.read_at, uri)
    tar, packed_sha256 = path, None
    if suffix in (".tar.gz", ".tgz"):
        tar, packed_sha256 = unpacked(path, cache)
        identity = packed_sha256
    if suffix == ".zip":
        container: Container = Zip(path, uri=uri)
    elif is_a_shard(tar, uri):
        folder, _, name = uri.rpartition("/")
        container = ShardFiles([(name[: -len(suffix)] + ".tar", tar)], uri=folder)
    else:
        container = Tar(tar, uri=uri)
    if sha256 is not None and (found := packed_sha256 or LocalFile(path).sha256()) != sha256:
        raise DataError(
            f"{path} has the SHA-256 {found}, data.source_sha256 says {sha256}; fetch the file "
            "again, or correct the digest"
        )
    if identity is not None:
        container.identities = {str(tar): identity}
    return container


def _from_s3(source: str, cache: Path, sha256: str | None) -> Container:
    name, key = bucket_and_key(source)
    bucket = ForeignBucket(name)
    prefix = f"{key}/" if key else ""
    is_archive = key.lower().endswith(ARCHIVES)
    bucket.check(key if is_archive else prefix)
    if is_archive:
        found = next((one for one in bucket.objects(key) if one.key == key), None)
        if found is None:
            raise DataError(f"{source} is not there; correct data.source")
        suffix = _suffix(key)
        path = fetch_object(bucket, found, suffix, cache, sha256)
        return _archive(path, cache, None, uri=source, identity=found.etag)
    if sha256 is not None:
        raise _no_digest(source)
    shards = shards_below(bucket, prefix)
    if not shards:
        return BucketFolder(name, key)
    copies = [(one, fetch_object(bucket, one, ".tar", cache, None)) for one in shards]
    container = ShardFiles(
        [(one.key.removeprefix(prefix), path) for one, path in copies], uri=source.rstrip("/")
    )
    container.identities = {str(path): one.etag for one, path in copies}
    return container


def shards_below(bucket: ForeignBucket, prefix: str) -> list[Object]:
    """Return the tars below a prefix; [] as soon as something else is there that is an image."""
    found = []
    for one in bucket.objects(prefix):
        name = one.key.removeprefix(prefix)
        if name.rpartition("/")[2] == DATA_FILE:
            raise DataError(
                f"{bucket.uri} holds an LMDB, key {quoted(one.key)}, which can only be read on a "
                "disk; copy its folder there and give that as data.source"
            )
        if reason_to_pass_over(name) is None:
            return []
        if name.endswith(".tar") and not is_of_a_system(name):
            found.append(one)
    return sorted(found)


def _suffix(path: str) -> str:
    """Return the suffix by which the kind of an archive is known."""
    for suffix in ARCHIVES:
        if path.lower().endswith(suffix):
            return suffix
    raise DataError(
        f"{quoted(path)} is no archive of a kind that is read ({', '.join(ARCHIVES)}); give "
        f"{_ACCEPTED}"
    )


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        url.encode("ascii")
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise _refused(url) from None
    if not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise _refused(url)
    return url


def _no_digest(uri: str) -> ConfigError:
    return ConfigError(
        f"data.source_sha256 is set, but {uri} is no archive: a folder has no digest; unset it"
    )


def _refused(source: str, rule: str = "") -> ConfigError:
    # What may hold a password is not repeated.
    shown = "data.source" if re.search("[@?#]", source) else f"data.source={source[:300]!r}"
    return ConfigError(
        f"{shown} is not understood{rule}; give {_ACCEPTED}, without user or password"
    )


_KINDS: Mapping[str, Callable[..., Container]] = {
    "folder": lambda path: Folder(Path(path)),
    "zip": lambda path, uri: Zip(Path(path), uri=uri),
    "tar": lambda path, uri: Tar(Path(path), uri=uri),
    "shards": lambda shards, uri: ShardFiles(
        [(name, Path(path)) for name, path in shards], uri=uri
    ),
    "bucket": BucketFolder,
    "lmdb": lambda path: Lmdb(Path(path)),
}
