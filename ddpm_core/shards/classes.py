"""The classes of a data set: shown with their counts, and as many as a network has labels."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import results
from ddpm_core.shards.index import Index, load_index
from ddpm_core.store.storage import Store

_SHOWN = 20
"""classes that are spelt out"""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, by label."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    """training images of each"""

    @classmethod
    def of(cls, index: Index) -> Self:
        """Return those of the data set of an index."""
        return cls(index.label.names, index.label.counts["train"])


def known_classes(store: Store, config: RunConfig) -> Classes | None:
    """Return the classes of the run's data set; None while it has none.

    An index that cannot be read counts as one that is not made yet: stages that need it refuse it.
    """
    with suppress(DataError):
        if (pointer := results.dataset_pointer(store, config.name)) is not None:
            return Classes.of(load_index(store, pointer.folder, pointer.fingerprint))
    return None


def require_classes(config: RunConfig, classes: Sequence[str]) -> None:
    """Refuse a data set of another number of classes than the network has labels.

    Args:
        config: of the run.
        classes: of the data set, by label.

    Raises:
        ConfigError: with both numbers.
    """
    wanted = config.num_classes
    if wanted is None or wanted == len(classes):
        return
    if len(classes) == 1:
        raise ConfigError(
            f"model.conditioning=label, but all images are of one class, {classes[0]!r}: a label "
            "says nothing of them. Leave out model.conditioning and model.num_classes, or sort "
            "the images into a folder for each class"
        )
    raise ConfigError(
        f"model.num_classes={wanted}, but the images have {len(classes)} classes "
        f"({_some(classes)}); set model.num_classes={len(classes)}, under another run name if "
        "this one has begun"
    )


def label_numbers(config: RunConfig, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Return the labels that `sample.labels` lists, as numbers.

    Args:
        config: of a run whose network takes labels, and `sample.labels` a list.
        classes: of the data set, by label; None if it is not known.

    Raises:
        ConfigError: a name that no class has, or that two have, or names where none is known.
    """
    listed = config.sample.labels
    given = listed if isinstance(listed, tuple) else ()
    return tuple(one if isinstance(one, int) else _number_of(one, classes) for one in given)


def _number_of(name: str, classes: Sequence[str] | None) -> int:
    if classes is None:
        raise ConfigError(
            f"sample.labels names {name!r}, and this run has no data set that says which class "
            "that is; give the number of the class, or run the shard stage first"
        )
    found = [label for label, one in enumerate(classes) if one == name]
    if len(found) != 1:
        rule = "is no class of the images" if not found else f"is the name of {len(found)} classes"
        raise ConfigError(
            f"sample.labels has {name!r}, which {rule}; they are {classes_text(classes)}: give "
            "one of these names, or its number"
        )
    return found[0]


def classes_text(classes: Sequence[str], counts: Sequence[int] | None = None) -> str:
    """Return the classes in one line for people: label, name and training images of each."""
    named = [
        f"{label} {name}" if str(label) != name else name for label, name in enumerate(classes)
    ]
    if counts is not None:
        named = [f"{one} ({count})" for one, count in zip(named, counts, strict=True)]
    return _some(named)


def _some(words: Sequence[str]) -> str:
    more = f", ... ({len(words)} in all)" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
