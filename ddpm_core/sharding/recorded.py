"""Which data set a run has: by its dataset.json, its checkpoints, and what lies there."""

import logging

from ddpm_core.config import RunConfig
from ddpm_core.progress import WARNING, Progress
from ddpm_core.runs import layout, named_data, places, results
from ddpm_core.runs.results import DatasetDamagedError, DatasetPointer
from ddpm_core.shards.index import Index, load_index, require_identity
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import KeyMissingError, Store

_log = logging.getLogger(__name__)


def recorded(
    store: Store, config: RunConfig
) -> tuple[DatasetPointer | None, Index | None, bytes | None]:
    """Return which data set the run uses, if that is on record, and its index, if it is complete.

    A pointer that is damaged, or names a data set that is not this run's, is passed over with a
    warning, and its bytes are the third: the images of the source say which one it is.
    """
    try:
        pointer = results.dataset_pointer(store, config.name)
        if pointer is None:
            return None, None, None
        _require_trained_on(store, config, pointer)
        index = complete(store, pointer)
        if index is not None:
            results.require_data(store, config, index.manifest)
    except DatasetDamagedError as error:
        _log.warning("%s%s", WARNING, error)
        return None, None, pointer_bytes(store, config)
    return pointer, index, None


def pointer_bytes(store: Store, config: RunConfig) -> bytes | None:
    """Return what the run's dataset.json begins with; None if there is none."""
    try:
        key = layout.dataset_pointer_key(config.name)
        return store.read(key, at_most=results.MAX_POINTER_BYTES)
    except KeyMissingError:
        return None


def _require_trained_on(store: Store, config: RunConfig, pointer: DatasetPointer) -> None:
    """Refuse a data set on which the run's checkpoints were not trained.

    Raises:
        DatasetDamagedError: with both fingerprints.
    """
    fingerprint = trained_on(store, config)
    if fingerprint not in (None, pointer.fingerprint):
        raise DatasetDamagedError(
            f"{store.uri_of(layout.dataset_pointer_key(config.name))} names the data set "
            f"{pointer.fingerprint[:16]}, and the run's checkpoints were trained on "
            f"{fingerprint}: it is passed over, and made anew of the run's own images"
        )


def trained_on(store: Store, config: RunConfig) -> str | None:
    """Return the data set of the run's newest checkpoint; None if there is none to say it.

    One that another experiment made was copied here, and is refused by the stages that read it.
    """
    ours = places.experiment(store, config)
    for step in layout.committed_steps(store, config.name):
        folder = layout.checkpoint_folder(config.name, step)
        try:
            found = manifest.load(store, folder, places.checkpoint_expected(step))
        except DamagedError:
            continue  # the train stage sets it aside
        if found is not None and found.body.get("experiment") == ours:
            return None if results.is_imported(found) else str(found.body.get("dataset"))
    return None


def complete(store: Store, pointer: DatasetPointer) -> Index | None:
    """Return the index if it is whole and every file it names is there, in its full length.

    Their SHA-256 is checked when they are read. An index that is damaged, or another data
    set's than its folder's name says, is set aside.

    Raises:
        DatasetDamagedError: the index is whole and its folder's own, and the pointer is wrong.
    """
    folder, name = pointer.folder, layout.DATASET_INDEX
    if not store.exists(f"{folder}/{name}"):
        return None
    found = manifest.intact(store, folder, Expected({}), check=require_identity, name=name)
    if found is None:
        return None
    if (refusal := results.index_expected(pointer).refusal(found.body)) is not None:
        raise DatasetDamagedError(f"{store.uri_of(folder)} is another data set: {refusal}")
    try:
        found.require_sizes(store)
        index = load_index(store, folder, pointer.fingerprint)
        if index.is_in_parts:
            index.require_there(store)
    except DamagedError as error:
        _log.warning("%s", error)
        return None
    return index


def show_done(store: Store, index: Index) -> None:
    total, name = sum(index.num_images.values()), named_data.called(store, index.pointer)
    where = store.uri_of(index.manifest.folder)
    note = f"done already: {where}" + ("" if where.endswith(name) else f" ({name})")
    Progress("shard", total, total, "images", note).show()
    say_captions(index)


def say_captions(index: Index) -> None:
    """Say what captions the images of a data set have, if they have any."""
    total = sum(index.num_images.values())
    counts = None if index.captions is None else index.captions.counts
    for split, one in (counts or {}).items():
        Progress("shard", total, total, "images", f"captions of {split}: {one}").show()
