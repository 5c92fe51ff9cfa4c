"""Which data set below the root a run uses, and what it consists of, before anything starts."""

from contextlib import suppress

from ddpm_core.composing.ahead import captions_of, composed_plan, glance_of
from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError
from ddpm_core.runs import named_data, results
from ddpm_core.runs.dataset_names import NamedSet, lineage
from ddpm_core.runs.results import DatasetDamagedError
from ddpm_core.shards.index import load_index
from ddpm_core.sources.glance import Glance
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store


def in_named_sets(store: Store, config: RunConfig) -> Glance | None:
    """Return what the data sets that `data.sets` names consist of; None if it names none.

    Raises:
        ConfigError: there is no such data set, or they cannot become one.
        DataError: an index is damaged or gone.
    """
    named = named_data.named_sets(store, config)
    if not named:
        return None
    try:
        if named_data.is_composed(store, config):
            return glance_of(composed_plan(store, config))
        index = load_index(store, named[0].pointer.folder, named[0].pointer.fingerprint)
    except DatasetDamagedError as error:
        raise DataError(f"{error} of a run with the source that it was made from") from None
    train, test = (index.num_images[split] for split in ("train", "test"))
    text = f"{train} images to train on, {test} held out, in {store.uri_of(index.manifest.folder)}"
    counts = index.label.counts["train"]
    return Glance(train, test, text, index.label.names, counts, captions_of(index))


def dataset_text(store: Store, config: RunConfig) -> str | None:
    """Return which data set below the root a run uses, or may use; None: none that is known.

    Raises:
        ConfigError, DataError: as `in_named_sets`.
    """
    if named := named_data.named_sets(store, config):
        return ", ".join(_grown(store, one) for one in named)
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


def _grown(store: Store, named: NamedSet) -> str:
    newest = lineage(store, named.name)[-1:]
    grown = [one.pinned for one in newest if one.pointer != named.pointer]
    return named.pinned + (f" ({named.name} is {grown[0]} by now)" if grown else "")
