"""JSON that means one thing: one spelling when written, nothing ambiguous when read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ddpm_core.errors import ConfigError
from ddpm_core.output import printable

MAX_JSON_BYTES = 2**20
MAX_JSON_DEPTH = 32
# Made once: making it takes as long as what it writes of an image.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of `values`."""
    return hashlib.sha256(canonical_json(values)).hexdigest()


def canonical_json(values: Any) -> bytes:  # noqa: ANN401 - whatever JSON can say
    """Return one spelling of `values`: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(values).encode()


def parse_json(text: str | bytes, *, origin: str) -> dict[str, Any]:
    """Read a JSON object from outside with bounded size and depth.

    Raises:
        ConfigError: duplicate keys, NaN or Infinity, over 1 MiB, over 32 levels, no object.
    """
    if len(text) > MAX_JSON_BYTES:
        raise ConfigError(
            f"{origin} is longer than is read, which is at most {MAX_JSON_BYTES} bytes"
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = sorted({key for key, _ in pairs if sum(key == k for k, _ in pairs) > 1})
            raise ConfigError(
                f"{origin} gives {printable(', '.join(twice)[:300])} more than once; keep one"
            )
        return values

    def no_constant(name: str) -> float:
        raise ConfigError(f"{origin} contains {name}; every number must be finite")

    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        if json_depth(decoded) > MAX_JSON_DEPTH:
            raise ConfigError(f"{origin} is nested deeper than {MAX_JSON_DEPTH} levels")
        values = json.loads(decoded, object_pairs_hook=unique, parse_constant=no_constant)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin} is not UTF-8 text: {error}") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{origin} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{origin} holds {type(values).__name__}; it must hold one JSON object")
    return values


def json_depth(text: str) -> int:
    """Count brackets, those in strings too: an upper bound that cannot recurse."""
    deepest = level = 0
    for character in text:
        if character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest
