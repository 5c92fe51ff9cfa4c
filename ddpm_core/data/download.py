"""Published files, fetched once: resumed where it stopped, used only if the digest fits."""

import fcntl
import hashlib
import http
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ddpm_core.data.public_hosts import PublicHosts
from ddpm_core.errors import DataError, StorageError
from ddpm_core.progress import Progress

_CHUNK_BYTES = 2**18
_SILENCE_S = 30.0
_GRACE_S = 60.0
_MIN_BYTES_PER_S = 2**16
_MAX_REDIRECTS = 3
MAX_UNKNOWN_BYTES = 2**40
"""A file whose length is not known beforehand is cut off here: 1 TiB."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file whose content is known beforehand."""

    name: str
    """its name in the cache"""
    num_bytes: int | None
    """None: not known, and at most `MAX_UNKNOWN_BYTES`"""
    sha256: str
    urls: tuple[str, ...]
    """where it lies; the next is asked if one fails"""
    schemes: tuple[str, ...] = ("https",)
    """what a URL, and whatever it redirects to, may begin with"""
    public_only: bool = False
    """refuse hosts, also after a redirect, whose address is not one of the public Internet"""


def fetch(file: RemoteFile, cache: Path) -> Path:
    """Return the path of `file` in `cache`, downloading what is missing of it.

    A download that was cut short is continued by the next call. Of several processes one
    downloads, the others wait for it.

    Raises:
        DataError: every source has another file than the one expected.
        StorageError: a source could not be reached, or the cache not be written; running again
            continues.
    """
    path = cache / file.name
    with locked(path):
        if path.is_file() and _sha256(path) == file.sha256:
            return path
        part = path.with_name(f"{file.name}.part")
        if file.num_bytes is None and part.is_file() and _sha256(part) == file.sha256:
            return part.replace(path)  # asked for what comes after it, hosts answer with an error
        problems: list[str] = []
        reachable = 0
        for url in file.urls:
            shown = url.partition("?")[0]  # what follows may be a signature
            try:
                _continue(file, url, part)
            except urllib.error.HTTPError as error:
                problems.append(f"{shown}: {error}")
                error.close()
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    part.unlink()  # longer than the file there: of another file
                continue
            # ValueError: a URL, perhaps that of a redirect, which is none.
            except (OSError, http.client.HTTPException, ValueError) as error:
                problems.append(f"{shown}: {error or type(error).__name__}")
                continue
            reachable += 1
            found = _sha256(part)
            if found == file.sha256:
                part.replace(path)
                return path
            part.unlink()
            problems.append(f"{shown}: SHA-256 is {found}, expected {file.sha256}")
    kind = DataError if reachable == len(file.urls) else StorageError
    lines = "\n".join(f"  {problem}" for problem in problems)
    raise kind(
        f"{file.name} could not be downloaded:\n{lines}\n"
        "Run again to continue, or put the file into a folder and give that as data.source"
    )


def _continue(file: RemoteFile, url: str, part: Path) -> None:
    """Append to `part` what it lacks.

    Raises:
        OSError: it could not be had whole; what came is kept.
    """
    have = part.stat().st_size if part.exists() else 0
    if have > (MAX_UNKNOWN_BYTES if file.num_bytes is None else file.num_bytes):
        part.unlink()
        have = 0
    if have == file.num_bytes:
        return
    _check_scheme(file, url)
    request = urllib.request.Request(url, headers={"User-Agent": "ddpm-pipeline"})  # noqa: S310 - checked
    if have:
        request.add_header("Range", f"bytes={have}-")
    checked = [PublicHosts()] if file.public_only else []
    opener = urllib.request.build_opener(_Redirects(file), *checked)
    with opener.open(request, timeout=_SILENCE_S) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        if resumed and not _begins_at(response.headers.get("Content-Range"), have):
            part.unlink()
            raise OSError("answered with another range than was asked for")
        have = have if resumed else 0
        total = file.num_bytes or _announced(response.headers.get("Content-Length"), have)
        with part.open("ab" if resumed else "wb") as target:
            _copy(file.name, response, target, have, total)


def _announced(content_length: str | None, have: int) -> int:
    """Return the length of a file that is not known beforehand, as its host announces it."""
    if content_length is None or not content_length.isdecimal():
        raise OSError("does not say how long the file is")
    total = have + int(content_length)
    if total > MAX_UNKNOWN_BYTES:
        raise OSError(f"announces {total} bytes; at most {MAX_UNKNOWN_BYTES} are taken")
    return total


def _copy(
    name: str, response: http.client.HTTPResponse, target: IO[bytes], have: int, total: int
) -> None:
    # A host that drips never trips the timeout of a single read: the whole has a deadline.
    deadline = time.monotonic() + _GRACE_S + total / _MIN_BYTES_PER_S
    tenth = 10 * have // max(total, 1)
    while chunk := response.read1(_CHUNK_BYTES):  # `read` would wait until all of it is there
        have += len(chunk)
        if have > total:
            target.truncate(0)
            raise OSError(f"sends more than the {total} bytes of the file")
        target.write(chunk)
        if 10 * have // total > tenth:
            tenth = 10 * have // total
            Progress("shard", have, total, "bytes", f"downloading {name}").show()
        if time.monotonic() > deadline:
            raise OSError(f"slower than {_MIN_BYTES_PER_S} bytes/s; {have} bytes are kept")
    if have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _MAX_REDIRECTS

    def __init__(self, file: RemoteFile) -> None:
        self._file = file

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,  # noqa: ANN401 - urllib's signature
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_scheme(self._file, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(file: RemoteFile, url: str) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in file.schemes:
        raise urllib.error.URLError(f"{scheme}:// is not allowed, only {', '.join(file.schemes)}")


def _begins_at(content_range: str | None, start: int) -> bool:
    return content_range is not None and content_range.startswith(f"bytes {start}-")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes away from `path`, whose folder is made.

    Raises:
        StorageError: for every OSError inside, as one of writing there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StorageError(
            f"cannot write downloads to {path.parent}: {error}. Make room or make it writable, or "
            "set XDG_CACHE_HOME to a folder that is"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
