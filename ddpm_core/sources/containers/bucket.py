"""A folder of files in a bucket that others filled."""

from collections.abc import Iterator
from typing import Any, final

from ddpm_core.sources.containers.container import Container, Entry, PassedOver, refuse_large
from ddpm_core.store.foreign_bucket import ForeignBucket


@final
class BucketFolder(Container):
    """The objects below a prefix, read one by one. `Entry.where` is ().

    An object that is replaced by one of the same length is not noticed when it is read.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        """Take `prefix` without a slash at its end; "" is the whole bucket."""
        self.uri = "/".join(filter(None, (f"s3://{bucket}", prefix)))
        self._bucket_name, self._prefix = bucket, prefix
        self._start = f"{prefix}/" if prefix else ""
        self._bucket = ForeignBucket(bucket)

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        del passed_over  # whatever is there is a file
        for found in self._bucket.objects(self._start):
            name = found.key.removeprefix(self._start)
            if name and not name.endswith("/"):  # how some programs show empty folders
                yield Entry(name, found.size)

    def read(self, entry: Entry) -> bytes:
        refuse_large(self.uri, entry)
        if not entry.size:
            return b""
        return self._bucket.read(self._start + entry.name, 0, entry.size)

    def place(self) -> dict[str, Any]:
        return {"kind": "bucket", "bucket": self._bucket_name, "prefix": self._prefix}
