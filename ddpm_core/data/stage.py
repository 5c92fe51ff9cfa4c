"""The shard stage: source images to a committed data set, and the run's pointer to it."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ddpm_core import layout
from ddpm_core.canonical import canonical_json
from ddpm_core.config import ComputeConfig, RunConfig
from ddpm_core.data.bundle import Bundle
from ddpm_core.data.containers.names import HARMLESS, quoted
from ddpm_core.data.dataset import make_dataset
from ddpm_core.data.download import downloads_folder
from ddpm_core.data.index import Index, dataset_fingerprint, load_index
from ddpm_core.data.source import Source, require_few_rejected
from ddpm_core.data.splits import load_splits
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.progress import WARNING, Progress
from ddpm_core.storage import Store

_NUM_SHOWN = 3

_log = logging.getLogger(__name__)


def run_shard(store: Store, config: RunConfig) -> str:
    """Make sure that the run has its data set; return the folder of it.

    What is there already, of this run or of another, is used and not made again.

    Raises:
        DataError: the source images cannot be used.
        RunConflictError: the run has a data set, and it is not of these images.
    """
    pointer = layout.dataset_pointer(store, config.name)
    if pointer is not None:
        index = _complete(store, pointer["dataset"])
        if index is not None and index.fingerprint == pointer["fingerprint"]:
            _check_same_data(index, config)
            _show_done(store, index)
            return pointer["dataset"]

    with _source(config) as source:
        folder, fingerprint = _made(store, config, source, pointer)
    value = canonical_json({"dataset": folder, "fingerprint": fingerprint})
    store.create(layout.dataset_pointer_key(config.name), value)
    return folder


@contextmanager
def _source(config: RunConfig) -> Iterator[Source]:
    """The images, and for a collection the cluster that works on them."""
    if config.data.is_collection:
        # With it comes Ray, which a bundle does without.
        from ddpm_core import cluster
        from ddpm_core.data.collection import Collection

        compute = _on_cpus(config)
        with cluster.connect(compute):
            yield Collection.open(config.data, cache=downloads_folder(), compute=compute)
    else:
        yield Bundle(load_splits(config.data, cache=downloads_folder()))


def _on_cpus(config: RunConfig) -> ComputeConfig:
    """Images are decoded on CPUs: no GPU is held, and as many work as are asked for."""
    return config.compute.model_copy(update={"use_gpu": False})


def _made(
    store: Store, config: RunConfig, source: Source, pointer: Mapping[str, str] | None
) -> tuple[str, str]:
    """Return folder and fingerprint of the data set of these images, after making what lacks."""
    images_sha256 = source.digest()
    fingerprint = dataset_fingerprint(config.data, images_sha256)
    if pointer is not None and pointer["fingerprint"] != fingerprint:
        raise RunConflictError(
            f"run {config.name!r} uses {store.uri_of(pointer['dataset'])}, which is not complete, "
            f"and the images of data.source={config.data.source!r} are others (fingerprint "
            f"{fingerprint[:16]}); give the source it was made from, or the run another name"
        )
    folder = layout.dataset_folder(config.data.name, fingerprint)
    index = _complete(store, folder)
    if index is None:
        _make(store, config, source, images_sha256)
    else:
        # Whoever made it may have let more files be left out than this configuration does.
        total = sum(index.num_images.values()) + len(index.rejected)
        require_few_rejected(config.data, index.rejected, total, uri=config.data.source)
        _show_done(store, index)
    return folder, fingerprint


def _make(store: Store, config: RunConfig, source: Source, images_sha256: str) -> None:
    started = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-3)
        note = f"{rate:.0f} images/s" if done else ""
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
        _log.warning(
            "%s%d files were left out%s; %s says which and why",
            WARNING,
            left_out,
            f" ({'; '.join(first)})" if first else "",
            store.uri_of(f"{made.folder}/{layout.DATASET_INDEX}"),
        )


def _complete(store: Store, folder: str) -> Index | None:
    """Return the index if it is whole and every file it names is there, in its full length.

    Their SHA-256 is checked by whoever reads them.
    """
    if not store.exists(f"{folder}/{layout.DATASET_INDEX}"):
        return None
    try:
        index = load_index(store, folder)
    except DataError as error:
        _log.warning("%s", error)
        return None
    present = set(store.names(folder))
    for record in index.manifest.files.values():
        if record.name not in present:
            return None
        # Objects of S3 appear whole or not at all, and a look at each costs a request.
        path = store.local_path(f"{folder}/{record.name}")
        if path is not None and path.stat().st_size != record.size:
            return None
    return index


def _check_same_data(index: Index, config: RunConfig) -> None:
    recorded = index.manifest.body["data"]
    wanted = config.data.identity()
    if recorded != wanted:
        raise RunConflictError(
            f"run {config.name!r} uses the data set {recorded}, this configuration asks for "
            f"{wanted}; give the run another name"
        )


def _show_done(store: Store, index: Index) -> None:
    total = sum(index.num_images.values())
    note = f"done already: {store.uri_of(index.manifest.folder)}"
    Progress("shard", total, total, "images", note).show()
