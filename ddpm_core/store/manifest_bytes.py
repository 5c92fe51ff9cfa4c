"""The bytes of a manifest: its digest, and what may stand in it."""

import json
import re
from dataclasses import dataclass
from typing import Any

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import CheckpointError
from ddpm_core.store.content import sha256_of

FORMAT_VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
REMEDY = (
    "restore this very file, or delete it and run the stage that made it again, which makes it anew"
)
"""what to do about a damaged file"""


class DamagedError(CheckpointError):
    """Committed bytes are not what was committed; the message names file, expected and found.

    Or they are whole and something else's. Either way the stage that made them sets them aside
    and makes them again.
    """


@dataclass(frozen=True)
class FileRecord:
    """A file of a manifest: its name in the folder, length in bytes, and SHA-256 in hex."""

    name: str
    size: int
    sha256: str


def parsed(
    data: bytes, *, at_most: int, origin: str
) -> tuple[dict[str, Any], dict[str, FileRecord]]:
    """Return body and files of a manifest; `data` must be the very bytes that `commit` writes.

    Raises:
        DamagedError: they are not.
        CheckpointError: another version of this program wrote them.
    """

    def damaged(expected: str, found: str) -> DamagedError:
        return DamagedError(f"{origin} is damaged: expected {expected}, found {found}; {REMEDY}")

    if len(data) > at_most:
        raise damaged(f"at most {at_most} bytes", "more")
    try:
        values: dict[str, Any] = dict(json.loads(data))
        digest = values.pop("digest", None)
        found = sha256_of(canonical_json(values))
        rewritten = canonical_json({**values, "digest": digest})
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged("a JSON object", f"{len(data)} bytes: {str(error)[:200]}") from None
    # Equal bytes, not equal values: no second key of the same name, no NaN, no other spelling.
    if digest != found or rewritten != data:
        raise damaged(f"digest {str(digest)[:64]}", found)
    if values.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{origin} has format {values.get('format')!r}; this program reads "
            f"{FORMAT_VERSION}: use the version of the program that wrote it"
        )
    if set(values) != {"body", "files", "format"} or not isinstance(values["body"], dict):
        raise damaged("body, files and format", ", ".join(sorted(values)))
    files = values["files"]
    if not isinstance(files, dict) or not all(_is_record(record) for record in files.values()):
        raise damaged("files with name, size and sha256", repr(files)[:200])
    return values["body"], {role: FileRecord(**record) for role, record in files.items()}


def _is_record(record: object) -> bool:
    return (
        isinstance(record, dict)
        and set(record) == {"name", "size", "sha256"}
        and isinstance(record["name"], str)
        and _FILE_NAME.fullmatch(record["name"]) is not None
        and type(record["size"]) is int
        and record["size"] >= 0
        and isinstance(record["sha256"], str)
        and _SHA256.fullmatch(record["sha256"]) is not None
    )
