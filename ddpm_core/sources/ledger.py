"""The ledger of a source: what earlier looks found of each file, so that none is read twice.

    ledgers/<digest>.files     of each file of a source, by its token: SHA-256, and what is wrong or
                               out of the ordinary about it
    ledgers/<digest>.made      the same of the files of a source that a data set was made of,
                               whatever the source has by now

It lies below the root, for all runs and machines that use the root, and may be deleted at any time.
A token is a digest of name, size and marks (see `containers.marks`): a file that has changed has
another one, and is read. Nothing rests on a ledger alone: what shards are made of is read, and its
SHA-256 compared.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import DataConfig
from ddpm_core.progress import WARNING
from ddpm_core.sources.containers.container import MAX_ENTRIES
from ddpm_core.sources.items import TOKEN_BYTES
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

FOLDER = "ledgers"
LOOK_VERSION = 1
"""of what a listing and `first_look` say of the same files: with another one all are read again"""
DIGEST_BYTES = 32
_FORMAT = 1
_ROW_BYTES = TOKEN_BYTES + DIGEST_BYTES + 4
_MAX_BYTES = MAX_ENTRIES * _ROW_BYTES + 2**28
_DEEP = 2**31  # a bit beside the number of the text
_TEXTS = ("problem", "note")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What a look found of one file."""

    sha256: bytes
    problem: str | None
    """why it cannot be used"""
    note: str | None
    """what is out of the ordinary about it"""
    is_deep: bool
    """whether it has more than 8 bits for each sample"""


@final
class Ledger:
    """Looks by the tokens of files."""

    def __init__(
        self,
        tokens: NDArray[np.bytes_],
        sha256s: NDArray[np.uint8],
        codes: NDArray[np.uint32],
        texts: list[tuple[str, str]],
    ) -> None:
        """Take columns in the order of the tokens; see `table`."""
        self._tokens, self._sha256s, self._codes, self._texts = tokens, sha256s, codes, texts

    def __len__(self) -> int:
        return len(self._tokens)

    def rows(self, tokens: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return which row says what is known of each token; -1: nothing is."""
        if not len(self):
            return np.full(len(tokens), -1)
        rows = np.minimum(np.searchsorted(self._tokens, tokens), len(self) - 1)
        return np.where(self._tokens[rows] == tokens, rows, -1)

    def sha256s(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return (N, 32) the digests of these rows."""
        return self._sha256s[rows]

    def said(self, rows: NDArray[np.int64]) -> list[tuple[int, Look]]:
        """Return (position in `rows`, look) of those with more to say than a digest."""
        codes = self._codes[rows]
        found = []
        for position in np.flatnonzero(codes).tolist():
            code = int(codes[position])
            kind, text = self._texts[code % _DEEP - 1] if code % _DEEP else ("", "")
            said = {one: text if one == kind else None for one in _TEXTS}
            sha256 = self._sha256s[rows[position]].tobytes()
            found.append((position, Look(sha256, **said, is_deep=code >= _DEEP)))
        return found

    def with_older(self, older: "Ledger") -> "Ledger":
        """Return one of these rows, and of those of another that are not here."""
        left = np.flatnonzero(self.rows(older._tokens) < 0)
        said = dict(self.said(np.arange(len(self))))
        said |= {len(self) + at: look for at, look in older.said(left)}
        tokens = np.concatenate([self._tokens, older._tokens[left]])
        return table(tokens, np.concatenate([self._sha256s, older._sha256s[left]]), said)

    def to_bytes(self, source: str) -> bytes:
        """Return the file that `load` reads."""
        columns = b"".join(
            (self._tokens.tobytes(), self._sha256s.tobytes(), self._codes.astype("<u4").tobytes())
        )
        about = {
            "count": len(self),
            "format": _FORMAT,
            "sha256": sha256_of(columns),
            "source": source,
            "texts": [list(one) for one in self._texts],
        }
        return canonical_json(about) + b"\n" + columns


def table(
    tokens: NDArray[np.bytes_], sha256s: NDArray[np.uint8], said: Mapping[int, Look]
) -> Ledger:
    """Return the ledger of N files.

    Args:
        tokens: (N,).
        sha256s: (N, 32).
        said: position -> look, of those of which there is more to say than a digest.
    """
    texts: dict[tuple[str, str], int] = {}
    codes = np.zeros(len(tokens), np.uint32)
    for position, look in said.items():
        pairs = [(kind, text) for kind in _TEXTS if (text := getattr(look, kind)) is not None]
        code = texts.setdefault(pairs[0], len(texts) + 1) if pairs else 0
        codes[position] = code + (_DEEP if look.is_deep else 0)
    order = tokens.argsort(kind="stable")
    return Ledger(tokens[order], sha256s[order], codes[order], list(texts))


def key_of(data: DataConfig, dataset: str | None = None) -> str:
    """Return the key of the ledger of a source, and of what a look at it depends on.

    Args:
        data: the source.
        dataset: fingerprint of a data set, of whose files alone it is; None: of whatever it is.
    """
    about = {
        "source": place_of(data.source),
        "depth": data.depth,
        "max_pixels": data.max_pixels,
        "version": LOOK_VERSION,
        **({} if dataset is None else {"dataset": dataset}),
    }
    suffix = "files" if dataset is None else "made"
    return f"{FOLDER}/{fingerprint(about)[:16]}.{suffix}"


def place_of(source: str) -> str:
    """Return the place that `data.source` names: a path is made absolute."""
    if "://" in source:
        return source
    try:
        return str(Path(source).expanduser().absolute())
    except (OSError, RuntimeError):
        return source  # it is refused when it is opened


def load(store: Store, data: DataConfig, dataset: str | None = None) -> Ledger:
    """Return what is known of a source; one without rows if nothing is, or what there is is no use.

    The latter is said in one line. `dataset` is as of `key_of`.
    """
    key = key_of(data, dataset)
    try:
        content = store.read(key, at_most=_MAX_BYTES)
    except KeyMissingError:
        return nothing()
    try:
        return _parsed(content, place_of(data.source))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        _log.warning(
            "%s%s is no ledger of this source that can be used (%s): it is passed over, and the "
            "source is read",
            WARNING,
            store.uri_of(key),
            error,
        )
        return nothing()


def save(store: Store, data: DataConfig, ledger: Ledger, dataset: str | None = None) -> None:
    """Put a ledger in the place of what was there; `dataset` is as of `key_of`."""
    if len(ledger):
        store.write(key_of(data, dataset), ledger.to_bytes(place_of(data.source)))


def nothing() -> Ledger:
    """Return a ledger without rows."""
    return table(np.empty(0, f"S{TOKEN_BYTES}"), np.empty((0, DIGEST_BYTES), np.uint8), {})


def _parsed(content: bytes, source: str) -> Ledger:
    header, newline, columns = content.partition(b"\n")
    if not newline:
        raise ValueError("it is cut short")
    about: dict[str, Any] = json.loads(header)
    if about["format"] != _FORMAT:
        raise ValueError(f"its format is {about['format']!r}, this program reads {_FORMAT}")
    if about["source"] != source:
        raise ValueError("it is that of another source")
    count = about["count"]
    if len(columns) != count * _ROW_BYTES or sha256_of(columns) != about["sha256"]:
        raise ValueError("it is damaged")
    at = count * TOKEN_BYTES
    end = at + count * DIGEST_BYTES
    return Ledger(
        np.frombuffer(columns[:at], f"S{TOKEN_BYTES}"),
        np.frombuffer(columns[at:end], np.uint8).reshape(count, DIGEST_BYTES),
        np.frombuffer(columns[end:], "<u4"),
        [(str(kind), str(text)) for kind, text in about["texts"]],
    )
