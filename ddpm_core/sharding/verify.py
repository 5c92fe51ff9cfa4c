"""Check a data set that is there: every byte, every image, every number of its index."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ddpm_core.errors import DataError
from ddpm_core.sharding.verify_outside import outside_problems
from ddpm_core.shards.counts import Counts, mean_and_std
from ddpm_core.shards.index import SPLITS, Index, Split, key_of
from ddpm_core.shards.members import IMAGE, IMAGE_ENDINGS, LABEL
from ddpm_core.shards.samples import samples
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
    shards = [(split, number) for split in SPLITS for number in range(len(index.counts(split)))]
    class_counts = {split: np.zeros(len(index.label.names), np.int64) for split in SPLITS}

    values = np.zeros((index.shape[0], index.image.num_levels), np.int64)

    def look(at: tuple[Split, int]) -> tuple[list[str], Counts]:
        return _shard_problems(store, index, *at)

    on_progress(0, total)
    with ThreadPoolExecutor(num_threads) as pool:
        for (split, number), (lines, counts) in zip(shards, pool.map(look, shards), strict=True):
            found += lines
            class_counts[split] += counts.classes
            if split == "train":
                values += counts.histogram()
            done += int(index.counts(split)[number])
            on_progress(done, total)
    found += _other_files(store, index)
    said = (list(index.image.mean), list(index.image.std))
    # Of images that are used in place nobody has taken both: they were never all decoded.
    if not found and index.image.cut is None and mean_and_std(values) != said:
        found.append("train: mean and standard deviation are not those of the images")
    for split in SPLITS:
        if not found and tuple(class_counts[split]) != index.label.counts[split]:
            found.append(f"{split}: the classes of the images are not those that the index counts")
    return found


def _other_files(store: Store, index: Index) -> Iterator[str]:
    shards = set()
    if not index.is_in_parts:
        shards = {shard.role for split in SPLITS for shard in index.shards[split]}
    for role in sorted(index.manifest.files.keys() - shards):
        try:
            index.manifest.read(store, role)
        except DamagedError as error:
            yield str(error)


def _index_problems(index: Index) -> Iterator[str]:
    for split in SPLITS:
        counts = index.counts(split)
        count = int(counts.sum())
        if count != index.num_images[split]:
            yield f"{split}: shards of {count} images, the index says {index.num_images[split]}"
        following: dict[str, int] = {}
        firsts = index.first_numbers(split)
        for number, (first, count) in enumerate(zip(firsts, counts, strict=True)):
            file = index.located_at(split, number)
            if first < following.get(file.place, 0):
                yield f"{file.name}: begins with image {first}, which was there"
            following[file.place] = int(first + count)


def _shard_problems(
    store: Store, index: Index, split: Split, number: int
) -> tuple[list[str], Counts]:
    counts = Counts(index.shape[0], len(index.label.names), index.image.num_levels)
    try:
        shard = index.shards[split][number]
        if index.located(shard).is_outside:
            return outside_problems(index, shard)
        tar = index.located(shard).read(store)
        found = members(tar, origin=shard.name)
        num_files, is_chosen = 1 + len(index.endings), shard.labels is not None
        if is_chosen:
            found = samples(found, shard, num_files, where=shard.name)
    except (DamagedError, DataError) as error:
        return [str(error)], counts
    except (KeyError, TypeError, ValueError) as error:
        return [f"{split}: the part of shard {number} is none of this program: {error}"], counts
    lines: list[str] = []
    if len(found) != num_files * shard.num_images:
        return [f"{shard.name}: {len(found)} files, not {num_files} for each of its images"], counts
    for position in range(shard.num_images):
        files = found[num_files * position : num_files * (position + 1)]
        image, *others = files
        stem, _, ending = image.name.rpartition(".")
        key = stem if is_chosen else key_of(split, shard.first_number + position)
        names = [stem, *(file.name for file in others)]
        expected = [key, *(f"{key}.{other}" for other in index.endings)]
        if names != expected or ending not in IMAGE_ENDINGS:
            lines.append(f"{shard.name}: {image.name} stands where {key} should")
            continue
        if (image.offset, image.size) != (shard.offsets[position], shard.sizes[position]):
            lines.append(f"{shard.name}: {image.name} is not where the index says")
            continue
        values = {}
        for name, member in index.members.items():
            file = files[index.place_of(name)]
            content = tar[file.offset : file.offset + file.size]
            if name == LABEL and shard.labels is not None:
                content = b"%d" % shard.labels[position]
            try:
                (values[name],) = member.decode([content], _named(f"{shard.name}: {file.name}"))
            except DataError as error:
                lines.append(str(error))
        if len(values) == len(index.members):
            counts.add(int(values[LABEL]), values[IMAGE].transpose(1, 2, 0))
    return lines, counts


def _named(name: str) -> Callable[[int], str]:
    return lambda _number: name
