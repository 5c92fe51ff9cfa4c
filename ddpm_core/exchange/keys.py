"""Read a configuration of another program; unsupported values are reported in one error."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_core.errors import ConfigError


@dataclass(frozen=True)
class Described:
    """A network of another program that is one of ours."""

    model: dict[str, Any]
    """the model section"""
    shape: tuple[int, int, int]
    """(channels, height, width) of its images"""
    out_channels: int
    """channels of its output: twice the images', if it predicts the variance too"""


class Keys:
    """The keys of one JSON object, each with the default of the program that wrote it.

    A wrong value is noted and a harmless one returned in its place, until `finish` raises.
    """

    def __init__(self, values: Mapping[str, Any], *, origin: str) -> None:
        self._values, self._origin = values, origin
        self._known: set[str] = set()
        self._problems: list[str] = []

    def value(self, key: str, default: object = None) -> Any:  # noqa: ANN401 - whatever JSON can say
        """Return what stands under `key`."""
        self._known.add(key)
        return self._values.get(key, default)

    def fixed(self, key: str, default: object, allowed: Sequence[object]) -> None:
        """Note a problem unless `key` has one of the values that are the same as ours."""
        if self.value(key, default) not in allowed:
            self.problem(key, "must be " + " or ".join(json.dumps(one) for one in allowed))

    def whole(self, key: str, default: int) -> int:
        """Return a whole number of at least 1."""
        value = self.value(key, default)
        if _is_whole(value):
            return int(value)
        self.problem(key, "must be a whole number of at least 1")
        return 1

    def wholes(self, key: str, default: Sequence[int]) -> list[int]:
        """Return a list of at least one such number."""
        value = self.value(key, list(default))
        if isinstance(value, list) and value and all(_is_whole(one) for one in value):
            return value
        self.problem(key, "must be a list of whole numbers of at least 1")
        return [1]

    def number(self, key: str, default: float) -> float:
        """Return a number; its range is for the caller to check."""
        value = self.value(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        self.problem(key, "must be a number")
        return 0.0

    def choice(self, key: str, default: str, choices: Mapping[str, str]) -> str:
        """Return our name of the choice under `key`."""
        value = self.value(key, default)
        if isinstance(value, str) and value in choices:
            return choices[value]
        self.problem(key, f"must be {', '.join(choices)}")
        return next(iter(choices.values()))

    def size(self, key: str) -> tuple[int, int]:
        """Return height and width, which one number may say."""
        value = self.value(key)
        if isinstance(value, list):
            found = self.wholes(key, ())
            if len(found) == 2:
                return found[0], found[1]
        elif value is not None:
            found = [self.whole(key, 1)]
            return found[0], found[0]
        self.problem(key, "must say one size, or height and width; write it into the file")
        return 1, 1

    def classes(self, key: str) -> dict[str, Any]:
        """Return the keys of a model section that say of how many classes there are rows."""
        num_rows = self.value(key)
        if num_rows is None:
            return {"conditioning": "none", "num_classes": None}
        if not _is_whole(num_rows) or num_rows < 3:
            self.problem(
                key,
                "must be null, or the number of classes and one more: the last row is that of no "
                "class",
            )
            num_rows = 3
        return {"conditioning": "label", "num_classes": num_rows - 1}

    def problem(self, key: str, rule: str) -> None:
        """Note that the value of `key` breaks `rule`."""
        if key not in self._values:
            self._problems.append(f"{key}, not given, has diffusers' default, and {rule}")
        else:
            self._problems.append(f"{key}={json.dumps(self._values[key])[:200]}: {rule}")

    def finish(self, *, others_count: bool = True) -> None:
        """Refuse what is wrong or not known, if anything is. A key of `_` or null says nothing.

        Args:
            others_count: whether a key that was not asked for may change the network.

        Raises:
            ConfigError: with a line for each key.
        """
        for key, value in self._values.items() if others_count else ():
            if key not in self._known and not key.startswith("_") and value is not None:
                self.problem(key, "this program does not know what that changes")
        if self._problems:
            raise self._refusal()

    def refusal(self, key: str, rule: str) -> ConfigError:
        """Return the error for one value that only others show to be wrong."""
        self.problem(key, rule)
        return self._refusal()

    def _refusal(self) -> ConfigError:
        lines = "\n".join(f"  {line}" for line in self._problems)
        return ConfigError(
            f"{self._origin} describes what this program has not:\n{lines}\n"
            "Its weights would be those of another function here; they are not imported."
        )


def _is_whole(value: object) -> bool:
    return type(value) is int and value >= 1
