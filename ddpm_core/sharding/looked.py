"""What is known of each file of a collection: by the ledger of earlier looks, or one of today."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.shards.captions import file_of
from ddpm_core.shards.index import SPLITS, Rejected, Split
from ddpm_core.sources.containers.container import Container
from ddpm_core.sources.items import Items
from ddpm_core.sources.ledger import DIGEST_BYTES, Ledger, Look, table

_LOOK_FILES = 1000  # looked at by one worker at a time


class ScanResult(NamedTuple):
    """What a look at some files found."""

    sha256s: bytes
    """DIGEST_BYTES each"""
    problems: dict[int, str]
    """position among the files -> why it cannot be used"""
    notes: dict[int, str]
    """position among the files -> what is out of the ordinary about it"""
    deep: list[int]
    """positions of files of more than 8 bits for each sample"""


@final
class Looked:
    """The files of a collection, and what is known of them."""

    def __init__(self, container: Container, items: dict[Split, Items]) -> None:
        """Take the files that `container` listed; nothing is known of them yet."""
        self._items = items
        self._sha256s: dict[Split, NDArray[np.uint8]] = {}
        self._known: dict[Split, NDArray[np.bool_]] = {}
        self._tokens: dict[Split, NDArray[np.bytes_]] = {}
        self._trusted: dict[Split, NDArray[np.bool_]] = {}
        self._said: dict[Split, dict[int, Look]] = {}
        for split, files in items.items():
            self._sha256s[split] = np.zeros((len(files), DIGEST_BYTES), np.uint8)
            self._known[split] = np.zeros(len(files), np.bool_)
            self._tokens[split], self._trusted[split] = files.tokens(container)
            self._said[split] = {}

    @property
    def num_files(self) -> int:
        """Files in all."""
        return sum(map(len, self._items.values()))

    @property
    def num_unknown(self) -> int:
        """Files that are still to be read."""
        return self.num_files - sum(int(known.sum()) for known in self._known.values())

    @property
    def num_doubtful(self) -> int:
        """Files of which a later listing cannot show for sure whether they have changed."""
        return sum(int((~trusted).sum()) for trusted in self._trusted.values())

    @property
    def num_deep(self) -> int:
        """Files of more than 8 bits for each sample, of those that are known."""
        return sum(look.is_deep for said in self._said.values() for look in said.values())

    def recall(self, ledger: Ledger) -> None:
        """Take what the ledger knows of files that have not changed for sure."""
        for split in SPLITS:
            rows = ledger.rows(self._tokens[split])
            known = np.flatnonzero((rows >= 0) & self._trusted[split])
            rows = rows[known]
            self._sha256s[split][known] = ledger.sha256s(rows)
            self._known[split][known] = True
            for position, look in ledger.said(rows):
                self._said[split][int(known[position])] = look

    def to_ledger(self) -> Ledger:
        """Return what is known of files of which a later listing can tell whether they changed."""
        tokens, sha256s, count = [], [], 0
        said: dict[int, Look] = {}
        for split in SPLITS:
            kept = np.flatnonzero(self._known[split] & self._trusted[split])
            numbers = np.array(sorted(self._said[split]), np.int64)
            places = np.searchsorted(kept, numbers[np.isin(numbers, kept)])
            said |= {count + at: self._said[split][int(kept[at])] for at in places.tolist()}
            tokens.append(self._tokens[split][kept])
            sha256s.append(self._sha256s[split][kept])
            count += len(kept)
        return table(np.concatenate(tokens), np.concatenate(sha256s), said)

    def take(self, split: Split, numbers: NDArray[np.int64], found: ScanResult) -> None:
        """Take what a look at these files of a split found."""
        digests = np.frombuffer(found.sha256s, np.uint8).reshape(-1, DIGEST_BYTES)
        self._sha256s[split][numbers] = digests
        self._known[split][numbers] = True
        for position in {*found.problems, *found.notes, *found.deep}:
            self._said[split][int(numbers[position])] = Look(
                digests[position].tobytes(),
                found.problems.get(position),
                found.notes.get(position),
                position in found.deep,
            )

    def parts_unknown(self) -> list[tuple[Split, NDArray[np.int64]]]:
        """Return the numbers of the files that are still to be read, in parts for one worker."""
        parts: list[tuple[Split, NDArray[np.int64]]] = []
        for split in SPLITS:
            unknown = np.flatnonzero(~self._known[split])
            starts = range(0, len(unknown), _LOOK_FILES)
            parts += [(split, unknown[start : start + _LOOK_FILES]) for start in starts]
        return parts

    def signature(self, split: Split, start: int, stop: int) -> str | None:
        """Return what differs once one of these files has changed; None if that is not sure."""
        if not self._trusted[split][start:stop].all():
            return None
        return hashlib.sha256(self._tokens[split][start:stop].tobytes()).hexdigest()

    def sha256s(self, split: Split, start: int, stop: int) -> bytes:
        """Return DIGEST_BYTES of each of these files."""
        return self._sha256s[split][start:stop].tobytes()

    def problems(self, split: Split, start: int, stop: int) -> dict[int, str]:
        """Return position from `start` on -> why the file cannot be used."""
        return {
            number - start: look.problem
            for number, look in self._said[split].items()
            if look.problem is not None and start <= number < stop
        }

    def notes(self, split: Split) -> dict[int, str]:
        """Return number of a file -> what is out of the ordinary about it, in their order."""
        said = sorted(self._said[split].items())
        return {number: look.note for number, look in said if look.note is not None}

    def rejected(self) -> Iterator[Rejected]:
        """Yield the files that cannot be used by their headers, in their order."""
        for split in SPLITS:
            for number, look in sorted(self._said[split].items()):
                if look.problem is not None:
                    item = self._items[split][number]
                    yield Rejected(item.key, look.problem, item.entry.size)

    def digest(self, classes: tuple[str, ...]) -> str:
        """Return the SHA-256 of all keys, labels, captions and contents, in order."""
        sha256 = hashlib.sha256(repr(classes).encode("utf-8", "surrogateescape"))
        for split in SPLITS:
            items, notes = self._items[split], self.notes(split)
            sha256.update(b"%d images:" % len(items))
            digests = self._sha256s[split].tobytes()
            for number, item in enumerate(items):
                key = item.key.encode("utf-8", "surrogateescape")
                sha256.update(b"%d:%b%d;" % (len(key), key, item.label))
                sha256.update(digests[DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)])
                # Earlier versions refused these: their data sets hold none, and keep their digest.
                note = notes.get(number)
                if note is not None:
                    sha256.update(b"read: %b;" % note.encode())
                if item.captions is not None:
                    words = file_of(item.captions)
                    sha256.update(b"captions:%d:%b;" % (len(words), words))
        return sha256.hexdigest()
