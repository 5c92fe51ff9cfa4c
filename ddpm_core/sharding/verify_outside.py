"""Check a shard that is used in place: the one that was indexed, whose images can be decoded."""

import numpy as np

from ddpm_core.errors import DataError
from ddpm_core.images.shaped import shape_files
from ddpm_core.loading.outside import open_verified
from ddpm_core.loading.shard_files import ShardFile
from ddpm_core.shards.counts import Counts
from ddpm_core.shards.index import Index
from ddpm_core.shards.one import Shard


def outside_problems(index: Index, shard: Shard) -> tuple[list[str], Counts]:
    """Return what is wrong with a shard of others, a line for each thing, and what is in it.

    An image of which nothing can be made is one: where it is read, it is all background.
    """
    counts = Counts(index.shape[0], len(index.label.names), index.image.num_levels)
    lines: list[str] = []
    file, cut = shard.file, index.image.cut
    if file is None or cut is None or shard.labels is None:
        return [f"{shard.name}: the index does not say what its images are made into"], counts
    try:
        opened = ShardFile(open_verified(file), file.key)
        channels, height, width = index.shape
        one = np.empty((1, height, width, channels), np.uint8)
        for offset, size, label in zip(shard.offsets, shard.sizes, shard.labels, strict=True):
            problems = shape_files([opened.read(offset, size)], one, cut)
            lines += [f"{file.key}: the image at byte {offset}: {why}" for why in problems.values()]
            if label < len(counts.classes):
                counts.add(label, one[0])
            else:
                lines.append(f"{file.key}: the image at byte {offset} has no class {label}")
    except DataError as error:
        return [str(error)], counts
    return lines, counts
