"""What a data set is made of, where it is made of other data sets: its shards lie in their folders.

"made_of" in index.json, one entry for each, whose shards come one after the other:

    {"dataset": folder, "fingerprint": ..., "weight": 7 or null, "num_shards": {"train": 3, ...}}

With weights it is a mixture, of which training draws so many of each; without, it is the union of
them. A part of one data set is made of that one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_core.shards.members import whole
from ddpm_core.store.manifest import Manifest

MADE_OF, LEFT_OUT = "made_of", "left_out"
"""keys of index.json"""


@dataclass(frozen=True)
class Ancestor:
    """One data set of which another is made."""

    folder: str
    fingerprint: str
    weight: int | None
    """how many of its images are drawn, beside the others' weights; None: of a union"""
    num_shards: Mapping[str, int]
    """split -> shards of the new data set that are its own"""

    def entry(self) -> dict[str, Any]:
        """Return what index.json says of it."""
        return {
            "dataset": self.folder,
            "fingerprint": self.fingerprint,
            "weight": self.weight,
            "num_shards": dict(self.num_shards),
        }


@dataclass(frozen=True)
class LeftOut:
    """How many images were left out of a split, and why; of several reasons the first counts."""

    by_class: int = 0
    unlisted: int = 0
    duplicates: int = 0

    def entry(self) -> dict[str, Any]:
        """Return what index.json says of it."""
        return vars(self).copy()

    def __str__(self) -> str:
        words = {
            "of other classes": self.by_class,
            "that are not listed": self.unlisted,
            "equal to another": self.duplicates,
        }
        return ", ".join(f"{count} {text}" for text, count in words.items() if count) or "none"


def left_out(index: Manifest) -> dict[str, LeftOut]:
    """Return what was left out of each split of a data set that is made of others; {} if nothing.

    Raises:
        TypeError: the index says no such thing.
    """
    return {split: LeftOut(**counts) for split, counts in index.body.get(LEFT_OUT, {}).items()}


def made_of(index: Manifest) -> tuple[Ancestor, ...]:
    """Return the data sets that one is made of, as its index says; () if it is of its own.

    Raises:
        KeyError, TypeError, ValueError: the index says no such thing.
    """
    return tuple(
        Ancestor(
            str(entry["dataset"]),
            str(entry["fingerprint"]),
            None if entry["weight"] is None else whole(entry["weight"]),
            {str(split): whole(count) for split, count in entry["num_shards"].items()},
        )
        for entry in index.body.get(MADE_OF, ())
    )


def is_mixture(ancestors: Sequence[Ancestor]) -> bool:
    """Say whether images are drawn by weights, and not each once in an epoch."""
    return any(one.weight is not None for one in ancestors)
