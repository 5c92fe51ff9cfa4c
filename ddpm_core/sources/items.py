"""Millions of images as columns: what a listing keeps of each, and how one is looked at."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final, overload

import numpy as np
from numpy.typing import NDArray

from ddpm_core.images.names import text_of
from ddpm_core.shards.caption_rows import CaptionRows
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.sources.containers.container import Container, Entry

NO_LABEL = -1
TOKEN_BYTES = 16
_BLOCK_ITEMS = 4096


class Item(NamedTuple):
    """One image of a split."""

    key: str
    """its name without the folder that everything lies in; unique, and exact as `Entry.name`"""
    entry: Entry
    label: int
    captions: tuple[str, ...] | None = None
    """what it shows, in words; None: no image has any"""


@dataclass(frozen=True, eq=False)
class Rows:
    """All entries as columns, in the order of their names' bytes."""

    names: bytes
    """one after the other"""
    ends: NDArray[np.int64]
    """(N,) byte at which each name ends"""
    sizes: NDArray[np.int64]
    where: NDArray[np.int64]
    """(N, numbers that the container needs)"""
    given: NDArray[np.int32]
    """(N,) class that the container gives, or -1"""
    captions: CaptionRows | None = None
    """(N,) of each; None: they have none"""

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, row: int) -> bytes:
        return self.names[self.ends[row - 1] if row else 0 : self.ends[row]]

    def only(self, chosen: NDArray[np.int64]) -> "Rows":
        """Return these rows, and nothing that the others take."""
        names = [self.name(int(row)) for row in chosen]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return Rows(
            b"".join(names),
            ends,
            self.sizes[chosen],
            self.where[chosen],
            self.given[chosen],
            None if self.captions is None else self.captions.chosen(chosen),
        )


@final
class Items(Sequence[Item]):
    """Images in the order of their keys' bytes; made from columns on access.

    An image takes the length of its name and 28..60 bytes; objects would take over 300. A slice has
    columns of its own, so that what is pickled of it is of its length.
    """

    def __init__(
        self,
        rows: Rows,
        chosen: NDArray[np.int64],
        labels: NDArray[np.int32],
        num_stripped: int,
    ) -> None:
        """Take the `chosen` rows; `labels` is one for each, `num_stripped` bytes are no key."""
        self._rows = rows
        self._chosen = chosen
        self._labels = labels
        self._num_stripped = num_stripped

    def __len__(self) -> int:
        return len(self._chosen)

    def class_counts(self, num_classes: int) -> tuple[int, ...]:
        """Return the images of each class."""
        return tuple(np.bincount(self._labels, minlength=num_classes).tolist())

    def __iter__(self) -> Iterator[Item]:
        """Yield all, in less than half of the time that their numbers would take."""
        for start in range(0, len(self), _BLOCK_ITEMS):
            chosen = self._chosen[start : start + _BLOCK_ITEMS]
            rows = self._rows
            begins = np.where(chosen > 0, rows.ends[chosen - 1], 0).tolist()
            columns = (rows.ends, rows.sizes, rows.where, rows.given)
            numbers = [column[chosen].tolist() for column in columns]
            labels = self._labels[start : start + _BLOCK_ITEMS].tolist()
            captions = self._captions(chosen)
            for begin, end, size, where, given, label, words in zip(
                begins, *numbers, labels, captions, strict=True
            ):
                raw = rows.names[begin:end]
                name = text_of(raw)
                key = text_of(raw[self._num_stripped :]) if self._num_stripped else name
                own = None if given == NO_LABEL else given
                yield Item(key, Entry(name, size, tuple(where), own), label, words)

    def chosen(self, numbers: NDArray[np.int64]) -> "Items":
        """Return the images of these numbers, with columns of their own."""
        rows = self._rows.only(self._chosen[numbers])
        own = np.arange(len(numbers))
        return Items(rows, own, self._labels[numbers], self._num_stripped)

    def names_sha256(self) -> str:
        """Return the SHA-256 of the keys, labels and captions of all, in their order."""
        own = self.chosen(np.arange(len(self)))
        sha256 = hashlib.sha256(own._rows.names)
        for column in (own._rows.ends.astype("<i8"), own._labels.astype("<i8")):
            sha256.update(column.tobytes())
        sha256.update(b"%d" % own._num_stripped)
        if (captions := own._rows.captions) is not None:
            sha256.update(captions.ends.astype("<i8").tobytes())
            sha256.update(captions.content)
        return sha256.hexdigest()

    def tokens(self, container: Container) -> tuple[NDArray[np.bytes_], NDArray[np.bool_]]:
        """Return (16 bytes for each that differ once it has changed, whether they do for sure).

        Args:
            container: the very object of which these are the entries.
        """
        rows, chosen = self._rows, self._chosen
        marks = container.marks_of(rows.where[chosen])
        packed = np.column_stack([rows.sizes[chosen], marks.values]).astype("<i8").tobytes()
        width = len(packed) // max(len(chosen), 1)
        begins = np.where(chosen > 0, rows.ends[chosen - 1], 0).tolist()
        digests = [
            hashlib.blake2b(
                packed[number * width : (number + 1) * width] + rows.names[begin:end],
                digest_size=TOKEN_BYTES,
            ).digest()
            for number, (begin, end) in enumerate(
                zip(begins, rows.ends[chosen].tolist(), strict=True)
            )
        ]
        return np.frombuffer(b"".join(digests), f"S{TOKEN_BYTES}"), marks.are_trusted

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Items": ...
    def __getitem__(self, index: int | slice) -> "Item | Items":
        if isinstance(index, slice):
            return self.chosen(np.arange(len(self))[index])
        row = int(self._chosen[index])
        name = self._rows.name(row)
        given = int(self._rows.given[row])
        entry = Entry(
            text_of(name),
            int(self._rows.sizes[row]),
            tuple(self._rows.where[row].tolist()),
            None if given == NO_LABEL else given,
        )
        (words,) = self._captions(np.array([row]))
        return Item(text_of(name[self._num_stripped :]), entry, int(self._labels[index]), words)

    def caption_counts(self) -> CaptionCounts | None:
        """Return how many captions the images have; None: they come without."""
        if self._rows.captions is None:
            return None
        counts = CaptionCounts()
        for words in self._captions(self._chosen):
            counts.add(words or ())
        return counts

    def _captions(self, chosen: NDArray[np.int64]) -> Sequence[tuple[str, ...] | None]:
        captions = self._rows.captions
        if captions is None:
            return (None,) * len(chosen)
        return [captions[row] for row in chosen.tolist()]
