"""Millions of images as columns: what a listing keeps of each, and how one is looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final, overload

import numpy as np
from numpy.typing import NDArray

from ddpm_core.images.names import text_of
from ddpm_core.sources.containers.container import Entry

NO_LABEL = -1


class Item(NamedTuple):
    """One image of a split."""

    key: str
    """its name without the folder that everything lies in; unique, and exact as `Entry.name`"""
    entry: Entry
    label: int


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

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, row: int) -> bytes:
        return self.names[self.ends[row - 1] if row else 0 : self.ends[row]]

    def only(self, chosen: NDArray[np.int64]) -> "Rows":
        """Return these rows, and nothing that the others take."""
        names = [self.name(int(row)) for row in chosen]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return Rows(
            b"".join(names), ends, self.sizes[chosen], self.where[chosen], self.given[chosen]
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

    def chosen(self, numbers: NDArray[np.int64]) -> "Items":
        """Return the images of these numbers, with columns of their own."""
        rows = self._rows.only(self._chosen[numbers])
        own = np.arange(len(numbers))
        return Items(rows, own, self._labels[numbers], self._num_stripped)

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
        return Item(text_of(name[self._num_stripped :]), entry, int(self._labels[index]))
