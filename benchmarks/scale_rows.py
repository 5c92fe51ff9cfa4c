"""Our rows of `benchmarks.scale`: each is a function of a folder and a number, in its own process.

A row returns its numbers, seconds above all. What it needs of an earlier row lies in the folder.
"""

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing, suppress
from functools import partial

import numpy as np
import psutil

from benchmarks.scale_peers import PEER_ROWS, PEERS
from benchmarks.scale_timing import BATCH, NUM_BATCHES, rates, timed
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
NUM_CLASSES = 10
_RUNS = {"copy": "a", "again": "b", "digests": "c", "listing": "d"}


def make_images(folder, count):
    """Write `count` images, and a hundredth of that for the set to grow by."""
    _make_tars(folder / "tars", 0, count)
    _make_tars(folder / "more", count, max(1, count // 100))


def _make_tars(place, start, count):
    """Write images of 16x16 as PNG in tars of 1000, each with its class."""
    place.mkdir(parents=True, exist_ok=True)
    for first in range(start, start + count, PER_SHARD):
        rng = np.random.default_rng(first)
        number = min(PER_SHARD, start + count - first)
        pixels = rng.integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)
        files = []
        for at in range(number):
            key = f"{first + at:09d}"
            files.append((f"{key}.cls", b"%d" % (at % NUM_CLASSES)))
            files.append((f"{key}.png", png.encode(pixels[at])))
        path = place / f"{first // PER_SHARD:06d}.tar"
        path.with_suffix(".part").write_bytes(pack(files)[0])
        path.with_suffix(".part").rename(path)


def shard(folder, *changes, run, source="tars", options=()):
    """The shard stage, as a person starts it; of what is added as many are held out as at first."""
    count = int(folder.name)
    values = {
        "data.source": folder / source,
        "data.height": SIDE,
        "data.width": SIDE,
        "data.num_test_images": max(1, count // 1000),
        "data.images_per_shard": PER_SHARD,
        "model.attention_resolutions": "[8]",
        "compute.num_workers": min(2, psutil.cpu_count() or 1),
    }
    sets = [f"--set={key}={value}" for key, value in values.items()]
    sets += [f"--set={one}" for one in changes]
    command = [sys.executable, "-m", "ddpm_core", "shard", "images", "--run", run]
    command += ["--root", str(folder / "root"), *sets, *options]
    return timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))


def verify(folder):
    """The check of every byte and image of the copy."""
    store = open_store(str(folder / "root"))
    place = store.uri_of(results.dataset_pointer(store, _RUNS["copy"]).folder)
    command = [sys.executable, "-m", "ddpm_core", "verify", place]
    return timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))


def load(folder):
    """The index of the copy, in a process that has everything else imported."""
    before = psutil.Process().memory_info().rss
    found = timed(partial(_index, folder, "copy"))
    return found | {"MB": (psutil.Process().memory_info().rss - before) / 2**20}


def train(folder, kind, *, empty=False):
    """Seconds from the index to the first batch of a training, and images/s from there on."""
    if empty:
        shutil.rmtree(folder / "cache", ignore_errors=True)
    start = time.perf_counter()
    store, index = open_store(str(folder / "root")), _index(folder, kind)
    config = TrainConfig(global_batch_size=BATCH, num_steps=10**7)
    beside = {"beside": True} if "beside" in inspect.signature(load_split).parameters else {}
    with (
        closing(load_split(store, index, "train", num_decoders=2, **beside)) as images,
        Batches(images, config, start=0, rank=0, world_size=1, pinned=False) as batches,
    ):
        return rates(start, (len(batches.take().numbers) for _ in range(1 + NUM_BATCHES)))


def decode(folder, kind):
    """Seconds until the split is decoded, as whoever looks at all of it waits for."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    store, index = open_store(str(folder / "root")), _index(folder, kind)

    def work():
        load_split(store, index, "train", num_decoders=2).close()

    found = timed(work)
    return found | {"images/s": index.num_images["train"] / found["s"]}


def first_step(folder):
    """A new run on the data set of before, from the command to the end of its first step.

    With nothing in the local cache, and with Ray, which it starts; `group s` of it are from the
    moment at which the process that trains is there.
    """
    shutil.rmtree(folder / "cache", ignore_errors=True)
    command = [sys.executable, "-m", "ddpm_core", "train", "digits", "--data", _RUNS["copy"]]
    command += ["--run", f"step-{uuid.uuid4().hex[:8]}", "--root", str(folder / "root")]
    values = {"num_steps": 3, "log_every": 1, "checkpoint_every": 3, "warmup_steps": 1}
    sets = [f"--set=train.{key}={value}" for key, value in values.items()]
    sets += ["--set=model.attention_resolutions=[8]", "--set=compute.num_workers=1"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *sets], stdout=subprocess.PIPE, text=True)  # noqa: S603
    group, ended = [], threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, group, ended))
    watcher.start()
    done = None
    for line in process.stdout:
        sys.stderr.write(line)
        if done is None and re.search(r"train +[1-3]/3 steps", line):
            done = time.perf_counter()
            ended.set()
    ended.set()
    watcher.join()
    if process.wait() or done is None:
        raise SystemExit("the training failed")
    since = {"group s": done - group[0]} if group else {}
    return {"s": done - start} | since


def _watch(pid, seen, ended):
    """Note when a process that trains is first there."""
    while not seen and not ended.wait(0.05):
        with suppress(psutil.Error):  # ended this moment
            for one in psutil.Process(pid).children(recursive=True):
                if re.search("ray::.*TrainWorker", " ".join(one.cmdline())):
                    seen.append(time.perf_counter())
                    break


def _index(folder, kind) -> Index:
    store = open_store(str(folder / "root"))
    pointer = results.dataset_pointer(store, _RUNS[kind])
    return load_index(store, pointer.folder, pointer.fingerprint)


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


def grow(folder):
    """A hundredth more, as further shards of the same name."""
    return shard(folder, run="more", source="more", options=["--append", _RUNS["copy"]])


ROWS = {
    "make the images": None,
    "shard, first time": partial(shard, run=_RUNS["copy"]),
    "shard, the same again": partial(shard, run=_RUNS["copy"]),
    "shard, another run": partial(shard, run=_RUNS["again"]),
    "training: first batch, empty cache": partial(train, kind="copy", empty=True),
    "decode the split": partial(decode, kind="copy"),
    "training: first batch, decoded before": partial(train, kind="copy"),
    "new run on it: command to step 1": first_step,
    "verify": verify,
    "load the index": load,
    "in place: index, by digest": partial(shard, run=_RUNS["digests"]),
    "in place: index, by listing": partial(shard, run=_RUNS["listing"]),
    "in place, training: first batch, empty cache": partial(train, kind="digests", empty=True),
    "in place: decode the split": partial(decode, kind="digests"),
    "in place, training: first batch, decoded before": partial(train, kind="digests"),
    "shard, 1 % more (append)": grow,
}
_IN_PLACE = {
    "in place: index, by digest": ["data.in_place=true"],
    "in place: index, by listing": ["data.in_place=true", "data.pin=listing"],
}


def run_row(name, folder, count):
    """Return the numbers of a row; None: what it measures is not here."""
    if name == "make the images":
        return timed(partial(make_images, folder, count))
    if name == "10^9 simulated":
        is_known = importlib.util.find_spec("ddpm_core.shards.table")
        return simulated(folder, count) if is_known else None
    if name in PEER_ROWS:
        work, peer = PEER_ROWS[name]
        return work(folder) if importlib.util.find_spec(PEERS[peer]) else None
    from ddpm_core.config import DataConfig

    is_known = "append_to" if name == "shard, 1 % more (append)" else "in_place"
    is_new = name.startswith("in place") or name == "shard, 1 % more (append)"
    if is_new and is_known not in DataConfig.model_fields:
        return None
    return ROWS[name](folder, *_IN_PLACE.get(name, ()))


def names():
    """All rows of images, in order."""
    return [*ROWS, *PEER_ROWS]
