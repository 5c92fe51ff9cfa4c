"""Which tars are used in place: those of a folder or bucket, of a numbered pattern, of a wids list.

    /data/laion                       all .tar in it and one folder below
    /data/laion/{000000..009999}.tar  the numbers of a pattern; other shards are not looked at
    s3://bucket/laion, s3://bucket/laion/{000000..009999}.tar
    /data/laion/index.json            `wids`' list: {"shardlist": [{"url", "nsamples", ...}]}, and
                                      {"datasets": [{"source_url"} or {"shardlist", "base"}]}

What each of them is pinned by, unless its bytes are read: its length, and the ETag that its bucket
or the time of the last change that its disk gives it.
"""

import json
import posixpath
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.images.names import is_of_a_system, quoted
from ddpm_core.shards.one import Located
from ddpm_core.store.foreign_bucket import ForeignBucket, bucket_and_key

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_MAX_SHARDS = 10**7
_SETTLED_S = 2.0  # the clock of FAT, the coarsest
_MAX_LIST_BYTES = 2**31
_FORMS = (
    "a folder of tars, a tar, a pattern such as /data/{000000..000999}.tar, or the JSON list of "
    "wids; on a disk, or s3://bucket/..."
)


class Listed(NamedTuple):
    """A shard that is to be used, as its list says."""

    file: Located
    """pinned by what its place says of it"""
    num_samples: int | None
    md5: str | None
    mark: str
    """what else changes with it: the inode and its time; "" of an object, whose ETag says all"""
    is_settled: bool
    """whether it changed long enough ago for its time to show the next change"""


@dataclass(frozen=True)
class _Given:
    """A shard by its path or URI, before it is looked at."""

    where: str
    num_samples: int | None = None
    md5: str | None = None
    size: int | None = None


def list_shards(source: str) -> list[Listed]:
    """Return the shards that `data.source` names, in the order of their names or of their list.

    Raises:
        ConfigError: it is nothing that can be used in place.
        DataError: one of them is not there, or there is none; or the list is none of wids'.
        StorageError: the place does not answer.
    """
    if source.startswith("file:///"):
        source = unquote(urlsplit(source).path)
    is_remote = source.startswith("s3://")
    if not is_remote and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", source):
        raise ConfigError(f"data.in_place=True, and data.source={source[:300]!r}; give {_FORMS}")
    if _RANGE.search(source):
        given = [_Given(one) for one in expanded(source)]
    elif source.lower().endswith(".json"):
        given = list(_of_wids(source))
        if not given:
            raise DataError(f"data.source={quoted(source)} names no shard; give {_FORMS}")
    else:
        found = _in_bucket(source) if is_remote else _in_folder(Path(source).expanduser())
        if not found:
            raise DataError(f"data.source={quoted(source)} holds no .tar; give {_FORMS}")
        return found
    return _looked_at(given)


def expanded(pattern: str) -> Iterator[str]:
    """Yield what a pattern stands for: each `{first..last}` by its numbers, as long as `first`.

    Raises:
        ConfigError: the last number is below the first, or they are over 10^7 names.
    """
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, width = int(found[1]), int(found[2]), len(found[1])
    if not first <= last < first + _MAX_SHARDS:
        raise ConfigError(
            f"data.source={pattern[:300]!r}: {found[0]} must rise, by at most {_MAX_SHARDS} names"
        )
    for number in range(first, last + 1):
        head, tail = pattern[: found.start()], pattern[found.end() :]
        yield from expanded(f"{head}{number:0{width}d}{tail}")


def _of_wids(source: str) -> Iterator[_Given]:
    """Yield the shards of a list, and those of the lists that it names or holds, as wids does."""
    described, folder = _described(source), source.rpartition("/")[0]
    with _as_list_error(source):
        yield from _shards_of(described, folder, required="datasets" not in described)
        components = [dict(one) for one in described.get("datasets", [])]
    for component in components:
        url = component.get("source_url")
        if url is None:
            with _as_list_error(source):
                base = _joined(folder, str(component["base"])) if "base" in component else folder
                yield from _shards_of(component, base)
            continue
        with _as_list_error(source):
            other = _joined(folder, str(url))
        of_other = _described(other)
        with _as_list_error(other):
            yield from _shards_of(of_other, other.rpartition("/")[0])


def _described(source: str) -> dict[str, Any]:
    data = _list_bytes(source)
    with _as_list_error(source):
        described = dict(json.loads(data))
        if described.get("wids_version", 1) != 1:
            raise ValueError(f"wids_version is {described['wids_version']!r:.20}, 1 is known")
    return described


@contextmanager
def _as_list_error(source: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"data.source={quoted(source)} is no list of shards of wids: it must hold "
            f'{{"shardlist": [{{"url": ..., "nsamples": ...}}]}}; {type(error).__name__} {error}'
        ) from None


def _shards_of(described: dict[str, Any], folder: str, *, required: bool = True) -> list[_Given]:
    """Return the shards of one description, whose urls are relative to `folder`."""
    listed = described["shardlist"] if required else described.get("shardlist", [])
    return [_given(dict(one), folder) for one in listed[:_MAX_SHARDS]]


def _given(entry: dict[str, Any], folder: str) -> _Given:
    url, count, md5 = str(entry["url"]), entry.get("nsamples"), entry.get("md5sum")
    size = entry.get("filesize")
    for name, number in (("nsamples", count), ("filesize", size)):
        if number is not None and (type(number) is not int or number < 0):
            raise TypeError(f"{name} of {url[:100]!r} is {number!r:.100}")
    if md5 is not None and not re.fullmatch(r"[0-9a-f]{32}", str(md5)):
        raise TypeError(f"md5sum of {url[:100]!r} is {md5!r:.100}")
    return _Given(_joined(folder, url), count, md5, size)


def _joined(folder: str, url: str) -> str:
    """Return the path or s3:// URI of a url of a list that lies in `folder`."""
    if url.startswith("file:///"):
        return unquote(urlsplit(url).path)
    if url.startswith(("s3://", "/")):
        return url
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url):
        raise ValueError(f"{url[:100]!r} lies neither on a disk nor in s3://")
    if folder.startswith("s3://"):  # a bucket knows no dots
        return "s3://" + posixpath.normpath(f"{folder.removeprefix('s3://')}/{url}")
    return f"{folder}/{url}"


def _list_bytes(source: str) -> bytes:
    if source.startswith("s3://"):
        bucket, key = bucket_and_key(source)
        found = next((one for one in ForeignBucket(bucket).objects(key) if one.key == key), None)
        if found is None or not found.size:
            raise DataError(f"{source} is not there, or empty; correct data.source")
        return ForeignBucket(bucket).read(key, 0, min(found.size, _MAX_LIST_BYTES))
    try:
        with Path(source).expanduser().open("rb") as file:
            return file.read(_MAX_LIST_BYTES)
    except OSError as error:
        raise DataError(
            f"data.source={quoted(source)} cannot be read: {error.strerror}; correct it"
        ) from None


def _looked_at(given: list[_Given]) -> list[Listed]:
    """Return shards that are named one by one, with what their places say of them."""
    in_buckets: dict[str, dict[str, Listed]] = {}
    found = []
    for one in given:
        if not one.where.startswith("s3://"):
            path = Path(one.where).expanduser().absolute()
            shard = _local(path.parent, path.name)
        else:
            folder, _, name = one.where.rpartition("/")
            if folder not in in_buckets:  # one listing of a folder, not a request for each shard
                listed = _in_bucket(folder) if folder != "s3:/" else []
                in_buckets[folder] = {each.file.name: each for each in listed}
            if name not in in_buckets[folder]:
                raise DataError(f"{one.where} is not there; correct data.source")
            shard = in_buckets[folder][name]
        if one.size not in (None, shard.file.size):
            raise DataError(
                f"{quoted(one.where)} has {shard.file.size} bytes, and its list says filesize="
                f"{one.size}; fetch it again, or make the list again"
            )
        found.append(shard._replace(num_samples=one.num_samples, md5=one.md5))
    return found


def _in_folder(root: Path) -> list[Listed]:
    root = root.absolute()
    if root.is_file() and root.suffix == ".tar":
        return [_local(root.parent, root.name)]
    try:
        folders = [root, *sorted(one for one in root.iterdir() if one.is_dir())]
        names = [
            one.relative_to(root).as_posix()
            for folder in folders
            if folder == root or not (folder.is_symlink() or is_of_a_system(folder.name))
            for one in folder.iterdir()
            if one.name.endswith(".tar") and not is_of_a_system(one.name)
        ]
    except OSError as error:
        raise DataError(
            f"data.source={quoted(str(root))} cannot be listed: {error.strerror}; give {_FORMS}"
        ) from None
    return [_local(root, name) for name in sorted(names)]


def _local(folder: Path, name: str) -> Listed:
    path = folder / name
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(f"{quoted(str(path))} is not there; correct data.source") from None
    except OSError as error:
        raise StorageError(
            f"cannot look at {quoted(str(path))}: {error.strerror}; mend that, then run again"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{quoted(str(path))} is no file; correct data.source")
    # A symbolic link to the same folder is another place of the same shards.
    pin = f"mtime:{found.st_mtime_ns}"
    file = Located(f"file://{quote(str(folder))}", name, found.st_size, pin)
    is_settled = max(found.st_mtime, found.st_ctime) < time.time() - _SETTLED_S
    return Listed(file, None, None, f"{found.st_ino}:{found.st_ctime_ns}", is_settled)


def _in_bucket(source: str) -> list[Listed]:
    bucket, key = bucket_and_key(source)
    objects = ForeignBucket(bucket)
    if key.endswith(".tar"):
        folder, _, name = key.rpartition("/")
    else:
        folder, name = key, ""
    prefix = f"{folder}/" if folder else ""
    place = f"s3://{bucket}/{folder}".rstrip("/")
    found = []
    for one in objects.objects(prefix + name):
        rest = one.key.removeprefix(prefix)
        is_shard = rest.endswith(".tar") and rest.count("/") <= 1 and not is_of_a_system(rest)
        if not is_shard or (name and rest != name):
            continue
        if not one.etag:
            raise DataError(
                f"{place}: the server gives no ETag for {quoted(rest)}, so that nothing shows "
                "whether it changes; give data.pin=sha256"
            )
        file = Located(place, rest, one.size, f"etag:{one.etag}")
        found.append(Listed(file, None, None, "", is_settled=True))
    return sorted(found, key=lambda shard: shard.file.name.encode("utf-8", "surrogateescape"))
