"""A bundle as a source: all its images are in memory, and its shards are made here, in threads.

Making them takes seconds (MNIST: 70,000 images), less than starting workers elsewhere would.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from ddpm_core.config import ComputeConfig
from ddpm_core.images import png
from ddpm_core.sharding.source import ShardUnit, Source
from ddpm_core.shards.shard import MadeShard, Record, finished_shard, make_shard
from ddpm_core.sources.raw_images import RawImages
from ddpm_core.sources.splits import Splits
from ddpm_core.store.storage import Store


class Bundle(Source):
    """Digits, MNIST, Fashion-MNIST or CIFAR-10; or images that are made."""

    def __init__(self, splits: Splits) -> None:
        self._images = {"train": splits.train, "test": splits.test}
        self._splits = splits
        self.classes = splits.classes
        self.num_images = {"train": len(splits.train), "test": len(splits.test)}
        self.passed_over = {}
        self.captions = splits.caption_counts()

    def digest(self) -> str:
        return self._splits.digest()

    def make_shards(
        self,
        store: Store,
        folder: str,
        units: Sequence[ShardUnit],
        compute: ComputeConfig,
        *,
        on_done: Callable[[ShardUnit, MadeShard], None],
    ) -> None:
        pool = ThreadPoolExecutor(compute.num_workers)
        try:
            futures = {pool.submit(self._shard, store, folder, unit): unit for unit in units}
            for future in as_completed(futures):
                on_done(futures[future], future.result())
        finally:
            pool.shutdown(cancel_futures=True)

    def _shard(self, store: Store, folder: str, unit: ShardUnit) -> MadeShard:
        found = finished_shard(store, folder, unit.split, unit.number)
        if found is not None:
            return found
        images = self._images[unit.split]
        return make_shard(
            store,
            folder,
            unit.split,
            unit.number,
            _records(images, unit),
            first_number=unit.start,
            channels=images.images_u8.shape[-1],
            classes=self.classes,
            num_levels=np.iinfo(images.images_u8.dtype).max + 1,
        )


def _records(images: RawImages, unit: ShardUnit) -> Iterator[Record]:
    for number in range(unit.start, unit.stop):
        pixels = images.images_u8[number]
        captions = None if images.captions is None else images.captions[number]
        yield Record(png.encode(pixels), "png", pixels, int(images.labels[number]), None, captions)
