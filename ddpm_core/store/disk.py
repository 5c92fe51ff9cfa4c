"""The store on a disk: files below a folder."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, final

from ddpm_core.errors import StorageError
from ddpm_core.store.content import Content
from ddpm_core.store.durable import (
    FULL,
    copy_file,
    create_file,
    free_bytes,
    replace_file,
    require_claims,
)
from ddpm_core.store.store import KeyMissingError, Store, checked_key, require_equal

_OTHER_REMEDY = "see to this storage, then run again"
REMEDIES = {
    errno.ENOSPC: "free some space or choose another root, then run again",
    errno.EDQUOT: "free some of your quota or choose another root, then run again",
    errno.EROFS: "mount it writable or choose another root",
    errno.EACCES: "give this user the right or choose another root",
    errno.EPERM: "give this user the right or choose another root",
    errno.EOPNOTSUPP: "choose a root on another file system: of two writers of one name one must "
    "win; for a bucket that is mounted give s3://bucket/prefix",
    errno.EIO: "the disk reports a fault: look into the kernel log, then run again",
    errno.ENOTDIR: "a file stands where a folder is needed: move it or choose another root",
    errno.EEXIST: "a file stands where a folder is needed: move it or choose another root",
    errno.ENAMETOOLONG: "choose a shorter root",
}


@final
class LocalStore(Store):
    """Files below a folder; `durable` says how they survive kills and power cuts."""

    def __init__(self, root: Path) -> None:
        self.uri = str(root)
        self._root = root
        self._was_there = self._is_there()
        self._has_claims = False

    def read(
        self,
        key: str,
        *,
        at_most: int | None = None,
        checked: bool = True,  # noqa: ARG002 - a disk keeps no digest
    ) -> bytes:
        with self._opened(key) as (file, size):
            if at_most is None:
                return file.read()
            # As much as there is: a read of n bytes allocates n at once.
            return file.read(min(at_most, size) + 1)

    def read_part(self, key: str, start: int, num_bytes: int) -> bytes:
        with self._opened(key) as (file, size):
            file.seek(start)
            return file.read(min(num_bytes, max(size - start, 0)))

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[BinaryIO, int]]:
        """Give the file of `key`, and its length."""
        with self._errors("read", key):
            try:
                # A FIFO without a writer would block an open that waits.
                descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                raise self._missing(key) from None
            try:
                found = os.fstat(descriptor)
                if stat.S_ISDIR(found.st_mode):
                    raise self._missing(key)
                if not stat.S_ISREG(found.st_mode):
                    raise StorageError(
                        f"{self.uri_of(key)} is no regular file, and a pipe or a device has no "
                        "end; put a file in its place"
                    )
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    yield file, found.st_size
            finally:
                os.close(descriptor)

    def write(
        self,
        key: str,
        data: Content,
        *,
        sha256: str | None = None,  # noqa: ARG002 - a disk keeps no digest
    ) -> None:
        with self._errors("write", key, len(data)):
            replace_file(self._path(key), data, root=self._root)
            if not self._has_claims:
                # At the first write, not when hours of work are to be published.
                require_claims(self._path(key).parent)
                self._has_claims = True
        self._was_there = True

    def create(self, key: str, data: bytes) -> bool:
        with self._errors("create", key, len(data)):
            created = create_file(self._path(key), data, root=self._root)
        self._was_there = True
        if not created:
            try:
                require_equal(self, key, data)
            except KeyMissingError:
                raise StorageError(
                    f"{self.uri_of(key)} was there and is gone: something else deletes in this "
                    "root; find out what, then run again"
                ) from None
        return created

    def copy(self, key: str, to: str) -> None:
        with self._errors("write", to):
            try:
                copy_file(self._path(key), self._path(to), root=self._root)
            except (FileNotFoundError, NotADirectoryError):
                raise self._missing(key) from None
        self._was_there = True

    def exists(self, key: str) -> bool:
        with self._errors("look for", key):
            try:
                return stat.S_ISREG(self._path(key).stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                self._missing(key)
                return False

    def names(self, folder: str) -> list[str]:
        with self._errors("list", folder):
            try:
                found = sorted(entry.name for entry in self._path(folder).iterdir())
            except (FileNotFoundError, NotADirectoryError):
                self._missing(folder)
                return []
        return [name for name in found if not name.startswith(".")]

    def sizes(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        with self._errors("list", folder):
            try:
                with os.scandir(self._path(folder)) as entries:
                    for entry in entries:
                        if not entry.name.startswith("."):
                            with suppress(FileNotFoundError):  # deleted since it was listed
                                about = entry.stat()
                                if stat.S_ISREG(about.st_mode):
                                    found[entry.name] = about.st_size
            except (FileNotFoundError, NotADirectoryError):
                self._missing(folder)
        return found

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            try:
                self._path(key).unlink()
            except (FileNotFoundError, NotADirectoryError):
                self._missing(key)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def require_writable(self) -> None:
        with self._errors("write below", ""):
            place = self._root
            while not place.exists():
                place = place.parent
            if not place.is_dir():
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(place, os.W_OK | os.X_OK):
                is_read_only = os.statvfs(place).f_flag & os.ST_RDONLY
                code = errno.EROFS if is_read_only else errno.EACCES
                raise OSError(code, os.strerror(code))

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key) if key else self._root

    def _is_there(self) -> bool:
        with self._errors("open", ""):
            return self._root.is_dir()

    def _missing(self, key: str) -> KeyMissingError:
        """Return the error to raise, unless the whole root has gone since it was opened."""
        if self._was_there and not self._is_there():
            raise StorageError(
                f"{self.uri} was there and has gone while it was in use; "
                "mount or restore it, then run again"
            )
        return KeyMissingError(self.uri_of(key))

    @contextmanager
    def _errors(self, operation: str, key: str, num_bytes: int = 0) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            room = ""
            if error.errno in FULL:
                room = f" ({num_bytes} bytes are needed, {free_bytes(self._path(key))} are free)"
            raise StorageError(
                f"cannot {operation} {self.uri_of(key)}: {error.strerror or error}{room}; "
                f"{REMEDIES.get(error.errno or 0, _OTHER_REMEDY)}"
            ) from error
