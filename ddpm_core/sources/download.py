"""Files from https, fetched once: resumed where they stopped, used only if the digest fits.

The only downloader there is: whatever a configuration names by a URL goes through `fetch`.
"""

import fcntl
import hashlib
import http
import http.client
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ddpm_core.errors import DataError, StorageError
from ddpm_core.output import printable, say
from ddpm_core.progress import Progress
from ddpm_core.sources.http_answer import RefusedError, is_final, opened, reason_of
from ddpm_core.store import durable
from ddpm_core.store.cache_folder import user_folder

_CHUNK_BYTES = 2**18
_GRACE_S = 60.0
_PATIENCE_S = 3.0
"""after which a wait for another process is said"""
_MIN_BYTES_PER_S = 2**16
MAX_UNKNOWN_BYTES = 2**40
"""A file whose length is not known beforehand is cut off here: 1 TiB."""


@dataclass(frozen=True)
class RemoteFile:
    """A file whose content is known beforehand by its digest."""

    name: str
    """its name in the cache"""
    num_bytes: int | None
    """None: not known, and at most `max_bytes`"""
    sha256: str
    urls: tuple[str, ...]
    """where it lies; the next is tried if one fails"""
    schemes: tuple[str, ...] = ("https",)
    """what a URL, and whatever it redirects to, may begin with"""
    public_only: bool = False
    """refuse hosts, also after a redirect, whose address is not one of the public Internet"""
    max_bytes: int = MAX_UNKNOWN_BYTES
    """where a file of unknown length is refused, by what its host announces"""
    key: str = "data.source"
    """the setting that takes a path instead, for the error"""
    stage: str = "shard"
    """whose progress it is"""
    by_hand: str = ""
    """what to do where no URL can be reached; "": to give the file as `key`"""


def fetch_pinned(
    url: str, sha256: str, cache: Path, *, suffix: str, max_bytes: int, key: str, stage: str
) -> Path:
    """Return the cached copy of one https file that a configuration names, with its digest.

    Nothing of another digest is ever returned, and the host is a public one after every redirect,
    each of which must be https. A download that was cut is continued by the next call; one that
    takes longer than a minute and a second for every 64 KiB is an outage.

    Args:
        url: https://...
        sha256: 64 hexadecimal digits that the file must have.
        cache: the folder for downloads, e.g. `downloads_folder()`; the file is named
            `fetched/<sha256><suffix>` in it.
        suffix: of the file's name, e.g. ".pt".
        max_bytes: a longer file is refused by the length that its host announces.
        key: the setting that names it, e.g. "evaluate.features".
        stage: shard, evaluate, ...: whose progress the download is.

    Raises:
        DataError: retrying cannot help: HTTP 4xx, another digest, too long, no public host, a
            redirect to something else than https.
        StorageError: the host does not answer, or the cache cannot be written; running again
            continues.
    """
    name = f"{sha256}{suffix}"
    file = RemoteFile(
        name, None, sha256, (url,), public_only=True, max_bytes=max_bytes, key=key, stage=stage
    )
    return fetch(file, cache / "fetched")


def downloads_folder() -> Path:
    """Return the folder for downloads: this user's cache.

    Raises:
        ConfigError: there is none that can be written.
    """
    return user_folder()


def fetch(file: RemoteFile, cache: Path) -> Path:
    """Return the path of `file` in `cache`, downloading what is missing of it.

    A download that was cut short is continued by the next call. Of several processes one
    downloads, the others wait for it.

    Raises:
        DataError: every source refuses, or has another file than the one expected.
        StorageError: a source could not be reached, or the cache not be written; running again
            continues.
    """
    path = cache / file.name
    with locked(path):
        if path.is_file() and _sha256(path) == file.sha256:
            return path
        part = path.with_name(f"{file.name}.part")
        if file.num_bytes is None and part.is_file() and _sha256(part) == file.sha256:
            return part.replace(path)  # a request for what comes after it would be an error
        problems: list[str] = []
        all_final = True
        for url in file.urls:
            shown = url.partition("?")[0]  # what follows may be a signature
            try:
                _continue(file, url, part)
            # ValueError: a URL, perhaps that of a redirect, which is none.
            except (OSError, http.client.HTTPException, ValueError) as error:
                if isinstance(error, OSError) and error.errno in durable.FULL:
                    raise  # of no URL: another would fill the disk as well
                problems.append(f"{shown}: {reason_of(error)}")
                all_final &= is_final(error)
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                        part.unlink(missing_ok=True)  # longer than the file there: of another file
                continue
            found = _sha256(part)
            if found == file.sha256:
                part.replace(path)
                return path
            part.unlink()
            problems.append(f"{shown}: SHA-256 is {found}, expected {file.sha256}")
    lines = "\n".join(f"  {problem}" for problem in problems)
    by_hand = f"download it yourself and give its path as {file.key}"
    if file.num_bytes is not None:
        by_hand = f"put the file into a folder and give that as {file.key}"
    by_hand = file.by_hand or by_hand
    if all_final:
        raise DataError(
            f"{file.name} could not be downloaded:\n{lines}\nRunning again would not help: correct "
            f"it, or {by_hand}"
        )
    raise StorageError(
        f"{file.name} could not be downloaded:\n{lines}\nRun again to continue, or {by_hand}"
    )


def _continue(file: RemoteFile, url: str, part: Path) -> None:
    """Append to `part` what it lacks.

    Raises:
        OSError: the download is incomplete; what came is kept.
    """
    have = part.stat().st_size if part.exists() else 0
    if have > (file.max_bytes if file.num_bytes is None else file.num_bytes):
        part.unlink()
        have = 0
    if have == file.num_bytes:
        return
    headers = {"User-Agent": "ddpm-pipeline"} | ({"Range": f"bytes={have}-"} if have else {})
    with opened(url, headers, schemes=file.schemes, public_only=file.public_only) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        if resumed and not _begins_at(response.headers.get("Content-Range"), have):
            part.unlink()
            raise OSError("answered with another range than was requested")
        have = have if resumed else 0
        total = file.num_bytes or _announced(response.headers.get("Content-Length"), have, file)
        durable.require_room(part, total - have)
        with part.open("ab" if resumed else "wb") as target:
            _copy(file, response, target, have, total)


def _announced(content_length: str | None, have: int, file: RemoteFile) -> int:
    """Return the length of a file that is not known beforehand, as its host announces it."""
    if content_length is None or not content_length.isdecimal():
        raise RefusedError("does not say how long the file is")
    total = have + int(content_length[:20])
    if total > file.max_bytes:
        raise RefusedError(f"announces {total} bytes; at most {file.max_bytes} are taken")
    return total


def _copy(
    file: RemoteFile, response: http.client.HTTPResponse, target: IO[bytes], have: int, total: int
) -> None:
    # A host that drips never trips the timeout of a single read: the whole has a deadline.
    deadline = time.monotonic() + _GRACE_S + (total - have) / _MIN_BYTES_PER_S
    tenth = 10 * have // max(total, 1)
    while chunk := response.read1(_CHUNK_BYTES):  # `read` would wait until all of it is there
        have += len(chunk)
        if have > total:
            target.truncate(0)
            raise OSError(f"sends more than the {total} bytes of the file")
        target.write(chunk)
        if 10 * have // total > tenth:
            tenth = 10 * have // total
            Progress(file.stage, have, total, "bytes", f"downloading {file.name}").show()
        if time.monotonic() > deadline:
            raise OSError(f"slower than {_MIN_BYTES_PER_S} bytes/s; {have} bytes are kept")
    if have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _begins_at(content_range: str | None, start: int) -> bool:
    return content_range is not None and content_range.startswith(f"bytes {start}-")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes away from `path`, whose folder is made; a long wait for one is said.

    Raises:
        StorageError: for every OSError inside, as one of writing there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as handle:
            text = f"{path.name} is being fetched by another process, in {path.parent}: waiting"
            waits = threading.Timer(_PATIENCE_S, say, (printable(text),))
            waits.start()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            finally:
                waits.cancel()
            yield
    except OSError as error:
        said = error.strerror or str(error)
        if error.errno in durable.FULL:
            said += f" ({durable.free_bytes(path.parent)} bytes are free)"
        raise StorageError(
            f"cannot write downloads to {path.parent}: {said}. Make room or make it writable, or "
            "set XDG_CACHE_HOME to a folder that is"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
