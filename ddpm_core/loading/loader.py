"""What training and measuring see of a data set: images by their number.

A split of at most 4 GiB of pixels is decoded once and mapped into memory, a larger one is read from
its shards while it is used: see `decoded` and `stream`. Which of the two follows from the index
alone, and so does the order of training, which differs.
"""

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.loading.cache import Cache
from ddpm_core.loading.decoded import decoded_bytes, is_decoded, open_decoded
from ddpm_core.loading.fill import Work
from ddpm_core.loading.filling import FillingImages
from ddpm_core.loading.held import ImageSet as ImageSet
from ddpm_core.loading.held import batch as batch
from ddpm_core.loading.held import order_in_memory
from ddpm_core.loading.outside import is_fetched
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.machine import cores
from ddpm_core.shards.index import Index, Split
from ddpm_core.shards.lineage import made_of
from ddpm_core.store.storage import Store

MAX_DECODED_BYTES = 4 * 2**30
"""pixels of a split that is held in memory; more are read from the shards"""


Images = ImageSet | StreamedImages | FillingImages
"""the images of a split by their number, wherever they are"""


def load_split(
    store: Store,
    index: Index,
    split: Split,
    *,
    num_decoders: int = 1,
    eight_bits: bool = False,
    stage: str | None = None,
    beside: bool = False,
) -> Images:
    """Return the images of a split; `close` them in the end.

    Args:
        store: where the data set is.
        index: what it is.
        split: which part of it.
        num_decoders: processes that decode, if it has to be read from its shards.
        eight_bits: give images of 16 bits as uint8, for feature networks and people.
        stage: whose progress it is to decode a split that fits memory; None: no line is shown.
        beside: do not wait until it is decoded: read it from its shards until then.

    Raises:
        DataError: a shard is missing, has another size or SHA-256 than the index says, or is not
            what a shard is; naming it, what was expected and what was found. Of a split that does
            not fit memory, and of one that is decoded beside its use, this is found later.
        ConfigError: the local cache is too small.
    """
    cache = Cache.of_environment()

    def from_shards() -> StreamedImages:
        return StreamedImages(
            store, index, split, cache, num_decoders=num_decoders, eight_bits=eight_bits
        )

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        whole = StreamedImages(store, index, split, cache, num_decoders=num_decoders)
        with closing(whole):
            return whole.take(numbers).numpy()

    counts = tuple(index.counts(split).tolist())
    ancestors = made_of(index.manifest) if split == "train" else ()

    def held(work: Work) -> ImageSet:
        decoded = open_decoded(store, index, split, cache, read=read, work=work)
        return ImageSet(
            torch.from_numpy(decoded.pixels),
            {name: torch.from_numpy(rows) for name, rows in decoded.others.items()},
            num_classes=len(index.label.names),
            counts=counts,
            eight_bits=eight_bits,
            require=decoded.require,
            made_of=ancestors,
            caption_rows=decoded.captions,
        )

    if decoded_bytes(index, split) > MAX_DECODED_BYTES:
        return from_shards()
    is_here = _are_here(store, index, split)
    # Those of elsewhere are kept for both ways of reading: each is fetched once.
    has_room = is_here or _needed_bytes(index, split) <= cache.room()
    if beside and has_room and not is_decoded(store, index, split, cache):
        work = Work(num_decoders, stage, cache=None if is_here else cache)
        return FillingImages(
            lambda go_on: held(replace(work, go_on=go_on)),
            from_shards,
            order=lambda seed: order_in_memory(seed, counts, ancestors),
            counts=counts,
            num_classes=len(index.label.names),
            members=index.others,
            has_captions=index.captions is not None,
        )
    return held(Work(cores(), stage))


def _are_here(store: Store, index: Index, split: Split) -> bool:
    """Say whether all shards of a split are files of this machine."""
    if store.local_path(index.manifest.folder) is None:
        return False
    numbers = range(len(index.shards[split])) if index.is_in_parts else ()
    return not any(is_fetched(index.located_at(split, number)) for number in numbers)


def _needed_bytes(index: Index, split: Split) -> int:
    """Return how many bytes the local cache needs for a split and for its shards."""
    return decoded_bytes(index, split) + int(index.file_bytes(split).sum())


def num_levels_of(images: Tensor) -> int:
    """Return how many values the samples of uint8 or uint16 images can have."""
    return int(256 ** images.element_size())


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Return what the network sees: x = v / 127.5 - 1 in [-1, 1], float32, on `device`.

    Of uint16 v / 32767.5 - 1. The bytes travel, not the floats: a quarter of the traffic.
    """
    half = (num_levels_of(images) - 1) / 2
    return images.to(device, non_blocking=True).to(torch.float32) / half - 1


def flip(images: Tensor, coin: Tensor) -> Tensor:
    """Mirror left and right the images (b, c, h, w) whose `coin` (b,) is True.

    Both are computed and one is chosen on the device: no wait for it.
    """
    return torch.where(coin[:, None, None, None], images.flip(-1), images)
