"""Images of one class: which distance cannot be measured of them, and what to give for it."""

from contextlib import suppress

from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import results
from ddpm_core.shards.index import Index, load_index
from ddpm_core.store.storage import Store

_REASON = (
    "the training images are of one class, from which evaluate.features=trained learns nothing; "
    "give evaluate.features=inception, dinov2 or clip (after the training too), or a network of "
    "your own with evaluate.features_sha256, or images in folders of several classes"
)


def why_no_distance(config: RunConfig, index: Index | None) -> str | None:
    """Return why images of this run have no Frechet distance; None if they have one.

    The features of `evaluate.features=trained` are those of a network that learned to tell the
    classes of the training images apart. If there is one class it learns nothing: its weights stay
    random, its accuracy is 1, and a distance between its features says nothing.

    Args:
        config: the run's.
        index: of its data set; None if that is not made yet: then the configuration may know.
    """
    if config.data.is_made:
        return f"{config.data.name} is no set of pictures, which feature networks are made for"
    if config.evaluate.features != "trained":
        return None
    if index is None:
        known = config.data.is_collection and not config.data.class_folders
        return _REASON if known else None
    num_classes = sum(count > 0 for count in index.label.counts["train"])
    return _REASON if num_classes == 1 else None


def distance_warning(
    store: Store, config: RunConfig, *, num_classes: int | None = None
) -> str | None:
    """Return what to say before the training if no Frechet distance will be measured.

    An index that cannot be read counts as one that is not made yet: stages that need it refuse it.

    Args:
        store: the root.
        config: of the run.
        num_classes: of the source, where its names are known and the data set is not made yet.

    Raises:
        ConfigError: `evaluate.metrics` asks for numbers of features, and there are none.
    """
    index = None
    with suppress(DataError):
        if (pointer := results.dataset_pointer(store, config.name)) is not None:
            index = load_index(store, pointer.folder, pointer.fingerprint)
    reason = why_no_distance(config, index)
    if index is None and num_classes == 1 and config.evaluate.features == "trained":
        reason = _REASON
    if reason is None:
        return None
    require_no_metrics(config, reason)
    return f"no Frechet distance will be measured, bits/dim alone: {reason}"


def require_no_metrics(config: RunConfig, reason: str | None) -> None:
    """Refuse `evaluate.metrics` where there are no features to measure; `reason` says why not.

    Raises:
        ConfigError: some are named.
    """
    if reason is not None and config.evaluate.metrics:
        raise ConfigError(
            f"evaluate.metrics names {', '.join(config.evaluate.metrics)}, and none can be "
            f"measured: {reason}"
        )
