"""The table of the shards of a split, in a file beside index.json: what an index of format 4 has.

An index of format 3 says in one JSON where each image lies, and holds all of it in memory. Here a
process holds the table alone, some 150 bytes a shard, in pages that all processes of a machine
share; where the images of a shard are stands in its part, which is read when the shard is used.

    train-table-<sha256>.bin
        int64, little-endian: the number of shards S, then S of each of `_COLUMNS`
        32 bytes for each shard: SHA-256 of its part
        name and pin of each shard, a line each, in UTF-8
    train-parts-000000-<sha256>.bin
        parts of consecutive shards, one behind the other

index.json names the table and the files of parts of its own; it lists the folders that shards and
parts lie in: those of other data sets of this root, and places of others.
"""

import hashlib
import mmap
import re
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, final, overload

import numpy as np
from numpy.typing import NDArray

from ddpm_core.shards.members import whole
from ddpm_core.shards.one import Located, Shard
from ddpm_core.shards.parts import part_of, shard_of
from ddpm_core.store import manifest
from ddpm_core.store.commit import write_file
from ddpm_core.store.manifest import DamagedError, FileRecord, Manifest
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

_COLUMNS = (
    "num_images",
    "first_number",
    "size",
    "place",  # number in `places`
    "parts",  # number in `parts`: the file that holds its part
    "part_at",
    "part_bytes",
    "text_end",
)
_PLACE = re.compile(r"datasets/[^/]+|(s3|file)://.+", re.DOTALL)
_DIGEST_BYTES = 32
_PART_IMAGES = 2**16
"""images whose parts are in one file: some 300 kB"""
_NUM_KEPT = 320
"""shards whose parts are kept: more than a reader has open"""


@final
class ShardTable(Sequence[Shard]):
    """The shards of a split, each read from its part on access. Any thread may."""

    def __init__(self, store: Store, found: Manifest, split: str, body: Mapping[str, Any]) -> None:
        """Take what index.json says of the shards of a split.

        Raises:
            DamagedError: the table is missing, or not what was committed.
            KeyError, TypeError, ValueError: it is no table of this program.
        """
        self._store, self._made_of = store, (store, found, split, body)
        own = found.folder
        self._places = [str(place) or own for place in body["places"]]
        parts = [(whole(at), str(name)) for at, name in body["parts"]]
        if any(at >= len(self._places) for at, _ in parts):
            raise ValueError(f"parts in a place beyond the {len(self._places)} that it lists")
        self._parts = [(self._places[at], name) for at, name in parts]
        if not all(place == own or _PLACE.fullmatch(place) for place in self._places):
            raise ValueError(f"shards that lie in {self._places}")
        data = _mapped(store, found, f"{split}-table")
        count = whole(int(np.frombuffer(data, "<i8", 1)[0])) if len(data) >= 8 else 0
        fixed = 8 + count * (8 * len(_COLUMNS) + _DIGEST_BYTES)
        if len(data) < max(8, fixed):
            raise ValueError(f"{len(data)} bytes for a table of {count} shards")
        numbers = np.frombuffer(data, "<i8", count * len(_COLUMNS), 8)
        self._columns = dict(zip(_COLUMNS, numbers.reshape(len(_COLUMNS), count), strict=True))
        self._data, self._digests_at, self._text_at = data, fixed - count * _DIGEST_BYTES, fixed
        self._kept: OrderedDict[int, Shard] = OrderedDict()
        self._lock = Lock()
        self._require_plausible()

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardTable, self._made_of  # another process maps it anew

    def __len__(self) -> int:
        return len(self._columns["num_images"])

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Shard]: ...
    def __getitem__(self, at: int | slice) -> Shard | Sequence[Shard]:
        """Return a shard, with its part.

        Raises:
            DamagedError: the part is missing, or not what the table says.
        """
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        number = range(len(self))[at]
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        shard = self._read(number)
        with self._lock:
            self._kept[number] = shard
            while len(self._kept) > _NUM_KEPT:
                self._kept.popitem(last=False)
        return shard

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self)))

    @property
    def counts(self) -> NDArray[np.int64]:
        """(S,) images of each shard."""
        return self._columns["num_images"]

    @property
    def first_numbers(self) -> NDArray[np.int64]:
        """(S,) number of the first image of each shard, as its files are named."""
        return self._columns["first_number"]

    @property
    def file_bytes(self) -> NDArray[np.int64]:
        """(S,) bytes of each shard's file."""
        return self._columns["size"]

    def located(self, number: int) -> Located:
        """Return where a shard lies, without its part."""
        row = {name: int(column[number]) for name, column in self._columns.items()}
        begin = int(self._columns["text_end"][number - 1]) if number else 0
        text = bytes(self._data[self._text_at + begin : self._text_at + row["text_end"]])
        name, pin, _ = text.decode("utf-8", "surrogateescape").split("\n")
        return Located(self._places[row["place"]], name, row["size"], pin)

    def _read(self, number: int) -> Shard:
        file = self.located(number)
        row = {name: int(column[number]) for name, column in self._columns.items()}
        folder, name = self._parts[row["parts"]]
        key, size = f"{folder}/{name}", row["part_bytes"]
        at = self._digests_at + _DIGEST_BYTES * number
        sha256 = bytes(self._data[at : at + _DIGEST_BYTES]).hex()
        # A second read distinguishes a bit flipped on the way from one flipped in the store.
        for _ in range(2):
            part = b""
            with suppress(KeyMissingError):
                part = self._store.read_part(key, row["part_at"], size) if size else b""
            if sha256_of(part) == sha256:
                return shard_of(part, file.name, row["num_images"], row["first_number"], file)
        raise DamagedError(
            f"{self._store.uri_of(key)} is damaged or missing: {size} bytes from {row['part_at']} "
            f"on must have the SHA-256 {sha256}; {manifest.REMEDY}"
        )

    def _require_plausible(self) -> None:
        """Refuse numbers that no table has: what is read later may rely on them."""
        columns = self._columns
        for name, column in columns.items():
            if len(column) and (int(column.min()) < 0 or int(column.max()) >= 2**62):
                raise ValueError(f"a table of shards with {name} below 0 or beyond 2**62")
        if float(columns["num_images"].sum(dtype=np.float64)) >= 2**62:
            raise ValueError("more images than can be counted")
        for name, known in (("place", self._places), ("parts", self._parts)):
            if len(columns[name]) and int(columns[name].max()) >= len(known):
                raise ValueError(f"a shard of {name} {columns[name].max()}, of {len(known)}")
        ends = columns["text_end"]
        length = int(ends[-1]) if len(ends) else 0
        if (np.diff(ends) < 0).any() or self._text_at + length != len(self._data):
            raise ValueError("names that do not fill the table")


class TableWriter:
    """Writes the tables and parts of a data set, whose index then names them.

    `places` and `parts` go into index.json as they are; `files` into its manifest.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder
        self.files: dict[str, FileRecord] = {}
        self._places: dict[str, int] = {}
        self._parts: list[list[Any]] = []

    def write(self, split: str, shards: Iterable[Shard]) -> None:
        """Write the table of a split.

        Args:
            split: train or test.
            shards: in order, each with `file`: where it lies.

        Raises:
            ValueError: of one it is not said where it lies, or a name holds a line feed.
        """
        rows = array("q")
        digests: list[bytes] = []
        texts: list[bytes] = []
        parts: list[bytes] = []
        num_images = 0
        number_of_parts, at, end = len(self._parts), 0, 0
        for shard in shards:
            if (file := shard.file) is None:
                raise ValueError(f"it is not said where {shard.name} lies")
            part = part_of(shard)
            if num_images and num_images + shard.num_images > _PART_IMAGES:
                self._write_parts(split, parts)
                number_of_parts, at, parts, num_images = len(self._parts), 0, [], 0
            text = f"{file.name}\n{file.pin}\n".encode("utf-8", "surrogateescape")
            if text.count(b"\n") != 2:
                raise ValueError(f"a line feed in {file.name!r} or {file.pin!r}")
            end += len(text)
            rows.extend((shard.num_images, shard.first_number, file.size))
            rows.extend((self._place(file.place), number_of_parts, at, len(part), end))
            digests.append(bytes.fromhex(sha256_of(part)))
            texts.append(text)
            parts.append(part)
            at, num_images = at + len(part), num_images + shard.num_images
        if parts:
            self._write_parts(split, parts)
        numbers = np.array(rows, "<i8").reshape(-1, len(_COLUMNS)).T
        table = table_bytes(numbers, b"".join(digests), b"".join(texts))
        role = f"{split}-table"
        self.files[role] = write_file(self._store, self._folder, role, ".bin", table)

    def body(self) -> dict[str, Any]:
        """Return what index.json says of the shards."""
        return {"places": list(self._places), "parts": self._parts}

    def _place(self, place: str) -> int:
        own = "" if place == self._folder else place
        return self._places.setdefault(own, len(self._places))

    def _write_parts(self, split: str, parts: Sequence[bytes]) -> None:
        stem = f"{split}-parts-{len(self._parts):06d}"
        record = write_file(self._store, self._folder, stem, ".bin", b"".join(parts))
        self.files[stem] = record
        self._parts.append([self._place(self._folder), record.name])


def table_bytes(numbers: NDArray[np.int64], digests: bytes, texts: bytes) -> bytes:
    """Return the bytes of a table: (columns, S) numbers, S digests, and S names and pins."""
    count = np.array([numbers.shape[1]], "<i8").tobytes()
    return b"".join([count, numbers.astype("<i8").tobytes(), digests, texts])


def _mapped(store: Store, found: Manifest, role: str) -> memoryview | mmap.mmap:
    """Return the bytes of a table: mapped, where it lies on a disk."""
    record = found.files[role]
    path = store.local_path(f"{found.folder}/{record.name}")
    if path is not None and record.size:
        with suppress(OSError, ValueError), path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hashlib.sha256(data).hexdigest() == record.sha256:
                return data
    return memoryview(found.read(store, role))
