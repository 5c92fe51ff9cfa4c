"""The shard stage: source images to a committed data set, and the run's pointer to it."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

from ddpm_core.config import ComputeConfig, RunConfig
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.images.names import HARMLESS, quoted
from ddpm_core.progress import WARNING, Progress
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.results import DatasetDamagedError, DatasetPointer
from ddpm_core.runs.run import open_stage
from ddpm_core.sharding.bundle import Bundle
from ddpm_core.sharding.dataset import make_dataset, may_be_there
from ddpm_core.sharding.source import Source, require_few_rejected
from ddpm_core.shards.classes import require_classes
from ddpm_core.shards.index import Index, dataset_fingerprint, load_index, require_identity
from ddpm_core.sources import seals
from ddpm_core.sources.download import downloads_folder
from ddpm_core.sources.glance import listed
from ddpm_core.sources.splits import load_splits
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import KeyMissingError, Store

_NUM_SHOWN = 3
_OTHERWISE = (
    "If nothing was changed, an earlier version may have read this folder otherwise: docs/data.md "
    "says which layouts, and what to give then"
)

_log = logging.getLogger(__name__)


def run_shard(store: Store, config: RunConfig) -> str:
    """Make sure that the run has its data set; return the folder of it.

    What is there already, of this run or of another, is used and not made again.

    Raises:
        ConfigError: they are of another number of classes than the network has labels.
        DataError: the source images cannot be used.
        RunConflictError: the run has a data set, and it is not of these images.
    """
    key = layout.dataset_pointer_key(config.name)
    pointer, index, passed_over = _recorded(store, config)
    if pointer is not None and index is not None and not config.data.recheck:
        _show_done(store, index)
        return pointer.folder
    made = _made(store, config, pointer)
    open_stage(store, config)  # the run's first result is about to stand, and not earlier its name
    if passed_over is not None and passed_over == _pointer_bytes(store, config):
        store.delete(key)
    store.create(key, made.to_json())
    return made.folder


def _recorded(
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
        index = _complete(store, pointer)
        if index is not None:
            results.require_data(store, config, index.manifest)
    except DatasetDamagedError as error:
        _log.warning("%s%s", WARNING, error)
        return None, None, _pointer_bytes(store, config)
    return pointer, index, None


def _pointer_bytes(store: Store, config: RunConfig) -> bytes | None:
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
    trained_on = _trained_on(store, config)
    if trained_on not in (None, pointer.fingerprint):
        raise DatasetDamagedError(
            f"{store.uri_of(layout.dataset_pointer_key(config.name))} names the data set "
            f"{pointer.fingerprint[:16]}, and the run's checkpoints were trained on "
            f"{trained_on}: it is passed over, and made anew of the run's own images"
        )


def _trained_on(store: Store, config: RunConfig) -> str | None:
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


@contextmanager
def _source(config: RunConfig) -> Iterator[Source]:
    """The images, and for a collection the cluster that works on them, once it is needed."""
    if config.data.is_collection:
        container, listing = listed(config.data, cache=downloads_folder())
        # With it comes Ray: not before the names are known to be those of images to train on.
        from ddpm_core import cluster
        from ddpm_core.sharding.collection import Collection

        with ExitStack() as connections:
            # Once, and only if files are read: a local cluster takes seconds to start.
            connect = cache(lambda: connections.enter_context(cluster.connect(_on_cpus(config))))
            yield Collection(config.data, container, listing, connect=connect)
    else:
        yield Bundle(load_splits(config.data, cache=downloads_folder()))


def _on_cpus(config: RunConfig) -> ComputeConfig:
    """Images are decoded on CPUs: no GPU is reserved, and all configured workers take part."""
    return config.compute.model_copy(update={"use_gpu": False})


def _made(store: Store, config: RunConfig, pointer: DatasetPointer | None) -> DatasetPointer:
    """Return the data set of the run's images, after making what lacks."""
    is_sealed = config.data.is_collection
    seal = seals.seal_of(config.data) if is_sealed else None
    known = seals.known(store, config.data, seal) if is_sealed else None
    if known is not None:
        require_classes(config, known.classes)
        made = _required(store, config, known.images_sha256, pointer)
        if _is_there(store, config, made):
            return made
    with _source(config) as source:
        require_classes(config, source.classes)
        compute = _on_cpus(config)
        try:
            source.find_out(
                store, compute, may_be_there=lambda: may_be_there(store, config.data, source)
            )
        except DataError:
            seals.require_same(config.data, seal)  # from that would follow what else is wrong
            raise
        images_sha256 = source.digest()
        if is_sealed:
            seals.keep(store, config.data, seal, _known(source, images_sha256))
        made = _required(store, config, images_sha256, pointer)
        if not _is_there(store, config, made):
            _make(store, config, source, images_sha256)
        source.tidy(store)
    return made


def _known(source: Source, images_sha256: str) -> seals.Known:
    return seals.Known(
        images_sha256,
        tuple(source.classes),
        tuple(source.class_counts),
        source.num_images["train"],
        source.num_images["test"],
        sum(source.passed_over.values()),
    )


def _is_there(store: Store, config: RunConfig, made: DatasetPointer) -> bool:
    """Say whether the data set is there, whole; refuse one that this run would not have made."""
    index = _complete(store, made)
    if index is None:
        return False
    # It may have been made with a larger max_bad_share than this configuration allows.
    total = sum(index.num_images.values()) + len(index.rejected)
    require_few_rejected(config.data, index.rejected, total, uri=config.data.source)
    _show_done(store, index)
    return True


def _required(
    store: Store, config: RunConfig, images_sha256: str, pointer: DatasetPointer | None
) -> DatasetPointer:
    """Return which data set these images make; refuse them if the run is of others."""
    fingerprint = dataset_fingerprint(config.data, images_sha256)
    trained_on = _trained_on(store, config)
    if trained_on not in (None, fingerprint):
        raise RunConflictError(
            f"run {config.name!r} has checkpoints that were trained on the data set {trained_on}, "
            f"and the images of data.source={config.data.source!r} are others (fingerprint "
            f"{fingerprint}); give the source it was made from, or the run another "
            f"name. {_OTHERWISE}"
        )
    if pointer is not None and pointer.fingerprint != fingerprint:
        raise RunConflictError(
            f"run {config.name!r} uses {store.uri_of(pointer.folder)}, which is not complete or is "
            f"to be checked, and the images of data.source={config.data.source!r} are others "
            f"(fingerprint {fingerprint[:16]}); give the source it was made from, or the run "
            f"another name. {_OTHERWISE}. If dataset.json was exchanged, delete it"
        )
    return DatasetPointer(layout.dataset_folder(config.data.name, fingerprint), fingerprint)


def _make(store: Store, config: RunConfig, source: Source, images_sha256: str) -> None:
    started = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-3)
        note = f"{rate:.0f} images/s" if done else ""
        if source.is_made_ahead:
            note = "put into the data set"
        Progress("shard", done, total, "images", note).show()

    made = make_dataset(
        store,
        config.data,
        source,
        _on_cpus(config),
        images_sha256=images_sha256,
        on_progress=on_progress,
    )
    rejected = made.body["rejected"]
    left_out = len(rejected) + sum(
        count for reason, count in made.body["passed_over"].items() if reason not in HARMLESS
    )
    if left_out:
        first = [f"{quoted(one['key'])}: {one['reason']}" for one in rejected[:_NUM_SHOWN]]
        first += source.left_out
        _log.warning(
            "%s%d files were left out%s; %s says why, and which of the images",
            WARNING,
            left_out,
            f" ({'; '.join(first)})" if first else "",
            store.uri_of(f"{made.folder}/{layout.DATASET_INDEX}"),
        )


def _complete(store: Store, pointer: DatasetPointer) -> Index | None:
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
    except DamagedError as error:
        _log.warning("%s", error)
        return None
    return load_index(store, folder, pointer.fingerprint)


def _show_done(store: Store, index: Index) -> None:
    total = sum(index.num_images.values())
    note = f"done already: {store.uri_of(index.manifest.folder)}"
    Progress("shard", total, total, "images", note).show()
