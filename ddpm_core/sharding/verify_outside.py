"""Check a shard that is used in place: the one that was indexed, whose images can be decoded."""

from collections.abc import Callable

import numpy as np

from ddpm_core.errors import DataError
from ddpm_core.images.shaped import shape_files
from ddpm_core.loading.outside import open_verified
from ddpm_core.loading.shard_files import ShardFile
from ddpm_core.shards.captions import file_of
from ddpm_core.shards.counts import Counts
from ddpm_core.shards.index import Index
from ddpm_core.shards.members import CAPTION
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
        lines += caption_problems(index, shard, opened.read, counts)
    except DataError as error:
        return [str(error)], counts
    return lines, counts


def caption_problems(
    index: Index,
    shard: Shard,
    read: Callable[[int, int], bytes],
    counts: Counts,
    *,
    is_ours: bool = False,
) -> list[str]:
    """Return what is wrong with the captions of a shard, and count them.

    Args:
        index: of the data set.
        shard: of which `read` gives bytes.
        read: called with an offset and a number of bytes.
        counts: takes what is counted.
        is_ours: whether this program wrote the shard: there are the captions and nothing else.
    """
    member, lines = index.captions, []
    if member is None:
        return []
    places = shard.beside.get(CAPTION, ((0, 0),) * shard.num_images)
    for offset, (at, size) in zip(shard.offsets, places, strict=True):
        content = read(at, size)
        origin = f"{shard.name}: the {CAPTION} of the image at byte {offset}"
        try:
            (captions,) = member.decode([content], lambda _: origin)  # noqa: B023 - called now
        except DataError as error:
            lines.append(str(error))
            continue
        counts.captions.add(captions)
        if is_ours and file_of(captions) != content:
            lines.append(f"{origin} is not as this program writes them")
    return lines
