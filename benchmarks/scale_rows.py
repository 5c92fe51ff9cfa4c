"""The rows of `benchmarks.scale`: each is a function of a folder and a number, in its own process.

A row returns its numbers, seconds above all. What it needs of an earlier row lies in the folder.
"""

import importlib.util
import json
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from functools import partial
from itertools import islice

import numpy as np
import psutil

from ddpm_core.config import TrainConfig
from ddpm_core.images import png
from ddpm_core.loading.batches import Batches
from ddpm_core.loading.loader import load_split
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.runs import results
from ddpm_core.shards.index import Index, load_index
from ddpm_core.shards.tar_writer import pack
from ddpm_core.store.storage import open_store

SIDE = 16
PER_SHARD = 1000
BATCH = 128
NUM_BATCHES = 100
"""of which images/s are taken, after the first"""
NUM_CLASSES = 10
_RUNS = {"copy": "a", "again": "b", "digests": "c", "listing": "d"}


def make_images(folder, count):
    """Write `count` images of 16x16 as PNG in tars of 1000, each with its class."""
    place = folder / "tars"
    place.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, PER_SHARD):
        rng = np.random.default_rng(first)
        number = min(PER_SHARD, count - first)
        pixels = rng.integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)
        files = []
        for at in range(number):
            key = f"{first + at:09d}"
            files.append((f"{key}.cls", b"%d" % (at % NUM_CLASSES)))
            files.append((f"{key}.png", png.encode(pixels[at])))
        path = place / f"{first // PER_SHARD:06d}.tar"
        path.with_suffix(".part").write_bytes(pack(files)[0])
        path.with_suffix(".part").rename(path)


def shard(folder, run, *changes):
    """The shard stage, as a person starts it."""
    values = {
        "data.source": folder / "tars",
        "data.height": SIDE,
        "data.width": SIDE,
        "data.num_test_images": 1000,
        "data.images_per_shard": PER_SHARD,
        "model.attention_resolutions": "[8]",
        "compute.num_workers": min(2, psutil.cpu_count() or 1),
    }
    sets = [f"--set={key}={value}" for key, value in values.items()]
    sets += [f"--set={one}" for one in changes]
    command = [sys.executable, "-m", "ddpm_core", "shard", "images", "--run", run]
    command += ["--root", str(folder / "root"), *sets]
    return _timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))


def verify(folder):
    """The check of every byte and image of the copy."""
    store = open_store(str(folder / "root"))
    place = store.uri_of(results.dataset_pointer(store, _RUNS["copy"]).folder)
    command = [sys.executable, "-m", "ddpm_core", "verify", place]
    return _timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))


def load(folder):
    """The index of the copy, in a process that has everything else imported."""
    before = psutil.Process().memory_info().rss
    found = _timed(partial(_index, folder, "copy"))
    return found | {"MB": (psutil.Process().memory_info().rss - before) / 2**20}


def train(folder, kind):
    """Seconds from the index to the first batch, and images/s from there on."""
    start = time.perf_counter()
    store, index = open_store(str(folder / "root")), _index(folder, kind)
    config = TrainConfig(global_batch_size=BATCH, num_steps=10**7)
    with (
        closing(load_split(store, index, "train", num_decoders=2)) as images,
        Batches(images, config, start=0, rank=0, world_size=1, pinned=False) as batches,
    ):
        return _rates(start, (len(batches.take().numbers) for _ in range(1 + NUM_BATCHES)))


def _index(folder, kind) -> Index:
    store = open_store(str(folder / "root"))
    pointer = results.dataset_pointer(store, _RUNS[kind])
    return load_index(store, pointer.folder, pointer.fingerprint)


def _timed(work):
    start = time.perf_counter()
    work()
    return {"s": time.perf_counter() - start}


def _rates(start, batches):
    """Seconds to the first of some batches, given by their sizes, and images/s of the others."""
    next(batches)
    first = time.perf_counter()
    count = sum(batches)
    return {"s": first - start, "images/s": count / (time.perf_counter() - first)}


def simulated(folder, count):
    """A worker on a data set of `count` images in shards of 1000, all of which are one file.

    Its table is as long as that of so many shards, and so is its order. Of the shards that it reads
    at step 10^6 each is opened, verified and decoded like any other.
    """
    from benchmarks.scale_simulated import write_simulated

    write_simulated(folder, count)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    store = open_store(str(folder / "simulated"))
    (name,) = store.names("datasets")
    index = load_index(store, f"datasets/{name}")
    opened = time.perf_counter() - start
    after_open = psutil.Process().memory_info().rss
    from ddpm_core.loading.cache import Cache

    start = time.perf_counter()
    config = TrainConfig(global_batch_size=BATCH, num_steps=10**7)
    streamed = StreamedImages(store, index, "train", Cache.of_environment(), num_decoders=1)
    with (
        closing(streamed) as images,
        Batches(images, config, start=10**6, rank=0, world_size=1, pinned=False) as batches,
    ):
        batches.take()
        resumed = time.perf_counter() - start
        after = psutil.Process().memory_info().rss
    return {
        "s": opened,
        "resume s": resumed,
        "MB": (after_open - before) / 2**20,
        "resumed MB": (after - before) / 2**20,
    }


def litdata_make(folder):
    import litdata

    return _timed(
        partial(
            litdata.optimize,
            _items,
            inputs=sorted(map(str, (folder / "tars").glob("*.tar"))),
            output_dir=str(folder / "litdata"),
            chunk_bytes="64MB",
            num_workers=2,
            verbose=False,
        )
    )


def litdata_train(folder):
    import litdata

    start = time.perf_counter()
    batches = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(folder / "litdata"), shuffle=True),
        **(_LOADER | {"collate_fn": _decoded}),
    )
    return _rates(start, islice(map(len, batches), 1 + NUM_BATCHES))


def mosaic_make(folder):
    from streaming import MDSWriter

    def work():
        columns = {"image": "bytes", "label": "int"}
        out = str(folder / "mosaic")
        with MDSWriter(out=out, columns=columns, hashes=["sha256"], exist_ok=True) as writer:
            for path in sorted((folder / "tars").glob("*.tar")):
                for item in _items(path):
                    writer.write(item)

    return _timed(work)


def mosaic_train(folder):
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    start = time.perf_counter()
    dataset = StreamingDataset(local=str(folder / "mosaic"), shuffle=True, batch_size=BATCH)
    batches = DataLoader(dataset, **(_LOADER | {"collate_fn": _decoded}))
    return _rates(start, islice(map(len, batches), 1 + NUM_BATCHES))


def wids_make(folder):
    """The list of shards that wids needs, as its `widsindex create` makes it."""
    import wids

    def work():
        shards = [
            {
                "url": str(path),
                "md5sum": wids.wids.compute_file_md5sum(str(path)),
                "nsamples": wids.wids.compute_num_samples(str(path)),
                "filesize": path.stat().st_size,
            }
            for path in sorted((folder / "tars").glob("*.tar"))
        ]
        values = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        (folder / "wids.json").write_text(json.dumps(values))

    return _timed(work)


def wids_train(folder):
    import wids
    from torch.utils.data import DataLoader

    start = time.perf_counter()
    dataset = wids.ShardListDataset(str(folder / "wids.json"), keep=True)
    options = _LOADER | {"sampler": wids.ChunkedSampler(dataset, shuffle=True)}
    batches = DataLoader(dataset, **(options | {"collate_fn": len}))
    return _rates(start, islice(iter(batches), 1 + NUM_BATCHES))


_LOADER = {"batch_size": BATCH, "num_workers": 2}
# wids is a package of its own since webdataset 1.0.
PEERS = {"litData": "litdata", "MosaicML": "streaming", "wids": "wids"}


def _items(path):
    """Yield the images of a tar, as they are, with their classes."""
    with tarfile.open(path) as archive:
        label = 0
        for member in archive:
            content = archive.extractfile(member).read()
            if member.name.endswith(".cls"):
                label = int(content)
            else:
                yield {"image": content, "label": label}


def _decoded(items):
    from benchmarks.decoders import pillow

    return np.stack([pillow(item["image"]) for item in items])


ROWS = {
    "make the images": None,
    "shard, first time": partial(shard, run=_RUNS["copy"]),
    "shard, the same again": partial(shard, run=_RUNS["copy"]),
    "shard, another run": partial(shard, run=_RUNS["again"]),
    "first batch, empty cache": partial(train, kind="copy"),
    "first batch, again": partial(train, kind="copy"),
    "verify": verify,
    "load the index": load,
}
IN_PLACE = {
    "in place: index, by digest": ("digests", ["data.in_place=true"]),
    "in place: index, by listing": ("listing", ["data.in_place=true", "data.pin=listing"]),
}
PEER_ROWS = {
    "litData: optimize": (litdata_make, "litData"),
    "litData: first batch": (litdata_train, "litData"),
    "MosaicML: write": (mosaic_make, "MosaicML"),
    "MosaicML: first batch": (mosaic_train, "MosaicML"),
    "wids: list": (wids_make, "wids"),
    "wids: first batch": (wids_train, "wids"),
}


def run_row(name, folder, count):
    """Return the numbers of a row; None: what it measures is not here."""
    if name == "make the images":
        return _timed(partial(make_images, folder, count))
    if name in ROWS:
        return ROWS[name](folder)
    if name == "10^9 simulated":
        is_known = importlib.util.find_spec("ddpm_core.shards.table")
        return simulated(folder, count) if is_known else None
    if name in PEER_ROWS:
        work, peer = PEER_ROWS[name]
        return work(folder) if importlib.util.find_spec(PEERS[peer]) else None
    from ddpm_core.config import DataConfig

    if "in_place" not in DataConfig.model_fields:
        return None
    if name == "in place: first batch":
        return train(folder, "digests")
    kind, changes = IN_PLACE[name]
    return shard(folder, _RUNS[kind], *changes)


def names():
    """All rows of images, in order."""
    return [*ROWS, *IN_PLACE, "in place: first batch", *PEER_ROWS]
