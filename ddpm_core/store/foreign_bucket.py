"""A bucket that others filled: keys of any letters, read only, whole or in parts."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple, final

from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.store.root import BUCKET, BUCKET_RULE
from ddpm_core.store.s3 import code_of
from ddpm_core.store.storage import KeyMissingError, S3Store

_URI = re.compile(rf"s3://(?P<bucket>{BUCKET})(?:/(?P<key>[^?#]*))?")
_MAX_KEY_BYTES = 1024
_CHANGED = frozenset({"PreconditionFailed", "412"})


class Object(NamedTuple):
    """What a listing says of an object."""

    key: str
    size: int
    etag: str
    """of its bytes: another object under the same key has another; "" if the server has none"""


@final
class ForeignBucket:
    """Everything below `s3://bucket`; opens its connection when it is first used."""

    def __init__(self, bucket: str) -> None:
        self.uri = f"s3://{bucket}"
        self._store = S3Store(self.uri)

    def check(self, prefix: str) -> None:
        """Make sure that the bucket answers for keys that begin with `prefix`, or raise
        StorageError.
        """
        self._store.raw_check(prefix)

    def objects(self, prefix: str) -> Iterator[Object]:
        """Yield all objects whose keys begin with `prefix`, in the order of the server.

        Raises:
            StorageError: it does not answer, or breaks the listing off.
        """
        token: str | None = None
        while True:
            page = self._store.raw_page(prefix, token)
            for one in page.get("Contents", []):
                yield Object(one["Key"], int(one["Size"]), str(one.get("ETag", "")))
            if not page.get("IsTruncated"):
                return
            if page.get("NextContinuationToken") in (None, token):
                raise StorageError(
                    f"{self.uri}: the server breaks its listing off without saying how it goes on; "
                    "report it to those who run it"
                )
            token = page["NextContinuationToken"]

    def read(self, key: str, first: int, num_bytes: int, *, etag: str = "") -> bytes:
        """Return `num_bytes` of an object, 1 or more, from byte `first` on.

        Raises:
            DataError: it is not there, shorter, or, if `etag` is given, another one.
            StorageError: the server does not answer.
        """
        return self._read(key, first, num_bytes, etag)[0]

    def read_whole(self, key: str, num_bytes: int) -> tuple[bytes, str]:
        """Return (the `num_bytes` of an object, 1 or more, the ETag it has now); raises as `read`.

        "" if the server gives none.
        """
        return self._read(key, 0, num_bytes, "")

    def _read(self, key: str, first: int, num_bytes: int, etag: str) -> tuple[bytes, str]:
        where = f"{self.uri}, key {json.dumps(key[:300])}"
        try:
            data, found = self._store.raw_read(key, first, num_bytes, etag)
        except KeyMissingError:
            raise DataError(f"{where}, has gone since it was listed; put it back") from None
        except StorageError as error:
            if code_of(error) in _CHANGED:
                raise DataError(
                    f"{where}, has been replaced since it was listed; run again, when nothing "
                    "writes there any more"
                ) from None
            raise StorageError(f"{where}: {error}") from error
        if len(data) != num_bytes:
            raise DataError(
                f"{where}, has {len(data)} bytes from byte {first} on, {num_bytes} were listed; "
                "run again, when nothing writes there any more"
            )
        return data, found


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return bucket and key, or prefix without a slash at its end, of `s3://bucket/any key`.

    Raises:
        ConfigError: it is no such URI; what may hold a password is not repeated.
    """
    found = _URI.fullmatch(uri)
    key = (found["key"] or "").rstrip("/") if found else ""
    if not found or len(key.encode("utf-8", "surrogateescape")) > _MAX_KEY_BYTES:
        raise ConfigError(
            "data.source begins with s3://, but is not s3://bucket/prefix; give that, without ? or "
            "#, user, password or options: credentials come from the environment or the AWS files; "
            f"{BUCKET_RULE}"
        )
    return found["bucket"], key
