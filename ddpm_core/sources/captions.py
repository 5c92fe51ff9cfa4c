"""The captions of images, found in a container beside them or in a table, before any image is read.

    cat/1.png  cat/1.txt           a text beside the image, a caption a line
    0001.jpg   0001.caption        in WebDataset shards also .caption and .text
    cat/1.png  cat/1.json          of `data.caption_key`: JSON
    cat/captions.csv               file_name,text: names below the folder of the table
    train/metadata.jsonl           {"file_name": "1.png", "text": "a cat"}, or a list of texts

The last two are what the data sets of Hugging Face have.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.images.names import TEXT, bytes_of, quoted, shown
from ddpm_core.shards.caption_rows import CaptionRows
from ddpm_core.shards.captions import captions_in
from ddpm_core.sources.caption_table import TABLE_NAMES, Tables, table_at
from ddpm_core.sources.containers.container import Container, Entry, EntryError, PassedOver
from ddpm_core.sources.containers.shard_files import CAPTIONS
from ddpm_core.sources.items import Rows

_NUM_SHOWN = 10
_AT_ONCE = 1024  # files that are asked for at once


class Captions(abc.ABC):
    """Where captions are, of the files that a listing comes upon."""

    endings: tuple[str, ...] = ()
    """of the files of a sample of a shard that are wanted beside the image"""

    @abc.abstractmethod
    def takes(self, entry: Entry) -> bool:
        """Take a file that is no image, if it may have captions; say whether it does."""

    @abc.abstractmethod
    def read(
        self, container: Container, rows: Rows, num_stripped: int, passed_over: PassedOver
    ) -> CaptionRows:
        """Return the captions of all rows; () of an image that has none.

        Args:
            container: where the files lie.
            rows: the images.
            num_stripped: bytes of the folder that all names begin with.
            passed_over: what has no captions of an image is noted here.

        Raises:
            DataError: some cannot be used, or no image has any.
            StorageError: the container does not answer.
        """


def captions_of(data: DataConfig) -> Captions | None:
    """Return where the captions of a source are; None: it has none, or they are not wanted."""
    if data.captions == "beside":
        return _Beside(data.caption_key)
    if data.captions == "table":
        return _InTable(data.caption_table)
    return None


@final
class _Beside(Captions):
    """Files of the same name as the image's, with another ending."""

    def __init__(self, key: str | None) -> None:
        self._key = key
        self.endings = CAPTIONS if key is None else ("json",)
        self._found: dict[bytes, Entry] = {}

    def takes(self, entry: Entry) -> bool:
        stem, dot, ending = entry.name.rpartition(".")
        if not dot or ending.lower() not in self.endings:
            return False
        key = bytes_of(f"{stem}.{ending.lower()}")
        if (other := self._found.setdefault(key, entry)) is not entry:
            raise DataError(
                f"{quoted(other.name)} and {quoted(entry.name)} are both captions of one image; "
                "take one of them out"
            )
        return True

    def read(
        self,
        container: Container,
        rows: Rows,
        num_stripped: int,  # noqa: ARG002 - as of all
        passed_over: PassedOver,
    ) -> CaptionRows:
        problems: list[str] = []

        def content_of(entry: Entry | None) -> tuple[str, ...]:
            if entry is None or not entry.size:
                return ()
            try:
                return captions_in(container.read(entry), self._key)
            except EntryError as error:
                problems.append(f"{quoted(entry.name)} {error.reason}")
            except ValueError as error:
                problems.append(f"{quoted(entry.name)} {error}")
            return ()

        entries = [self._of_image(rows.name(row)) for row in range(len(rows))]
        found = CaptionRows.of(_mapped(content_of, entries, container.num_readers))
        _refuse(problems, container.uri)
        used = {entry.name for entry in entries if entry is not None}
        for entry in self._found.values():
            if entry.name not in used:
                passed_over.add(TEXT, entry.name, harmless=True)
        what = " or ".join(f"NAME.{one}" for one in self.endings)
        if self._key is not None:
            what += f" with the key {self._key!r}"
        _require_some(found, container.uri, f"no image has captions beside it: {what}")
        return found

    def _of_image(self, name: bytes) -> Entry | None:
        stem = name.rpartition(b".")[0]
        found = (self._found.get(stem + f".{ending}".encode()) for ending in self.endings)
        return next((entry for entry in found if entry is not None), None)


@final
class _InTable(Captions):
    """Tables of names and texts, in the container or one outside."""

    def __init__(self, place: str | None) -> None:
        self._place = None if place is None else Path(place).expanduser()
        self._entries: list[Entry] = []

    def takes(self, entry: Entry) -> bool:
        if entry.name.rpartition("/")[2].lower() not in TABLE_NAMES:
            return False
        self._entries.append(entry)
        return self._place is None

    def read(
        self,
        container: Container,
        rows: Rows,
        num_stripped: int,
        passed_over: PassedOver,  # noqa: ARG002 - as of all
    ) -> CaptionRows:
        tables = Tables(container.uri, [rows.name(row) for row in range(len(rows))], num_stripped)
        if self._place is not None:
            tables.take(str(self._place), table_at(self._place), "")
        elif not self._entries:
            raise DataError(
                f"data.captions=table, and {shown(container.uri)} has no {' or '.join(TABLE_NAMES)}"
                "; put one there, or name one with data.caption_table"
            )
        for entry in sorted(self._entries) if self._place is None else ():
            folder, slash, _ = entry.name.rpartition("/")
            tables.take(entry.name, container.read(entry), folder + slash)
        found = CaptionRows.of(tables.captions())
        _require_some(found, container.uri, "the table has no text of any image")
        return found


def _mapped(
    function: Callable[[Entry | None], tuple[str, ...]],
    entries: Sequence[Entry | None],
    num_readers: int,
) -> Iterator[tuple[str, ...]]:
    if num_readers == 1:
        yield from map(function, entries)
        return
    with ThreadPoolExecutor(num_readers) as pool:
        for start in range(0, len(entries), _AT_ONCE):
            yield from pool.map(function, entries[start : start + _AT_ONCE])


def _refuse(problems: Sequence[str], uri: str) -> None:
    if not problems:
        return
    lines = "".join(f"\n  {line}" for line in problems[:_NUM_SHOWN])
    more = f"\n  and {len(problems) - _NUM_SHOWN} more" if len(problems) > _NUM_SHOWN else ""
    raise DataError(
        f"{len(problems)} files of {shown(uri)} have captions that cannot be used:{lines}{more}\n"
        "Mend them or take them out: an image without a caption has the empty one"
    )


def _require_some(found: CaptionRows, uri: str, why: str) -> None:
    if not len(found.content):
        raise DataError(f"{shown(uri)}: {why}; give it, or leave data.captions out")
