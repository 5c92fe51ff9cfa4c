"""What a store is: bytes under keys. `storage` opens one, on a disk or in S3.

"Not there" and "cannot say" are different answers: the first is KeyMissingError, the second
StorageError. An outage that reads as "no checkpoint" would restart a run from step 0.
"""

import abc
import re
from pathlib import Path

from ddpm_core.errors import ConfigError, RunConflictError
from ddpm_core.store.content import Content, sha256_of

KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,199}")


class KeyMissingError(Exception):
    """This object does not exist, said by a storage that answered."""


class Store(abc.ABC):
    """Objects under keys such as `runs/a/run.json`, below `uri`.

    Every method raises StorageError when the storage cannot be reached or refuses, and
    ConfigError for a key that is not `part/part/...` of letters, digits and `._+=-`.
    Opening it again from `uri`, or unpickling it, in another process is cheap.
    """

    uri: str
    """an absolute path, or s3://bucket/prefix; never ends in a slash"""

    def uri_of(self, key: str) -> str:
        """Return where `key` lies, for people and for other programs."""
        return f"{self.uri.rstrip('/')}/{checked_key(key)}" if key else self.uri

    @abc.abstractmethod
    def read(self, key: str, *, at_most: int | None = None, checked: bool = True) -> bytes:
        """Return the bytes of `key`.

        Args:
            key: which object.
            at_most: stop after this many bytes and one more, so that `len` shows whether there
                are more; None reads all.
            checked: whether they are compared with the digest that was written along, where the
                storage keeps one. Not needed where the caller has a digest to compare with; if
                it differs, a checked read distinguishes changes on the way from damage at rest.

        Raises:
            KeyMissingError: there is no such object.
        """

    @abc.abstractmethod
    def read_part(self, key: str, start: int, num_bytes: int) -> bytes:
        """Return `num_bytes` bytes of `key` from `start` on, fewer where it ends; unchecked.

        Raises:
            KeyMissingError: there is no such object.
        """

    @abc.abstractmethod
    def write(self, key: str, data: Content, *, sha256: str | None = None) -> None:
        """Put `data` under `key`, whole or not at all, over what was there; durable on return.

        Args:
            key: which object.
            data: all of it, made block by block if it is not `bytes`.
            sha256: its digest, if it is known: then it is not taken once more.
        """

    @abc.abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Put `data` under `key` if nothing is there; of many writers one wins.

        Returns:
            True if this call put it, False if these very bytes were there already (perhaps
            from an earlier try of ours whose reply was lost).

        Raises:
            RunConflictError: other bytes are there; they were left as they are.
        """

    @abc.abstractmethod
    def copy(self, key: str, to: str) -> None:
        """Put what is under `key` also under `to`, over what was there, whole or not at all.

        Nothing comes here for it: a disk links the file, a server copies the object. Neither is
        ever changed in place, so that the two go their own ways.

        Raises:
            KeyMissingError: there is no such object.
        """

    @abc.abstractmethod
    def exists(self, key: str) -> bool:
        """Say whether there is an object under `key`."""

    @abc.abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly below `folder` ("" is the root), [] if none.

        A folder's name has no trailing slash; unfinished and hidden files are left out.
        """

    @abc.abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each object directly below `folder`, by its name, {} if none.

        One listing, whatever their number; folders, unfinished and hidden files are left out.
        """

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object under `key`, if there is one."""

    @abc.abstractmethod
    def local_path(self, key: str) -> Path | None:
        """Return the file of `key` if the storage is local."""

    def require_writable(self) -> None:  # noqa: B027 - a bucket says it at the first write only
        """Refuse a root that the first write would refuse, as far as can be seen without one.

        Raises:
            StorageError: it is read-only, or this user may not write there.
        """


def require_equal(store: Store, key: str, data: bytes) -> None:
    """Raise RunConflictError unless `data` is what stands under `key`."""
    found = store.read(key)
    if found != data:
        raise RunConflictError(
            f"{store.uri_of(key)} holds other bytes (SHA-256 {sha256_of(found)[:16]}, not "
            f"{sha256_of(data)[:16]}); they were left as they are: another attempt of this run "
            "computed something else; find out which, or use another run name"
        )


def checked_key(key: str) -> str:
    """Return `key` if it is safe as a path and as an S3 key, else raise ConfigError."""
    if not all(KEY_PART.fullmatch(part) for part in key.split("/")):
        raise ConfigError(
            f"storage key {key[:300]!r} must be parts of letters, digits and . _ + = - joined by "
            "single slashes, none starting with a dot; rename it"
        )
    return key
