"""A shard as an index knows it: where it lies, what it must be, and where in it the images are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ddpm_core.store.manifest import FileRecord, Manifest
from ddpm_core.store.storage import Store

_OUTSIDE = re.compile(r"(s3|file)://")
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Located:
    """The file of a shard: where it lies, and what says that it is still the same."""

    place: str
    """a folder below the root, as that of a data set; or, of a shard that is used where others put
    it, the URI of one: s3://bucket/prefix or file:///folder"""
    name: str
    """of the file in that folder"""
    size: int
    """bytes"""
    pin: str
    """`sha256:` and 64 digits; or, of a shard outside whose bytes nobody has read, what its place
    says of it: `etag:` and that, or `mtime:` and nanoseconds"""

    @property
    def is_outside(self) -> bool:
        """Whether it lies at a place of others, which is only ever read."""
        return _OUTSIDE.match(self.place) is not None

    @property
    def key(self) -> str:
        """Its key below the root; its URI, if it lies outside."""
        return f"{self.place}/{self.name}"

    @property
    def sha256(self) -> str | None:
        """Its digest; None if it is pinned by something else."""
        found = _SHA256.fullmatch(self.pin)
        return found[1] if found else None

    def read(self, store: Store) -> bytes:
        """Return the bytes of a shard that lies below the root, verified.

        Raises:
            DamagedError: missing, of another length, or of another SHA-256.
            StorageError: the storage does not answer.
        """
        record = FileRecord(self.name, self.size, self.sha256 or "")
        return Manifest(self.place, {}, {"shard": record}).read(store, "shard")


@dataclass(frozen=True)
class Shard:
    """One tar of a data set."""

    name: str
    num_images: int
    first_number: int
    """of its images, which are numbered on from there in the names of their files; what was left
    out leaves a gap behind"""
    offsets: tuple[int, ...]
    """byte at which each image's file begins"""
    sizes: tuple[int, ...]
    """bytes of each image's file"""
    labels: tuple[int, ...] | None = None
    """the class of each image; None: it is the one in the file of the member `label`"""
    beside: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """member -> (offset, bytes) of each image's file of it, where the order of the files in the
    shard does not say that"""
    file: Located | None = None
    """None: it lies in the folder of its data set, whose manifest says what it must be"""

    @property
    def role(self) -> str:
        """Its role in the manifest."""
        return self.name.removesuffix(".tar")
