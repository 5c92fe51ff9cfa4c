"""The classes of a data set: shown with their counts, and as many as a network has labels."""

from collections.abc import Sequence
from contextlib import suppress

from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import results
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import Store

_SHOWN = 20
"""classes that are spelt out"""


def known_classes(store: Store, config: RunConfig) -> tuple[str, ...] | None:
    """Return what label 0, 1, ... of the run's data set means; None while it has none.

    An index that cannot be read counts as one that is not made yet: stages that need it refuse it.
    """
    with suppress(DataError):
        if (pointer := results.dataset_pointer(store, config.name)) is not None:
            return load_index(store, pointer.folder, pointer.fingerprint).classes
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
