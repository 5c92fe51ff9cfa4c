"""A case of the corpus: what somebody hands to the command line, and what has to come of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CANARY = "canary"
"""A file that whatever executes data would make in the case's folder."""

SHARD_IMAGES = (
    "shard",
    "images",
    "--root",
    "{here}/root",
    "--set",
    "data.source={here}/source",
    "--set",
    "data.num_test_images=1",
    "--set",
    "evaluate.num_likelihood_images=1",
)


Content = bytes | Callable[[], bytes]
"""of a file; what takes long to make is made when its case runs, not when tests are collected"""


def bytes_of(content: Content) -> bytes:
    return content() if callable(content) else content


def nothing(here: Path) -> None:
    """Make no file."""


@dataclass(frozen=True)
class Case:
    """`{here}` in arguments, environment and `says` stands for the case's own folder."""

    name: str
    says: tuple[str, ...]
    """what the output must hold: the file or key, the rule, the remedy"""
    code: int
    """the exit code"""
    make: Callable[[Path], None] = nothing
    """makes the files in the case's own folder"""
    arguments: tuple[str, ...] = SHARD_IMAGES
    environment: Mapping[str, str] = field(default_factory=dict)
    never_says: tuple[str, ...] = ()
    """secrets, which the output must not hold"""
