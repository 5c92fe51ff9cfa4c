"""A folder of files in a bucket that others filled."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.container import (
    Container,
    Entry,
    PassedOver,
    changed_meanwhile,
    refuse_large,
)
from ddpm_core.store.foreign_bucket import ForeignBucket


@final
class BucketFolder(Container):
    """The objects below a prefix, read one by one. `Entry.where` is (what stands for the ETag,)."""

    num_readers = 16

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
                yield Entry(name, found.size, (marks.of_text(found.etag),))

    def read(self, entry: Entry) -> bytes:
        refuse_large(self.uri, entry)
        if not entry.size:
            return b""
        content, etag = self._bucket.read_whole(self._start + entry.name, entry.size)
        if entry.where and marks.of_text(etag) != entry.where[0]:
            raise changed_meanwhile(self.uri, entry.name)
        return content

    def marks_of(self, where: NDArray[np.int64]) -> marks.Marks:
        return marks.Marks(where, where[:, 0] != marks.MISSING)

    def place(self) -> dict[str, Any]:
        return {"kind": "bucket", "bucket": self._bucket_name, "prefix": self._prefix}
