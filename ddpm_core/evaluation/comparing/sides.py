"""What `compare` can compare: images of a folder, of archives, of a run or a data set; statistics.

A name is looked up in this order: a file of statistics (.npz); a folder or archive on this machine
or in a bucket, of which a run's folder is the run and a data set's the data set; a run below the
root; a data set below the root.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.config import RUN_NAME_PATTERN, RunConfig
from ddpm_core.config.data_ref import DataSets, is_folder_name
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.evaluation.features.statistics import Statistics, from_npz
from ddpm_core.images.image_facts import UnreadableError
from ddpm_core.images.image_walk import walk
from ddpm_core.images.names import bytes_of, is_of_a_system, quoted, reason_to_pass_over
from ddpm_core.images.pixels import plain_pixels
from ddpm_core.loading.loader import load_split
from ddpm_core.runs import layout, results
from ddpm_core.runs.dataset_names import NamedSet, find, lineage
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.run import configure
from ddpm_core.runs.stages import require_denoiser
from ddpm_core.runs.targets import dataset_place, run_place
from ddpm_core.sampling.plan import load_plan
from ddpm_core.sampling.units import read_unit, units_of
from ddpm_core.shards.index import SPLITS, Index, Split, load_index
from ddpm_core.shards.members import LABEL
from ddpm_core.sources.containers.container import Container, Entry, PassedOver
from ddpm_core.sources.containers.opening import open_container
from ddpm_core.sources.download import downloads_folder
from ddpm_core.store.foreign_bucket import ForeignBucket, bucket_and_key
from ddpm_core.store.pinned_file import MAX_PINNED_BYTES
from ddpm_core.store.storage import Store, open_store

_SPLIT = re.compile(r"(.+):(train|test)")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_BACKGROUND = (255, 255, 255)
_AT_ONCE = 64
_TOO_LONG = f"{{}} has over {MAX_PINNED_BYTES} bytes; give statistics"

Labelled = tuple[Tensor, list[str]]
"""uint8 images (n, c, h, w) of one size, and the class of each, "" where there is none"""
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One of the two sets of images."""

    said: str
    """for people: what it is"""
    num_images: int
    batches: Callable[[Numbers], Iterator[Labelled]]
    """the images of these numbers, which ascend"""
    of: tuple[Store, Index] | None = None
    """the data set that it is of, or was trained on"""
    config: RunConfig | None = None
    """of a run, whose samples or data set it is"""
    statistics: Statistics | None = None
    """of which there are no images"""


def side_of(target: str, *, root: str) -> Side:
    """Return what `target` names.

    Args:
        target: as the module says; a run or a data set perhaps with `:train` or `:test`.
        root: where names are looked up.

    Raises:
        ConfigError: it names nothing.
        DataError: what it names has no image, or is damaged.
        StorageError: a place does not answer.
    """
    if target.endswith(".npz"):
        return _of_statistics(target)
    with_split = _SPLIT.fullmatch(target)
    name, split = (with_split[1], with_split[2]) if with_split else (target, None)
    if "://" in name or "/" in name or _exists(name):
        return _of_place(name, split)
    store = open_store(root)
    if re.fullmatch(RUN_NAME_PATTERN, name) and store.exists(layout.run_json_key(name)):
        return _of_run(run_place(name, root), split)
    if (named := _dataset_below(store, name)) is not None:
        return _of_dataset(store, named.pointer.folder, split, named.pointer)
    raise ConfigError(
        f"{quoted(target)} is no file or folder here, no run and no data set below {root}; give a "
        "folder of images, an archive or shards (path or s3://), a run, a data set with :train or "
        ":test, or an .npz of statistics"
    )


def _of_place(name: str, split: str | None) -> Side:
    if name.endswith("/run.json") or _is_there(name, "run.json"):
        return _of_run(name if "/" in name else f"./{name}", split)
    if (place := dataset_place(name)) is not None and _is_there(name, layout.DATASET_INDEX):
        return _of_dataset(open_store(place[0]), place[1], split)
    if split is not None:
        raise ConfigError(
            f"{quoted(name)}:{split}: only a run or a data set has splits; leave :{split} out"
        )
    return _of_container(open_container(name, cache=downloads_folder()))


def _is_there(folder: str, name: str) -> bool:
    if folder.lower().endswith(_ARCHIVES) or ("://" not in folder and not _is_folder(folder)):
        return False
    return open_store(folder).exists(name)


def _is_folder(path: str) -> bool:
    return _exists(path) and Path(path).expanduser().is_dir()


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # no such user; too long; a NUL
        return False


def _of_statistics(path: str) -> Side:
    found = from_npz(_bytes_of(path), origin=quoted(path))
    count = "an unknown number of" if found.num_images is None else str(found.num_images)
    said = f"statistics {path}, of {count} images"
    return Side(said, found.num_images or 0, lambda _numbers: iter(()), statistics=found)


def _bytes_of(path: str) -> bytes:
    if path.startswith("s3://"):
        name, key = bucket_and_key(path)
        bucket = ForeignBucket(name)
        found = next((one for one in bucket.objects(key) if one.key == key), None)
        if found is None:
            raise ConfigError(f"{quoted(path)} is not there; give another")
        if found.size <= MAX_PINNED_BYTES:
            return bucket.read_whole(key, found.size)[0]
        raise ConfigError(_TOO_LONG.format(quoted(path)))
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{quoted(path)} cannot be read: {reason}; give another") from None
    if len(data) > MAX_PINNED_BYTES:
        raise ConfigError(_TOO_LONG.format(quoted(path)))
    return data


def _of_run(place: str, split: str | None) -> Side:
    home, config = configure(place, root=None, run=None, changes={})
    store = open_store(home)
    pointer = results.dataset_pointer(store, config.name)
    if split is not None:
        if pointer is None:
            raise DataError(f"run {config.name!r} has no data set yet; run the shard stage first")
        return replace(_of_dataset(store, pointer.folder, split, pointer), config=config)
    require_denoiser(config, "compare")
    samples = results.samples_of(store, config)
    if samples is None:
        raise DataError(
            f"run {config.name!r} has no complete samples of the settings of its run.json; run the "
            "sample stage first"
        )
    plan, shape = load_plan(store, config), config.data.shape

    def batches(numbers: Numbers) -> Iterator[Labelled]:
        for unit in units_of(config.sample):
            mine = torch.from_numpy(numbers[(numbers >= unit.start) & (numbers < unit.stop)])
            if not len(mine):
                continue
            whole = torch.from_numpy(read_unit(store, samples, unit, shape))
            images_u8, labels = whole[mine - unit.start], plan.labels(mine)
            has_names = labels is not None and bool(plan.names)
            names = [plan.names[i] for i in labels.tolist()] if has_names else [""] * len(images_u8)  # type: ignore[union-attr]
            yield images_u8.permute(0, 3, 1, 2).contiguous(), names

    index = None
    if pointer is not None:
        index = load_index(store, pointer.folder, pointer.fingerprint)
    total = config.sample.num_images
    return Side(
        f"run {config.name}, {total} samples",
        total,
        batches,
        None if index is None else (store, index),
        config,
    )


def _dataset_below(store: Store, text: str) -> NamedSet | None:
    """Return the data set that a reference means: by a name that it has, or by its folder's.

    Raises:
        ConfigError: the name is that of data sets of other digits.
        DataError: its entry, or its index, is damaged.
    """
    try:
        ref = DataSets.parse(text).only
    except ValueError:
        return None
    if ref is None or ref.weight is not None:
        return None
    return find(store, ref) if is_folder_name(ref.name) or lineage(store, ref.name) else None


def _of_dataset(
    store: Store, folder: str, split: str | None, pointer: DatasetPointer | None = None
) -> Side:
    index = load_index(store, folder, None if pointer is None else pointer.fingerprint)
    chosen: Split = SPLITS[1] if split == "test" else SPLITS[0]
    total, names = index.num_images[chosen], index.label.names
    if not total:
        other = "train" if chosen == "test" else "test"
        raise DataError(f"data set {folder} has no {chosen} images; give its :{other}")

    def batches(numbers: Numbers) -> Iterator[Labelled]:
        with closing(load_split(store, index, chosen, eight_bits=True, stage="compare")) as images:
            for start in range(0, len(numbers), _AT_ONCE):
                some = numbers[start : start + _AT_ONCE]
                labels = images.member(LABEL, some).tolist()
                yield images.take(some), [names[i] if names else "" for i in labels]

    return Side(f"data set {folder}, {total} {chosen} images", total, batches, (store, index))


def _of_container(container: Container) -> Side:
    with closing(container):
        entries = [
            one
            for one in container.entries(PassedOver())
            if not is_of_a_system(one.name) and reason_to_pass_over(one.name) is None
        ]
    if not entries:
        raise DataError(
            f"{container.uri}: no image (png, jpg, webp, gif) lies there; give another place"
        )
    entries.sort(key=lambda one: bytes_of(one.name))

    def batches(numbers: Numbers) -> Iterator[Labelled]:
        with closing(container):
            yield from _of_equal_size(container, [entries[i] for i in numbers.tolist()])

    return Side(f"{container.uri}, {len(entries)} images", len(entries), batches)


def _of_equal_size(container: Container, entries: list[Entry]) -> Iterator[Labelled]:
    """Yield images as long as they are of one size, and at most so many."""
    images: list[Tensor] = []
    names: list[str] = []
    for entry in entries:
        image = _decoded(container, entry)
        if images and (image.shape != images[0].shape or len(images) == _AT_ONCE):
            yield torch.stack(images), names
            images, names = [], []
        images.append(image)
        folder, slash, _ = entry.name.partition("/")
        label = "" if entry.label is None else str(entry.label)
        names.append(folder if slash and container.folders_are_classes else label)
    yield torch.stack(images), names


def _decoded(container: Container, entry: Entry) -> Tensor:
    """Return an image (3, h, w) as it is stored, upright and on white; nothing is resized."""
    try:
        pixels = plain_pixels(walk(container.read(entry)), _BACKGROUND)
    except UnreadableError as error:
        raise DataError(
            f"{quoted(entry.name)} in {container.uri} cannot be used: {error}; mend it or leave it "
            "out"
        ) from None
    colour = pixels.transpose(2, 0, 1).copy()  # what Pillow gives cannot be written
    return torch.from_numpy(colour).expand(3, -1, -1)
