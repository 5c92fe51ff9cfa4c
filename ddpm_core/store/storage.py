"""A store by its URI, on a disk or in S3.

One set of options for all of S3, in `s3`; how an operation tries again is in `s3_operation`.
The `isfile`, `isdir` and `exists` of s3fs are not used: they answer False during an outage.
"""

import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, final

from ddpm_core.errors import StorageError
from ddpm_core.store.content import Content, sha256_of
from ddpm_core.store.disk import LocalStore
from ddpm_core.store.root import bucket_and_prefix, local_root
from ddpm_core.store.s3 import (
    MISSING,
    PERHAPS_MISSING,
    REFUSED_CREATE,
    RENEWED,
    code_of,
    explained,
)
from ddpm_core.store.s3_client import filesystem_of, on_its_thread
from ddpm_core.store.s3_operation import DEADLINE_S, PART_BYTES, Operation, vendor_errors
from ddpm_core.store.store import KeyMissingError, Store, checked_key, require_equal

__all__ = ["KeyMissingError", "LocalStore", "S3Store", "Store", "open_store", "sha256_of"]

T = TypeVar("T")

_OPEN_DEADLINE_S = 20.0  # so that a command reports a dead server within half a minute
_NUM_TRIES = 3  # to create what another writer was about to create, and did not


def open_store(uri: str) -> Store:
    """Return the store at `uri`, after making sure that it answers.

    Args:
        uri: a path (`~` and relative ones are made absolute), `file:///absolute/path`, or
            `s3://bucket/prefix`. The endpoint and region of S3 come from AWS_ENDPOINT_URL_S3,
            AWS_ENDPOINT_URL or S3_ENDPOINT_URL and AWS_REGION, or the AWS files; keys from where
            AWS tools look.

    Raises:
        ConfigError: `uri` is none of these.
        StorageError: the bucket does not answer within half a minute.
    """
    if uri.startswith("s3://"):
        store = S3Store(uri)
        store.check_bucket()
        return store
    return LocalStore(local_root(uri))


@final
class S3Store(Store):
    """Objects below a prefix of a bucket; opens its connection when it is first used."""

    def __init__(self, uri: str) -> None:
        self._bucket, self._prefix = bucket_and_prefix(uri)
        self.uri = "s3://" + "/".join(filter(None, (self._bucket, self._prefix)))
        self._connection: tuple[int, Any] | None = None
        self._refuses_second_create = False

    def __reduce__(self) -> tuple[type["S3Store"], tuple[str]]:
        return S3Store, (self.uri,)

    def read(self, key: str, *, at_most: int | None = None, checked: bool = True) -> bytes:
        s3_key = self._s3_key(key)
        words = {"Key": s3_key}
        if at_most is not None:
            words["Range"] = f"bytes=0-{at_most}"
        try:
            return self._run("read", key, lambda s3: s3.get(checked=checked, **words), of=s3_key)
        except StorageError as error:
            if at_most is not None and code_of(error) in ("InvalidRange", "416"):
                return b""  # it is there, and empty
            raise

    def read_part(self, key: str, start: int, num_bytes: int) -> bytes:
        s3_key = self._s3_key(key)
        words = {"Key": s3_key, "Range": f"bytes={start}-{start + num_bytes - 1}"}
        try:
            return self._run("read", key, lambda s3: s3.get(checked=False, **words), of=s3_key)
        except StorageError as error:
            if code_of(error) in ("InvalidRange", "416"):
                return b""  # it is there, and ends before
            raise

    def write(self, key: str, data: Content, *, sha256: str | None = None) -> None:
        s3_key = self._s3_key(key)
        # Here, not on the thread that answers all other operations of this process.
        digest = sha256 or sha256_of(data)
        if len(data) > 2 * PART_BYTES:
            self._run("write", key, lambda s3: s3.put_in_parts(s3_key, data, digest))
        else:
            self._run("write", key, lambda s3: s3.put(s3_key, data[:], digest))

    def copy(self, key: str, to: str) -> None:
        source, target = self._s3_key(key), self._s3_key(to)
        if not self._run("copy", key, lambda s3: s3.copy(source, target), of=source):
            self.write(to, self.read(key))

    def create(self, key: str, data: bytes) -> bool:
        self._check_create()
        failure = StorageError()
        for _ in range(_NUM_TRIES):
            try:
                self._put_new(key, self._s3_key(key), data)
            except StorageError as error:
                failure = error
            else:
                return True
            # Whatever was said: it may have been done, and the reply lost.
            try:
                require_equal(self, key, data)
            except KeyMissingError:
                if code_of(failure) not in REFUSED_CREATE:
                    break
                continue  # another writer was on the way, and has given up
            return False
        raise failure

    def exists(self, key: str) -> bool:
        # Not HEAD: its 404 has no body, and so cannot tell a missing key from a missing bucket.
        try:
            self.read(key, at_most=0)
        except KeyMissingError:
            return False
        return True

    def names(self, folder: str) -> list[str]:
        found: set[str] = set()
        for page in self._pages(folder):
            found.update(one["Key"] for one in page.get("Contents", []))
            found.update(one["Prefix"] for one in page.get("CommonPrefixes", []))
        start = len(self._folder_prefix(folder))
        short = {one[start:].rstrip("/") for one in found}
        return sorted(one for one in short if one and not one.startswith("."))

    def sizes(self, folder: str) -> dict[str, int]:
        start = len(self._folder_prefix(folder))
        return {
            name: int(one["Size"])
            for page in self._pages(folder)
            for one in page.get("Contents", [])
            # An object "folder/" is how some programs show an empty folder.
            if (name := one["Key"][start:]) and not name.startswith(".") and "/" not in name
        }

    def _folder_prefix(self, folder: str) -> str:
        return f"{self._s3_key(folder)}/" if folder or self._prefix else ""

    def _pages(self, folder: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of the listing of what is directly below `folder`."""
        more: dict[str, Any] = {}
        while True:
            words = {"Prefix": self._folder_prefix(folder), "Delimiter": "/", **more}
            page = self._call("list", folder, "list_objects_v2", **words)
            yield page
            if not page.get("IsTruncated"):
                return
            if page.get("NextContinuationToken") in (None, more.get("ContinuationToken")):
                raise StorageError(
                    f"{self.uri_of(folder)}: the server breaks its listing off without saying "
                    "how it goes on; report it to those who run it"
                )
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        self._call("delete", key, "delete_object", Key=self._s3_key(key))

    def local_path(self, key: str) -> Path | None:
        checked_key(key)
        return None

    def check_bucket(self) -> None:
        """Make sure that the bucket is there and answers for what is below the prefix.

        Raises:
            StorageError: otherwise, within half a minute.
        """
        self.raw_check(self._folder_prefix(""))

    def raw_check(self, prefix: str) -> None:
        """Do so for objects whose keys, of any letters, begin with `prefix`."""
        words = {"Prefix": prefix, "MaxKeys": 1}
        self._call("open", "", "list_objects_v2", deadline_s=_OPEN_DEADLINE_S, **words)

    def raw_page(self, prefix: str, token: str | None) -> dict[str, Any]:
        """Return a page of the objects whose keys, of any letters, begin with `prefix`."""
        more: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
        return self._call("list", "", "list_objects_v2", Prefix=prefix, **more)

    def raw_read(self, s3_key: str, first: int, num_bytes: int, etag: str) -> tuple[bytes, str]:
        """Return (a part of the object under a key of any letters, not below the prefix, its ETag).

        Raises:
            KeyMissingError: there is none.
            StorageError: also if its ETag is another.
        """
        words = {"Key": s3_key, "Range": f"bytes={first}-{first + num_bytes - 1}"}
        if etag:
            words["IfMatch"] = etag

        async def get(s3: Operation) -> tuple[bytes, str]:
            return await s3.get(checked=True, **words), s3.etag

        return self._run("read", "", get, of=s3_key)

    def _check_create(self) -> None:
        """Make sure, once, that the server refuses to create what is there."""
        probe = "/".join(filter(None, (self._prefix, ".put-if-absent")))
        for _ in range(2):
            if self._refuses_second_create:
                return
            try:
                self._put_new("", probe, b"")
            except StorageError as error:
                if code_of(error) not in REFUSED_CREATE:
                    raise
                self._refuses_second_create = True
        if not self._refuses_second_create:
            raise StorageError(
                f"{self.uri}: the server ignores If-None-Match, so that two writers could "
                "overwrite each other; use a storage that knows conditional writes"
            )

    def _put_new(self, key: str, s3_key: str, data: bytes) -> None:
        digest = sha256_of(data)
        self._run("create", key, lambda s3: s3.put(s3_key, data, digest, IfNoneMatch="*"))

    def _s3_key(self, key: str) -> str:
        return "/".join(filter(None, (self._prefix, checked_key(key) if key else "")))

    def _call(
        self,
        operation: str,
        key: str,
        method: str,
        *,
        deadline_s: float | None = None,
        **words: Any,  # noqa: ANN401 - as S3 names and types them
    ) -> dict[str, Any]:
        return self._run(
            operation, key, lambda s3: s3.request(method, **words), deadline_s=deadline_s
        )

    def _run(
        self,
        operation: str,
        key: str,
        ask: Callable[[Operation], Awaitable[T]],
        *,
        deadline_s: float | None = None,
        of: str | None = None,
    ) -> T:
        """Run `ask` on s3fs' own thread; say in our words what goes wrong.

        Args:
            operation: for people.
            key: for people.
            ask: what to run.
            deadline_s: for all its tries.
            of: the object that is read, which may be missing; None if none is.
        """
        for renewed in (False, True):
            fs, begun_s = self._filesystem(), time.monotonic()
            s3 = Operation(fs, self._bucket, deadline_s=deadline_s or DEADLINE_S)
            try:
                answer: T = on_its_thread(fs, s3.run, ask)
            except vendor_errors() as error:
                code = code_of(error)
                if of is not None and (
                    code in MISSING or (code in PERHAPS_MISSING and self._is_unlisted(of, error))
                ):
                    raise KeyMissingError(self.uri_of(key)) from None
                if code in RENEWED:
                    self._connection = None  # new ones may lie in the files by now, or later
                    if not renewed:
                        continue
                requests = f"{s3.num_tries} request{'s' if s3.num_tries != 1 else ''}"
                spent = f"{requests} in {time.monotonic() - begun_s:.0f} s"
                raise StorageError(
                    f"cannot {operation} {self.uri_of(key)}: {explained(error, s3.last, spent)}"
                ) from error
            return answer
        raise AssertionError

    def _is_unlisted(self, s3_key: str, reason: Exception) -> bool:
        """Return whether the server lists its objects without this one."""
        try:
            page = self.raw_page(s3_key, None)
        except StorageError as error:
            if code_of(error) in PERHAPS_MISSING and code_of(reason) not in ("404", "NotFound"):
                return False  # the refusal of the object is the one to hear of
            raise
        listed = s3_key in (one["Key"] for one in page.get("Contents", []))
        return not listed and not page.get("IsTruncated")

    def _filesystem(self) -> Any:  # noqa: ANN401 - s3fs is untyped
        # s3fs works on a thread, which does not come along into a forked process.
        if self._connection is None or self._connection[0] != os.getpid():
            self._connection = (os.getpid(), filesystem_of(self._bucket))
        return self._connection[1]
