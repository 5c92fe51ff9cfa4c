"""Files of prompts: read once, where a command or a flow begins; the setting becomes their texts.

So a run's fingerprints depend on the texts, and neither on the place nor on what becomes of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_core.config import RunConfig
from ddpm_core.config.prompts import FILE, prompts_of_lines
from ddpm_core.errors import ConfigError
from ddpm_core.store.storage import KeyMissingError, open_store

KEY = "sample.prompts"
_MAX_BYTES = 2**20
"""of a file; far more than a configuration takes"""


def with_texts(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes of a configuration in which a file of prompts has become its texts.

    Args:
        changes: `{"section.key": value}`, or a section given whole.

    Raises:
        ConfigError: the file is not there, too long, or no text in UTF-8.
        StorageError: the storage does not answer.
    """
    section, key = KEY.split(".")
    named = dict(changes)
    if _is_file(named.get(KEY)):
        named[KEY] = _read(named[KEY])
    whole = named.get(section)
    if isinstance(whole, Mapping) and _is_file(whole.get(key)):
        named[section] = {**whole, key: _read(whole[key])}
    return named


def pinned(config: RunConfig, overrides: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the overrides with which all stages of a flow use the same prompts: those of `config`.

    A file that they name may change between two stages, and other machines may not see it.
    """
    if not _is_file((overrides or {}).get(KEY)):
        return overrides
    return {**(overrides or {}), KEY: list(config.sample.prompts)}


def _is_file(value: object) -> bool:
    return isinstance(value, str) and value.startswith(FILE)


def _read(value: str) -> list[str]:
    place, named = value.removeprefix(FILE), f"{KEY}={value[:300]!r}"
    try:
        content = _in_bucket(place) if place.startswith("s3://") else _on_disk(place)
    except (KeyMissingError, FileNotFoundError):
        raise ConfigError(f"{named}: there is no such file; give another, or the texts") from None
    except (OSError, RuntimeError, ValueError) as error:  # no such user; a folder; a NUL
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"{named} cannot be read: {reason}; give another file") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{named} is longer than the {_MAX_BYTES} bytes that are read")
    return prompts_of_lines(content, origin=named)


def _in_bucket(uri: str) -> bytes:
    folder, _, name = uri.rpartition("/")
    if not name or folder == "s3:/":
        raise ValueError("an object of a bucket is s3://bucket/key")
    return open_store(folder).read(name, at_most=_MAX_BYTES)


def _on_disk(place: str) -> bytes:
    path = Path(place).expanduser()
    if path.exists() and not path.is_file():  # a pipe without a writer would wait
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        return file.read(_MAX_BYTES + 1)
