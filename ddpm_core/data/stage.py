"""The shard stage: source images to a committed data set, and the run's pointer to it."""

import logging
import os
from pathlib import Path

from ddpm_core import layout
from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.data.shards import Index, dataset_fingerprint, load_index, shard_dataset
from ddpm_core.data.sources import load_source
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.progress import Progress
from ddpm_core.storage import Store

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

    splits = load_source(config.data, cache=_cache())
    fingerprint = dataset_fingerprint(config.data, splits.digest())
    if pointer is not None and pointer["fingerprint"] != fingerprint:
        raise RunConflictError(
            f"run {config.name!r} uses {store.uri_of(pointer['dataset'])}, which is not complete, "
            f"and the images of data.source={config.data.source!r} are others (fingerprint "
            f"{fingerprint[:16]}); give the source it was made from, or the run another name"
        )
    folder = layout.dataset_folder(config.data.name, fingerprint)
    index = _complete(store, folder)
    if index is None:
        shard_dataset(
            store,
            config.data,
            splits,
            num_workers=config.compute.num_workers,
            on_progress=lambda done, total: Progress("shard", done, total, "images").show(),
        )
    else:
        _show_done(store, index)
    value = canonical_json({"dataset": folder, "fingerprint": fingerprint})
    store.create(layout.dataset_pointer_key(config.name), value)
    return folder


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


def _cache() -> Path:
    """Return the folder for downloads: the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ddpm-pipeline"
