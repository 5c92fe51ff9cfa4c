"""The readers that are compared. Each yields the sizes of its batches, two epochs of them.

All use as many processes for decoding, read the same bytes with the same storage client, and
decode with Pillow to uint8; the peers as their documentation shows, without what slows them down
(no transforms, no float, uncollated labels left out).
"""

import io
import multiprocessing
import sys
import time
from contextlib import closing

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ddpm_core.config import TrainConfig
from ddpm_core.loading import loader
from ddpm_core.loading.batches import Batches
from ddpm_core.loading.loader import load_split
from ddpm_core.store.storage import open_store

BATCH = 128
NUM_EPOCHS = 2


def decode(file):
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def ours(uri, index, num_processes):
    """Our loader, from the shards: nothing is small."""
    before, loader.MAX_DECODED_BYTES = loader.MAX_DECODED_BYTES, 0
    try:
        with closing(
            load_split(open_store(uri), index, "train", num_decoders=num_processes)
        ) as images:
            yield from batches_of(images, index, NUM_EPOCHS)
    finally:
        loader.MAX_DECODED_BYTES = before


def cached(uri, index, num_epochs):
    """Our loader, where the data set is small: decoded before."""
    with closing(load_split(open_store(uri), index, "train")) as images:
        yield from batches_of(images, index, num_epochs)


def batches_of(images, index, num_epochs):
    num_steps = num_epochs * index.num_images["train"] // BATCH
    train = TrainConfig(num_steps=num_steps, global_batch_size=BATCH)
    with Batches(images, train, start=0, rank=0, world_size=1, pinned=False) as batches:
        for _ in range(num_steps):
            yield len(batches.take().images)


def web_dataset(uri, index, num_processes):
    """webdataset.WebDataset, batched in its workers, behind a DataLoader."""
    store = open_store(uri)
    # It knows no s3://: it is given the bytes by our client.
    schemes = sys.modules["webdataset.gopen"].gopen_schemes
    schemes["s3"] = lambda url, *_arguments: io.BytesIO(
        open_store(uri).read(url.removeprefix(f"{uri}/"))
    )
    urls = [
        store.uri_of(f"{index.manifest.folder}/{shard.name}") for shard in index.shards["train"]
    ]
    samples = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), detshuffle=True)
        .shuffle(1000)
        .map(_sample_image)
        .batched(BATCH, collation_fn=_stacked)
    )
    batches = DataLoader(
        samples, batch_size=None, num_workers=num_processes, persistent_workers=True
    )
    for _ in range(NUM_EPOCHS):
        for batch in batches:
            yield len(batch)


def _sample_image(sample):
    (name,) = {"png", "jpg"} & sample.keys()
    return decode(sample[name])


def _stacked(images):
    return torch.from_numpy(np.stack(images))


class Folder(Dataset):
    """One file for each image, as torchvision's ImageFolder reads it."""

    def __init__(self, uri, keys):
        self._store, self._keys = open_store(uri), keys

    def __len__(self):
        return len(self._keys)

    def __getitem__(self, number):
        return decode(self._store.read(self._keys[number]))


def torch_folder(uri, keys, num_processes):
    """torch.utils.data over a folder, shuffled."""
    batches = DataLoader(
        Folder(uri, keys),
        batch_size=BATCH,
        shuffle=True,
        num_workers=num_processes,
        persistent_workers=True,
        collate_fn=_stacked,
    )
    for _ in range(NUM_EPOCHS):
        for batch in batches:
            yield len(batch)


def bound(uri, index, num_processes, decode):
    """Images/s of bare loops that read the shards in order and `decode` their images."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(num_processes + 1)
    shards = index.shards["train"]
    # Dealt by a counter, so that no process has less to do.
    counter = context.Value("q", 0)

    def work():
        store = open_store(uri)
        barrier.wait()
        while True:
            with counter.get_lock():
                number, counter.value = counter.value, counter.value + 1
            if number >= len(shards):
                return
            shard = shards[number]
            tar = store.read(f"{index.manifest.folder}/{shard.name}")
            for offset, size in zip(shard.offsets, shard.sizes, strict=True):
                decode(tar[offset : offset + size])

    children = [context.Process(target=work) for _ in range(num_processes)]
    for child in children:
        child.start()
    barrier.wait()
    begin = time.perf_counter()
    for child in children:
        child.join()
    return index.num_images["train"] / (time.perf_counter() - begin)
