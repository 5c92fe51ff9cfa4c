"""Tables of captions: CSV with a header, or a JSON object a line; names of files, and texts.

The column of the names is called file_name, file, image or name, that of the texts text, caption or
captions; others do not count. A text has a caption in each line, as a file beside an image has; in
JSON it may be a list of texts.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from ddpm_core.errors import DataError
from ddpm_core.images.names import bytes_of, quoted, shown
from ddpm_core.shards.captions import checked, lines_of, texts_of

TABLE_NAMES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
_OF_NAMES = ("file_name", "file", "image", "name")
_OF_TEXTS = ("text", "caption", "captions")
_MAX_BYTES = 2**30
_NUM_SHOWN = 3


def table_at(path: Path) -> bytes:
    """Return the content of a table on this machine.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"data.caption_table={str(path)!r} cannot be read: {error.strerror}; name a .csv or "
            ".jsonl file on this machine"
        ) from None
    if len(content) > _MAX_BYTES:
        raise DataError(
            f"data.caption_table={str(path)!r} has over {_MAX_BYTES} bytes; split it, and put the "
            "parts beside the images as captions.csv"
        )
    return content


@final
class Tables:
    """What tables say of the images of a container.

    Args:
        uri: of the container, for people.
        names: of its images.
        num_stripped: bytes of the folder that all of them begin with.
    """

    def __init__(self, uri: str, names: Sequence[bytes], num_stripped: int) -> None:
        self._uri = shown(uri)
        self._rows = {name: row for row, name in enumerate(names)}
        self._stripped = names[0][:num_stripped]
        self._captions: dict[int, tuple[str, ...]] = {}

    def take(self, name: str, content: bytes, folder: str) -> None:
        """Take a table.

        Args:
            name: of its file, for people.
            content: of it.
            folder: below which its names are, with a slash behind it; "" for all.

        Raises:
            DataError: it is none, its captions cannot be used, it names no images of the container,
                or one twice.
        """
        where = quoted(name)
        text = _text(where, content)
        read = _of_json if name.lower().endswith(".jsonl") else _of_csv
        missing: list[str] = []
        for line, file, texts in read(where, text):
            row = self._row(file, folder)
            if row is None:
                missing.append(file)
                continue
            if row in self._captions:
                raise DataError(
                    f"{where}, line {line}, names {quoted(file)}, which a line before it names too;"
                    " give all captions of an image in one, a line break between them"
                )
            try:
                self._captions[row] = checked(lines_of(texts))
            except ValueError as error:
                raise DataError(f"{where}, line {line}, {error}") from None
        if missing:
            first = ", ".join(quoted(one) for one in missing[:_NUM_SHOWN])
            raise DataError(
                f"{where} names {len(missing)} files that are no images of {self._uri}, the first: "
                f"{first}; correct the names, which are those below the folder of the table, or "
                "take the lines out"
            )

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each image."""
        return (self._captions.get(row, ()) for row in range(len(self._rows)))

    def _row(self, file: str, folder: str) -> int | None:
        name = bytes_of(folder + file.removeprefix("./"))
        row = self._rows.get(name)
        return self._rows.get(self._stripped + name) if row is None and not folder else row


def _text(where: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}, line {line}, is no text in UTF-8: byte {error.start} is "
            f"0x{content[error.start]:02x}; save it as UTF-8"
        ) from None


def _of_csv(where: str, text: str) -> Iterator[tuple[int, str, list[str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = {(one or "").strip().lower(): one for one in reader.fieldnames or ()}
        name, words = (
            next((header[one] for one in known if one in header), None)
            for known in (_OF_NAMES, _OF_TEXTS)
        )
        if name is None or words is None:
            raise DataError(
                f"{where} has the columns {', '.join(map(repr, header)) or 'none'}; its first line "
                "must name them, and among them file_name and text"
            )
        for row in reader:
            yield reader.line_num, row[name] or "", [row[words] or ""]
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}, is no CSV: {error}; mend it") from None


def _of_json(where: str, text: str) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError("is no JSON object")  # noqa: TRY301, TRY004
            name = _first(found, _OF_NAMES)
            if not isinstance(name, str):
                raise ValueError("has no file_name that is a text")  # noqa: TRY301, TRY004
            words = _first(found, _OF_TEXTS)
            yield number, name, [] if words is None else texts_of(words, "text")
        except (ValueError, RecursionError) as error:
            raise DataError(
                f'{where}, line {number}, {error}; each must be as {{"file_name": "1.png", "text": '
                '"a cat"}'
            ) from None


def _first(found: Mapping[str, Any], keys: Sequence[str]) -> object:
    return next((found[key] for key in keys if found.get(key) is not None), None)
