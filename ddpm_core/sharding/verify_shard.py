"""One shard of a data set checked: its bytes, its images, and what the index says of both."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.sharding.verify_outside import caption_problems, outside_problems
from ddpm_core.shards.counts import Counts
from ddpm_core.shards.index import Index, Shard, Split, key_of
from ddpm_core.shards.members import CAPTION, IMAGE, IMAGE_ENDINGS, LABEL
from ddpm_core.shards.samples import samples as samples_of
from ddpm_core.shards.tar import Member, members
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store

_DECODED_BYTES = 2**24
"""decoded at once: bounds the memory"""


class Sample(NamedTuple):
    """The files of an image, and its label where the index says another than they do."""

    files: Sequence[Member]
    label: int | None

    def content(self, tar: bytes, name: str, index: Index) -> bytes:
        """Return the content of a member."""
        if name == LABEL and self.label is not None:
            return b"%d" % self.label
        file = self.files[index.place_of(name)]
        return tar[file.offset : file.offset + file.size]


def shard_problems(
    store: Store, index: Index, split: Split, number: int
) -> tuple[list[str], Counts]:
    """Return (what is wrong with shard `number` of a split, what is counted in it)."""
    counts = Counts(index.shape[0], len(index.label.names), index.image.num_levels)
    try:
        shard = index.shards[split][number]
        num_files = 1 + len(index.endings_of(shard))
        if index.located(shard).is_outside:
            return outside_problems(index, shard)
        tar = index.located(shard).read(store)
        found = members(tar, origin=shard.name)
        if shard.labels is not None:
            found = samples_of(found, shard, num_files, where=shard.name)
    except (DamagedError, DataError) as error:
        return [str(error)], counts
    except (KeyError, TypeError, ValueError) as error:
        return [f"{split}: the part of shard {number} is none of this program: {error}"], counts
    if len(found) != num_files * shard.num_images:
        return [f"{shard.name}: {len(found)} files, not {num_files} for each of its images"], counts
    lines, samples = _samples(index, split, shard, found)
    image_bytes = math.prod(index.shape) * np.dtype(index.image.dtype).itemsize
    size = max(1, _DECODED_BYTES // image_bytes)
    for start in range(0, len(samples), size):
        lines += _count(index, tar, shard, samples[start : start + size], counts)
    lines += caption_problems(
        index, shard, lambda offset, size: tar[offset : offset + size], counts, is_ours=True
    )
    return lines, counts


def _samples(
    index: Index, split: Split, shard: Shard, found: Sequence[Member]
) -> tuple[list[str], list[Sample]]:
    """Return (what is wrong with names and places, the files of each image in its place)."""
    lines, samples = [], []
    endings = index.endings_of(shard)
    num_files = 1 + len(endings)
    places = shard.beside.get(CAPTION, ())
    for position in range(shard.num_images):
        files = found[num_files * position : num_files * (position + 1)]
        image, *others = files
        stem, _, ending = image.name.rpartition(".")
        # Of a part of a shard the images keep the numbers that they have in the whole.
        key = stem if shard.labels is not None else key_of(split, shard.first_number + position)
        names = [stem, *(file.name for file in others)]
        if names != [key, *(f"{key}.{one}" for one in endings)] or ending not in IMAGE_ENDINGS:
            lines.append(f"{shard.name}: {image.name} stands where {key} should")
        elif (image.offset, image.size) != (shard.offsets[position], shard.sizes[position]):
            lines.append(f"{shard.name}: {image.name} is not where the index says")
        elif places and (others[-1].offset, others[-1].size) != places[position]:
            lines.append(f"{shard.name}: {others[-1].name} is not where the index says")
        else:
            label = None if shard.labels is None else int(shard.labels[position])
            samples.append(Sample(files, label))
    return lines, samples


def _count(
    index: Index, tar: bytes, shard: Shard, samples: Sequence[Sample], counts: Counts
) -> list[str]:
    """Decode and count images; return what is wrong with them."""
    try:
        _add(counts, _decoded(index, tar, shard.name, samples))
    except DataError:
        if len(samples) == 1:
            return _wrong_with(index, tar, shard.name, samples[0])
        each = (_count(index, tar, shard, [sample], counts) for sample in samples)
        return [line for lines in each for line in lines]
    return []


def _decoded(
    index: Index, tar: bytes, origin: str, samples: Sequence[Sample]
) -> dict[str, NDArray[Any]]:
    """Return the arrays of all members of some samples.

    Raises:
        DataError: one is damaged, or not what the index says.
    """
    values = {}
    for name, member in index.members.items():
        files = [sample.files[index.place_of(name)] for sample in samples]
        contents = [sample.content(tar, name, index) for sample in samples]
        values[name] = member.decode(contents, _named(origin, files))
    return values


def _wrong_with(index: Index, tar: bytes, origin: str, sample: Sample) -> list[str]:
    lines = []
    for name, member in index.members.items():
        file = sample.files[index.place_of(name)]
        try:
            member.decode([sample.content(tar, name, index)], _named(origin, [file]))
        except DataError as error:
            lines.append(str(error))
    return lines


def _add(counts: Counts, values: Mapping[str, NDArray[Any]]) -> None:
    images = values[IMAGE].transpose(0, 2, 3, 1)
    for label, image in zip(values[LABEL].tolist(), images, strict=True):
        counts.add(label, image)


def _named(origin: str, files: Sequence[Member]) -> Callable[[int], str]:
    return lambda number: f"{origin}: {files[number].name}"
