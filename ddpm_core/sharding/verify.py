"""Check a data set that is there: every byte, every image, every number of its index."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np

from ddpm_core.sharding.verify_child import Child
from ddpm_core.sharding.verify_shard import shard_problems
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.counts import Counts, mean_and_std
from ddpm_core.shards.index import SPLITS, Index, Split
from ddpm_core.shards.lineage import made_of
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store

_IMAGE_S, _VALUE_S = 3e-5, 3e-9
"""what an image, and a value of it, take one core, about"""
_FEW_S = 4.0
"""of work that is done before processes that have started would have helped"""
Look: TypeAlias = "Callable[[Split, int], tuple[list[str], Counts]]"


def problems_of(
    store: Store,
    index: Index,
    *,
    num_at_once: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[str]:
    """Return what is wrong with the data set, a line for each thing; [] if nothing is.

    Args:
        store: where it lies.
        index: what it should be.
        num_at_once: shards looked at at once: of a small data set by threads, of a larger one by
            processes, each of which takes a core.
        on_progress: called with (images done, images in all).
    """
    total, done = sum(index.num_images.values()), 0
    found = list(_index_problems(index))
    shards = [(split, number) for split in SPLITS for number in range(len(index.counts(split)))]
    class_counts = {split: np.zeros(len(index.label.names), np.int64) for split in SPLITS}
    captions = {split: CaptionCounts() for split in SPLITS}
    values = np.zeros((index.shape[0], index.image.num_levels), np.int64)

    on_progress(0, total)
    with _looking(store, index, num_at_once) as look, ThreadPoolExecutor(num_at_once) as pool:
        looks = [pool.submit(look, split, number) for split, number in shards]
        try:
            for (split, number), one in zip(shards, looks, strict=True):
                lines, counts = one.result()
                found += lines
                class_counts[split] += counts.classes
                captions[split].take(counts.captions)
                if split == "train":
                    values += counts.histogram()
                done += int(index.counts(split)[number])
                on_progress(done, total)
        finally:
            for one in looks:
                one.cancel()
    found += _other_files(store, index)
    said = (list(index.image.mean), list(index.image.std))
    # Of images that are used in place nobody has taken both: they were never all decoded.
    if not found and index.image.cut is None and mean_and_std(values) != said:
        found.append("train: mean and standard deviation are not those of the images")
    for split in SPLITS:
        if not found and tuple(class_counts[split]) != index.label.counts[split]:
            found.append(f"{split}: the classes of the images are not those that the index counts")
        counted = None if index.captions is None else index.captions.counts
        if not found and counted is not None and captions[split] != counted[split]:
            found.append(f"{split}: the captions are not those that the index counts")
    return found


@contextmanager
def _looking(store: Store, index: Index, num_at_once: int) -> Iterator[Look]:
    """Give the function that looks at shard `number` of a split, in this process or in others."""
    total = sum(index.num_images.values())
    if num_at_once == 1 or total * (_IMAGE_S + _VALUE_S * math.prod(index.shape)) < _FEW_S:
        yield partial(shard_problems, store, index)
        return
    children = [Child(store, index) for _ in range(num_at_once)]
    idle: SimpleQueue[Child] = SimpleQueue()
    for child in children:
        idle.put(child)

    def look(split: Split, number: int) -> tuple[list[str], Counts]:
        child = idle.get()
        try:
            return child.look(split, number)
        finally:
            idle.put(child)

    try:
        yield look
    finally:
        for child in children:
            child.close()


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
        if made_of(index.manifest):
            continue  # numbered as in those that it is made of, of which two may have one shard
        following: dict[str, int] = {}
        firsts = index.first_numbers(split)
        for number, (first, count) in enumerate(zip(firsts, counts, strict=True)):
            file = index.located_at(split, number)
            if first < following.get(file.place, 0):
                yield f"{file.name}: begins with image {first}, which was there"
            following[file.place] = int(first + count)
