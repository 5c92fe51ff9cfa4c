"""A thing that holds files: what a folder, an archive and a bucket have in common."""

import abc
from bisect import insort
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Self, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images.names import quoted, shown
from ddpm_core.sources.containers.marks import Marks

MAX_ENTRY_BYTES = 128 * 2**20
"""No single file is read beyond this: a photograph of 2**26 pixels is smaller."""
MAX_ENTRIES = 10**7
"""of one container. Listing takes up to some 310 bytes for each: 3.1 GB at the bound."""
_NUM_EXAMPLES = 10


class EntryError(DataError):
    """A single file of a container cannot be used, and never will be."""

    def __init__(self, message: str, reason: str = "") -> None:
        """Take the message for people, and the reason alone, which names no place."""
        super().__init__(message)
        self.reason = reason


class Entry(NamedTuple):
    """One file of a container. All of it goes through JSON and back unharmed."""

    name: str
    """its exact name, parts joined by "/"; bytes that are no UTF-8 stand as lone surrogates
    (`surrogateescape`), which JSON writes as \\udc80..\\udcff"""
    size: int
    """bytes of its content, as far as the container says so; what is read is checked"""
    where: tuple[int, ...] = ()
    """what its container needs besides the name to find it again, in any process"""
    label: int | None = None
    """the class that the container itself gives; folders in `name` give another kind"""


@dataclass
class PassedOver:
    """Files that a listing leaves out, by reason: how many, and the first of them by name."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    """the reasons for which what is left out may have been meant as an image"""

    def add(self, reason: str, name: str, *, harmless: bool) -> None:
        """Note one file; `harmless` if it cannot be meant as an image."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        first = self.examples.setdefault(reason, [])
        if len(first) < _NUM_EXAMPLES or name < first[-1]:  # not by the order of the disk
            insort(first, name)
            del first[_NUM_EXAMPLES:]
        if not harmless:
            self.lost.add(reason)

    def lines(self, *, only_lost: bool = False) -> list[str]:
        """Return one line for each reason: `12 files: hidden; the first: '.DS_Store', ...`."""
        return [
            f"{count} passed over: {reason}; the first: "
            + ", ".join(quoted(name) for name in self.examples[reason])
            for reason, count in sorted(self.counts.items())
            if reason in self.lost or not only_lost
        ]


class Container(abc.ABC):
    """Files by name. Listed once, by one process; read by many.

    Listing raises DataError for what is damaged or hostile as a whole, StorageError for what does
    not answer. What is wrong with a single file is said when that file is read.
    """

    uri: str
    """for people: where it lies"""
    folders_are_classes = True
    """whether the folders in names may be classes; if not, only `Entry.label` is"""
    num_readers = 1
    """threads for which it pays to read at once"""
    beside: Collection[str] = ()
    """endings of files beside an image that are wanted too, where not all files are listed"""
    source: Mapping[str, str | None] | None = None
    """the arguments of `opening.open_container`, if it came from there"""
    identities: Mapping[str, str] = MappingProxyType({})
    """of copies in the cache: path -> what identifies the content, such as an ETag; "" if nothing
    does"""

    @abc.abstractmethod
    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        """Yield every file, in any order, and note in `passed_over` what is none.

        All the container's own checks are done when the iterator has ended, not before.
        """

    @abc.abstractmethod
    def read(self, entry: Entry) -> bytes:
        """Return the bytes of an entry of an earlier listing.

        Raises:
            EntryError: it is over 128 MiB, is damaged, or is no longer what was listed.
            DataError: the container is no longer what was listed.
            StorageError: the place does not answer.
        """

    def marks_of(self, where: NDArray[np.int64]) -> Marks:
        """Return what shows that entries have changed since they were listed, as it was then.

        Args:
            where: `Entry.where` of each, (N, numbers), of the last `entries` of this very object.
        """
        return Marks(np.zeros((len(where), 0), np.int64), np.zeros(len(where), np.bool_))

    @abc.abstractmethod
    def place(self) -> dict[str, Any]:
        """Return as JSON what `opening` needs to make the same container, on this machine."""

    def is_here(self) -> bool:
        """Say whether the files of `place` are there: copies in a cache are on one machine only."""
        return True

    @final
    def description(self) -> dict[str, Any]:
        """Return JSON from which `opening.reopen` makes the same container in any process.

        On a machine without the copy in the cache it is fetched or unpacked there.
        """
        return {"place": self.place(), "source": None if self.source is None else {**self.source}}

    def close(self) -> None:  # noqa: B027 - most hold nothing open
        """Give back what is held open; the container can be used again all the same."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refuse_large(uri: str, entry: Entry) -> None:
    """Raise EntryError if an entry says of itself that it is over 128 MiB, or below nothing."""
    if not 0 <= entry.size <= MAX_ENTRY_BYTES:
        reason = f"has {entry.size} bytes; an image may have at most {MAX_ENTRY_BYTES}"
        raise EntryError(
            f"{quoted(entry.name)} in {shown(uri)} {reason}. Make it smaller, or leave it out",
            reason,
        )


def changed_meanwhile(uri: str, name: str) -> DataError:
    """Return the error for a source in which something writes while it is read."""
    return DataError(
        f"{quoted(name)} in {shown(uri)} has changed while the source was read; let nothing write "
        "there, then run again: what has not changed is not read again"
    )


def changed(uri: str, entry: Entry, found: str) -> EntryError:
    """Return the error for an entry that is not what was listed; `found` names no place."""
    reason = f"is damaged, or has changed since it was listed: {found}"
    message = f"{quoted(entry.name)} in {shown(uri)} {reason}. Fetch or make it again"
    return EntryError(message, reason)
