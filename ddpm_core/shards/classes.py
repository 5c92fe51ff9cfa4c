"""The classes of a data set: shown with their counts, and as many as a network has labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import results
from ddpm_core.runs.reference import classifier_of, is_own, keys_given, said, trained_by
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

    Raises:
        DataError: it has one, and the index cannot be read.
    """
    if (pointer := results.dataset_pointer(store, config.name)) is None:
        return None
    return Classes.of(load_index(store, pointer.folder, pointer.fingerprint))


def labelled_classes(
    store: Store, config: RunConfig, *, ours: Sequence[str] | None = None
) -> Classes | None:
    """Return the classes that the labels of a run's samples stand for; None: not known, or none.

    Those of the data set of the run that trained the weights; where that has none, of its own. What
    guides them must call them so too. Where the network takes no labels and a classifier guides it,
    those of the classifier's data set.

    Args:
        store: the root.
        config: of the run.
        ours: the names of the classes of its images, where its data set is not made yet.

    Raises:
        ConfigError: one of the data sets has another number of classes than the network has
            labels, or they name them otherwise.
        DataError: an index cannot be read; or a classifier guides whose data set is gone.
    """
    if config.num_classes is None:
        return _classes_of_guide(store, config)
    own = known_classes(store, config)
    names = own.names if own is not None else ours
    if names is not None:
        require_classes(config, names)
    found = own
    for key in keys_given(config):
        trained = trained_by(store, config, key)
        theirs = None if is_own(config, key) else known_classes(store, trained)
        if theirs is None:
            continue
        require_classes(config, theirs.names)
        if names is not None and tuple(names) != theirs.names:
            first = "Give that run itself as the target" if key == "model" else "Train it anew"
            raise ConfigError(
                f"{said(config, key)}: the labels of run {trained.name!r} stand for other classes: "
                f"{classes_text(names)} here and {classes_text(theirs.names)} there. {first}, or "
                "use its data set"
            )
        names, found = theirs.names, theirs if key == "model" else found
    return found


def _classes_of_guide(store: Store, config: RunConfig) -> Classes | None:
    classifier = classifier_of(store, config)
    if classifier is None:
        return None
    found = known_classes(store, classifier)
    if found is None:
        raise DataError(
            f"{said(config, 'guidance_by')}: run {classifier.name!r} has no data set any more that "
            "says what its classes are; give it back its dataset.json, or run its shard stage"
        )
    require_classes(classifier, found.names)
    return found


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
        key = "conditioning" if config.role == "denoiser" else "kind"
        raise ConfigError(
            f"model.{key}={getattr(config.model, key)}, but all images are of one class, "
            f"{classes[0]!r}: a label says nothing of them. Leave out model.{key} and "
            "model.num_classes, or sort the images into a folder for each class"
        )
    raise ConfigError(
        f"model.num_classes={wanted}, but the images have {len(classes)} classes "
        f"({_some(classes)}); set model.num_classes={len(classes)}, under another run name if "
        "this one has begun"
    )


def require_labels(config: RunConfig, classes: Sequence[str] | None) -> None:
    """Refuse `sample.labels` that these classes give no meaning.

    Args:
        config: of the run.
        classes: by label; None: they are not known.

    Raises:
        ConfigError: as `label_numbers`, or labels as in the training set where none is known.
    """
    if config.sample.labels == "training" and classes is None:
        raise ConfigError(
            "sample.labels=training goes by the training images, and this run has no data "
            "set; run the shard stage first, or leave sample.labels out"
        )
    label_numbers(config, classes)


def label_numbers(config: RunConfig, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Return the labels that `sample.labels` lists, as numbers.

    Args:
        config: of a run whose samples are of classes.
        classes: of the data set, by label; None if it is not known.

    Raises:
        ConfigError: a name that no class has, or that two have, or names where none is known; a
            number that no class has.
    """
    listed = config.sample.labels
    given = listed if isinstance(listed, tuple) else ()
    for one in given:
        if classes is not None and isinstance(one, int) and not 0 <= one < len(classes):
            raise ConfigError(
                f"sample.labels has {one}, and the {len(classes)} classes have the numbers 0 to "
                f"{len(classes) - 1}: {classes_text(classes)}"
            )
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
