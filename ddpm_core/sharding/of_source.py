"""The data set of a source: found by its seal or its images, and made if it is not there."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial

from ddpm_core.config import ComputeConfig, RunConfig
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.images.names import HARMLESS, quoted
from ddpm_core.progress import WARNING, Progress
from ddpm_core.runs import layout
from ddpm_core.runs.dataset_names import require_free
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.sharding.bundle import Bundle
from ddpm_core.sharding.dataset import make_dataset, may_be_there
from ddpm_core.sharding.in_place import InPlace
from ddpm_core.sharding.known import Known, Sorting
from ddpm_core.sharding.recorded import complete, say_captions, show_done, trained_on
from ddpm_core.sharding.source import Source, require_few_rejected
from ddpm_core.shards.classes import require_classes
from ddpm_core.shards.index import dataset_fingerprint, load_index
from ddpm_core.sources import seals
from ddpm_core.sources.download import downloads_folder
from ddpm_core.sources.glance import listed
from ddpm_core.sources.splits import load_splits
from ddpm_core.store.storage import Store

_NUM_SHOWN = 3
_OTHERWISE = (
    "If nothing was changed, an earlier version may have read this folder otherwise: docs/data.md "
    "says which layouts, and what to give then"
)

_log = logging.getLogger(__name__)


@contextmanager
def _source(
    store: Store, config: RunConfig, known: Known | None = None
) -> Iterator[Source | InPlace]:
    """The images, without those that are known; for a collection with the cluster that works on
    them, once it is needed.
    """
    if config.data.in_place:
        with closing(InPlace(config.data)) as shards:
            from ddpm_core import cluster  # as below

            compute = _on_cpus(config)
            with cluster.connect(compute):
                shards.look(compute)
                yield shards
    elif config.data.is_collection:
        container, listing = listed(config.data, cache=downloads_folder())
        # With it comes Ray: not before the names are known to be those of images to train on.
        from ddpm_core import cluster
        from ddpm_core.sharding.collection import Collection

        with ExitStack() as connections:
            # Once, and only if files are read: a local cluster takes seconds to start.
            connect = cache(lambda: connections.enter_context(cluster.connect(_on_cpus(config))))
            if known is not None:
                sorting = Sorting(store, config.data, container, listing, known)
                listing = sorting.new(_on_cpus(config), connect)
            is_part = known is not None
            yield Collection(config.data, container, listing, connect=connect, is_part=is_part)
    else:
        yield Bundle(load_splits(config.data, cache=downloads_folder()))


def _on_cpus(config: RunConfig) -> ComputeConfig:
    """Images are decoded on CPUs: no GPU is reserved, and all configured workers take part."""
    return config.compute.model_copy(update={"use_gpu": False})


def alone(store: Store, config: RunConfig, known: Known | None) -> DatasetPointer | None:
    """Return the data set of a source by itself, of which others are made: `from_others.Make`."""
    seal = _seal_of(config)
    # Without some of its files it is not what the record of a seal says.
    there = None if known is not None else _sealed(store, config, seal, None, is_alone=True)
    if there is not None:
        return there
    with _source(store, config, known) as source:
        if isinstance(source, Source) and not any(source.num_images.values()):
            return None
        return _made(store, config, source, seal, None, is_alone=True, is_whole=known is None)


def of_source(store: Store, config: RunConfig, pointer: DatasetPointer | None) -> DatasetPointer:
    """Return the data set of the run's images, after making what lacks."""
    seal = _seal_of(config)
    if (there := _sealed(store, config, seal, pointer)) is not None:
        return there
    with _source(store, config) as source:
        require_classes(config, source.classes)
        return _made(store, config, source, seal, pointer)


def _seal_of(config: RunConfig) -> seals.Seal | None:
    """Return what tells a source from what it will be; taken before it is listed."""
    # What is used in place keeps records of its own; a bundle is read in seconds.
    has_one = config.data.is_collection and not config.data.in_place
    return seals.seal_of(config.data) if has_one else None


def _sealed(
    store: Store,
    config: RunConfig,
    seal: seals.Seal | None,
    pointer: DatasetPointer | None,
    *,
    is_alone: bool = False,
) -> DatasetPointer | None:
    """Return the data set of archives that are as they were, if it is there: none is opened."""
    known = seals.known(store, config.data, seal)
    if known is None:
        return None
    if not is_alone:
        require_classes(config, known.classes)
    made = _required(store, config, known.images_sha256, pointer, is_alone=is_alone)
    return made if _is_there(store, config, made) else None


def _made(
    store: Store,
    config: RunConfig,
    source: Source | InPlace,
    seal: seals.Seal | None,
    pointer: DatasetPointer | None,
    *,
    is_alone: bool = False,
    is_whole: bool = True,
) -> DatasetPointer:
    """Return the data set of these images, after making what lacks.

    Args:
        store: where.
        config: the run.
        source: the images.
        seal: of the source, as it was before it was listed; None: it has none.
        pointer: to the data set that the run has, if it is not complete or is to be checked.
        is_alone: whether others are made of it, and it is not the run's own: one of its splits
            may be empty.
        is_whole: whether these are all images of the source.
    """
    if isinstance(source, Source):
        there = partial(may_be_there, store, config.data, source)
        try:
            source.find_out(store, _on_cpus(config), may_be_there=there)
        except DataError:
            if seal is not None:  # from that would follow what else is wrong
                seals.require_same(config.data, seal)
            raise
    images_sha256 = source.digest()
    if isinstance(source, Source) and is_whole:
        seals.keep(store, config.data, seal, _known(source, images_sha256))
    else:
        seals.require_same(config.data, seal)
    made = _required(store, config, images_sha256, pointer, is_alone=is_alone)
    if not _is_there(store, config, made):
        _make(store, config, source, images_sha256, is_alone=is_alone)
    if isinstance(source, Source):
        source.tidy(store, made.fingerprint)
    return made


def _known(source: Source, images_sha256: str) -> seals.Known:
    return seals.Known(
        images_sha256,
        tuple(source.classes),
        tuple(source.class_counts),
        source.num_images["train"],
        source.num_images["test"],
        sum(source.passed_over.values()),
        source.captions,
    )


def _is_there(store: Store, config: RunConfig, made: DatasetPointer) -> bool:
    """Say whether the data set is there, whole; refuse one that this run would not have made."""
    index = complete(store, made)
    if index is None:
        return False
    # It may have been made with a larger max_bad_share than this configuration allows.
    total = sum(index.num_images.values()) + len(index.rejected)
    require_few_rejected(config.data, index.rejected, total, uri=config.data.source)
    show_done(store, index)
    return True


def _required(
    store: Store,
    config: RunConfig,
    images_sha256: str,
    pointer: DatasetPointer | None,
    *,
    is_alone: bool,
) -> DatasetPointer:
    """Return which data set these images make; refuse them if the run is of others."""
    fingerprint = dataset_fingerprint(config.data, images_sha256)
    theirs = None if is_alone else trained_on(store, config)
    if theirs not in (None, fingerprint):
        raise RunConflictError(
            f"run {config.name!r} has checkpoints that were trained on the data set {theirs}, "
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
    if config.data.set_name is not None:
        require_free(store, config.data.set_name, fingerprint)
    return DatasetPointer(layout.dataset_folder(config.data.name, fingerprint), fingerprint)


def _make(
    store: Store,
    config: RunConfig,
    source: Source | InPlace,
    images_sha256: str,
    *,
    is_alone: bool,
) -> None:
    if isinstance(source, InPlace):
        folder = layout.dataset_folder(
            config.data.name, dataset_fingerprint(config.data, images_sha256)
        )
        source.commit(store, folder, images_sha256)
        say_captions(load_index(store, folder))
        return
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
        is_alone=is_alone,
        on_progress=on_progress,
    )
    rejected = made.body["rejected"]
    left_out = len(rejected) + sum(
        count for reason, count in made.body["passed_over"].items() if reason not in HARMLESS
    )
    say_captions(load_index(store, made.folder))
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
