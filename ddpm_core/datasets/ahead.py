"""Which data set below the root a run uses, and what it consists of, before anything starts."""

from contextlib import suppress

from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError
from ddpm_core.runs import named_data, results
from ddpm_core.runs.dataset_names import lineage
from ddpm_core.runs.results import DatasetDamagedError
from ddpm_core.shards.index import load_index
from ddpm_core.sources.glance import Glance
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store


def in_named_set(store: Store, config: RunConfig) -> Glance | None:
    """Return what the data set that `data.sets` names consists of; None if it names none.

    Raises:
        ConfigError: there is no such data set.
        DataError: its index is damaged or gone.
    """
    named = named_data.named_set(store, config)
    if named is None:
        return None
    try:
        index = load_index(store, named.pointer.folder, named.pointer.fingerprint)
    except DatasetDamagedError as error:
        raise DataError(f"{error} of a run with the source that it was made from") from None
    train, test = (index.num_images[split] for split in ("train", "test"))
    text = f"{train} images to train on, {test} held out, in {store.uri_of(named.pointer.folder)}"
    return Glance(train, test, text, index.label.names, index.label.counts["train"])


def dataset_text(store: Store, config: RunConfig) -> str | None:
    """Return which data set below the root a run uses, or may use; None: none that is known.

    Raises:
        ConfigError, DataError: as `in_named_set`.
    """
    named = named_data.named_set(store, config)
    if named is not None:
        newest = lineage(store, named.name)[-1:]
        grown = [one.pinned for one in newest if one.pointer != named.pointer]
        return named.pinned + (f" ({named.name} is {grown[0]} by now)" if grown else "")
    with suppress(DamagedError):  # the stage sets it aside
        if (pointer := results.dataset_pointer(store, config.name)) is not None:
            return named_data.called(store, pointer)
    alike = named_data.alike(store, config)
    if alike is None:
        return None
    return (
        f"{alike.pinned} is made alike, and is used if its images are those of the source; "
        f"--data {alike.name} uses it and needs no source"
    )
