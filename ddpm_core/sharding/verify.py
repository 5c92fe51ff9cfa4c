"""Check a data set that is there: every byte, every image, every number of its index."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ddpm_core.errors import DataError
from ddpm_core.images.decode import decode_exact
from ddpm_core.images.names import quoted, text_of
from ddpm_core.shards.counts import Counts, mean_and_std
from ddpm_core.shards.index import SPLITS, Index, Shard, Split, key_of
from ddpm_core.shards.shard import ABOUT, IMAGE_EXTENSIONS, LABEL
from ddpm_core.shards.tar import members
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store


def problems_of(
    store: Store,
    index: Index,
    *,
    num_threads: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[str]:
    """Return what is wrong with the data set, a line for each thing; [] if nothing is.

    Args:
        store: where it lies.
        index: what it should be.
        num_threads: shards looked at at once.
        on_progress: called with (images done, images in all).
    """
    total, done = sum(index.num_images.values()), 0
    found = list(_index_problems(index))
    shards = [(split, shard) for split in SPLITS for shard in index.shards[split]]
    class_counts = {split: np.zeros(len(index.classes), np.int64) for split in SPLITS}

    values = np.zeros((index.shape[0], 256), np.int64)

    def look(at: tuple[Split, Shard]) -> tuple[list[str], Counts]:
        return _shard_problems(store, index, *at)

    on_progress(0, total)
    with ThreadPoolExecutor(num_threads) as pool:
        for (split, shard), (lines, counts) in zip(shards, pool.map(look, shards), strict=True):
            found += lines
            class_counts[split] += counts.classes
            if split == "train":
                values += counts.histogram()
            done += shard.num_images
            on_progress(done, total)
    found += _other_files(store, index, {shard.role for _, shard in shards})
    if not found and mean_and_std(values) != (list(index.mean), list(index.std)):
        found.append("train: mean and standard deviation are not those of the images")
    for split in SPLITS:
        if not found and tuple(class_counts[split]) != index.class_counts[split]:
            found.append(f"{split}: the classes of the images are not those that the index counts")
    return found


def _other_files(store: Store, index: Index, shards: set[str]) -> Iterator[str]:
    for role in index.manifest.files.keys() - shards:
        try:
            index.manifest.read(store, role)
        except DamagedError as error:
            yield str(error)


def _index_problems(index: Index) -> Iterator[str]:
    for split in SPLITS:
        shards = index.shards[split]
        count = sum(shard.num_images for shard in shards)
        if count != index.num_images[split]:
            yield f"{split}: shards of {count} images, the index says {index.num_images[split]}"
        following = 0
        for shard in shards:
            if shard.first_number < following:
                yield f"{shard.name}: begins with image {shard.first_number}, which was there"
            following = shard.first_number + shard.num_images


def _shard_problems(
    store: Store, index: Index, split: Split, shard: Shard
) -> tuple[list[str], Counts]:
    counts = Counts(index.shape[0], len(index.classes))
    try:
        tar = index.manifest.read(store, shard.role)
        found = members(tar, origin=shard.name)
    except (DamagedError, DataError) as error:
        return [str(error)], counts
    lines: list[str] = []
    if len(found) != 3 * shard.num_images:
        return [f"{shard.name}: {len(found)} files, not 3 for each of its images"], counts
    channels, height, width = index.shape
    for position in range(shard.num_images):
        image, label, about = found[3 * position : 3 * position + 3]
        key = key_of(split, shard.first_number + position)
        stem, _, extension = image.name.rpartition(".")
        names = (stem, label.name, about.name)
        if names != (key, f"{key}.{LABEL}", f"{key}.{ABOUT}") or extension not in IMAGE_EXTENSIONS:
            lines.append(f"{shard.name}: {image.name} stands where {key} should")
            continue
        if (image.offset, image.size) != (shard.offsets[position], shard.sizes[position]):
            lines.append(f"{shard.name}: {image.name} is not where the index says")
            continue
        content = tar[image.offset : image.offset + image.size]
        origin = f"{shard.name}: {image.name}"
        try:
            pixels = decode_exact(content, (height, width, channels), origin=origin)
        except DataError as error:
            lines.append(str(error))
            continue
        digits = tar[label.offset : label.offset + label.size]
        if not digits.isdigit() or len(digits) > 6 or int(digits) >= len(index.classes):
            found_there = quoted(text_of(digits[:20]))
            lines.append(f"{shard.name}: {label.name} holds {found_there}, which is no class")
        else:
            counts.add(int(digits), pixels)
    return lines, counts
