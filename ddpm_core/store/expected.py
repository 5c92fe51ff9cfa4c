"""The identity that a manifest must have to be accepted, and how another differs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_SHOWN = 200  # characters of a value in a message


@dataclass(frozen=True)
class Expected:
    """What a manifest must say of itself to be the one that is read."""

    body: Mapping[str, Any]
    """keys of the body, each with its value"""
    if_written: Mapping[str, Any] = field(default_factory=dict)
    """keys that earlier versions did not write: compared where they are there"""
    noted: Mapping[str, Any] = field(default_factory=dict)
    """keys that are written and not compared: several values stand for equal bytes"""

    def refusal(self, body: Mapping[str, Any]) -> str | None:
        """Return how `body` differs, both identities in words; None if it is the expected one."""
        required = dict(_differences(self.body, body))
        written = {key: value for key, value in self.if_written.items() if key in body}
        found = [*required.items(), *_differences(written, body)]
        return "; ".join(text for _, text in found) or None


def _differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield (key, both values in words) of each key whose value is another."""
    for key, wanted in expected.items():
        value = found.get(key)
        if isinstance(wanted, Mapping) and isinstance(value, Mapping):
            every = {**dict.fromkeys(value), **wanted}
            yield from _differences(every, value, f"{prefix}{key}.")
        elif value != wanted or type(value) is not type(wanted):
            yield f"{prefix}{key}", f"{prefix}{key} is {_shown(value)}, expected {_shown(wanted)}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
