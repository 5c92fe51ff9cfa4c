"""Reading from shards: the same images as from memory, in the documented order."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_core.errors import ClusterError, DataError
from ddpm_core.loading import loader, shard_files
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.buffers import Buffers
from ddpm_core.loading.loader import load_split
from ddpm_core.permutation import images_at
from ddpm_core.shards.index import load_index
from tests.loading.streams import batches_of, foreign_index, numbers, pixels_of
from tests.sharding.small import data_config, shard_dataset, splits


def test_which_way_is_taken_follows_from_the_size_alone(store, monkeypatch):
    """Catches a bound that counts compressed bytes, or the memory of this machine."""
    index, _ = foreign_index(store, [2])
    for bound, kind in ((2 * 16 * 12 * 3, "ImageSet"), (2 * 16 * 12 * 3 - 1, "StreamedImages")):
        monkeypatch.setattr(loader, "MAX_DECODED_BYTES", bound)
        with closing(load_split(store, index, "train")) as images:
            assert type(images).__name__ == kind


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)], ids=["grey", "colour"])
def test_our_own_shards_are_read_as_from_memory(shape, store, monkeypatch):
    """Catches exchanged axes, images of neighbours, and labels of other images."""
    name = "digits" if shape[2] == 1 else "cifar10"
    config = data_config(name=name, height=shape[0], width=shape[1])
    folder = shard_dataset(store, config, splits(shape=shape)).folder
    index = load_index(store, folder)
    chosen = numbers(9, 0, 4, 4, 3)
    with closing(load_split(store, index, "train")) as streamed:
        monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 2**20)
        held = load_split(store, index, "train")
        assert len(streamed) == len(held) == 10
        assert torch.equal(streamed.take(chosen), held.take(chosen))
        assert torch.equal(streamed.images(3, 99), held.images(3, 99))
        assert streamed.images(0, 10).is_contiguous()
        assert torch.equal(streamed.member("label", chosen), held.member("label", chosen))


def test_labels_take_one_read_each(store, monkeypatch):
    """Catches: shards looked up, and headers and contents read, for each label by itself."""
    index, _ = foreign_index(store, [5, 4])
    reads, gets = [], []
    read, get = shard_files.ShardFile.read, shard_files.ShardFiles._future
    with closing(load_split(store, index, "train")) as images:
        monkeypatch.setattr(
            shard_files.ShardFile, "read", lambda *at: reads.append(at) or read(*at)
        )
        monkeypatch.setattr(
            shard_files.ShardFiles, "_future", lambda *at: gets.append(at) or get(*at)
        )
        assert images.member("label", numbers(8, 0, 4, 5)).tolist() == [2, 0, 1, 2]
    assert (len(reads), len(gets)) == (4, 2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_files_of_other_programs_are_decoded(kind, store):
    """Catches processes that mix up shards or images, and results of other requests."""
    index, files = foreign_index(store, [70, 1, 90], kind=kind)
    chosen = np.random.default_rng(0).permutation(161)
    with closing(load_split(store, index, "train", num_decoders=2)) as images:
        for _ in range(2):
            got = images.take(chosen)
            assert got.shape == (161, 3, 16, 12)
            for image_u8, number in zip(got.numpy(), chosen, strict=True):
                assert np.array_equal(image_u8, pixels_of(files[number]))
        assert images.member("label", numbers(0, 70, 71, 160)).tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_batches_are_the_documented_order_for_any_ranks_from_any_step(world_size, store):
    """Catches a reader that reorders, drops or repeats images; a resume that begins anew."""
    counts = [3, 1, 5, 2, 4, 6, 1, 2]
    index, files = foreign_index(store, counts)
    num_steps, batch_size = 9, 8
    stream = images_at(BlockOrder(5, counts), np.arange(num_steps * batch_size))
    assert all(sorted(stream[at : at + 24]) == list(range(24)) for at in (0, 24, 48))
    with closing(load_split(store, index, "train")) as images:
        for start in (0, 4, 8):
            parts = []
            for rank in range(world_size):
                with batches_of(
                    images,
                    num_steps=num_steps,
                    batch_size=batch_size,
                    start=start,
                    rank=rank,
                    world_size=world_size,
                    seed=5,
                ) as batches:
                    parts.append([batches.take().images for _ in range(start, num_steps)])
            for step in range(start, num_steps):
                together = torch.cat([part[step - start] for part in parts]).numpy()
                own = stream[step * batch_size : (step + 1) * batch_size]
                for image_u8, number in zip(together, own, strict=True):
                    assert np.array_equal(image_u8, pixels_of(files[number]))


def test_a_lost_process_is_reported_and_the_others_end_with_the_loader(store):
    """Catches a step that waits for ever for a killed process, and processes left behind."""
    index, _ = foreign_index(store, [3, 3])
    with closing(load_split(store, index, "train", num_decoders=2)) as images:
        images.take(numbers(0))
        children = [child.process for child in images._decoders._children]
        os.kill(children[0].pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match="code -9"):
            images.take(np.zeros(64 * 4 + 1, np.int64))  # more tasks than there are channels
    assert [child.returncode for child in children] == [-9, 0]


def test_processes_end_when_their_parent_is_killed(store, tmp_path):
    """Catches orphans that hold cores and memory after a worker was killed."""
    index, _ = foreign_index(store, [3])
    pid = os.fork()
    if pid == 0:
        try:
            images = load_split(store, index, "train")
            images.take(numbers(0))
            (tmp_path / "child").write_text(str(images._decoders._children[0].process.pid))
            time.sleep(60)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = Path("/proc") / (tmp_path / "child").read_text()
    assert child.exists()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while child.exists() and " Z " not in (child / "stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def num_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_open_files_are_bounded(store, monkeypatch):
    """Catches a reader that opens every shard of an epoch and keeps it."""
    monkeypatch.setattr("ddpm_core.loading.blocks.MIN_WINDOW_SHARDS", 2)
    monkeypatch.setattr("ddpm_core.loading.blocks.WINDOW_IMAGES", 4)
    index, _ = foreign_index(store, [2] * 60, kind="PNG")
    before = num_open()
    with (
        closing(load_split(store, index, "train")) as images,
        batches_of(images, num_steps=60, batch_size=4) as batches,
    ):
        at_most = 0
        for _ in range(60):
            batches.take()
            at_most = max(at_most, num_open())
    # Three windows of 2 or 3 shards, those that batches under way still read from, sockets.
    assert at_most - before < 30
    assert num_open() <= before + 1


def test_the_memory_of_batches_is_used_again(store):
    """Catches fresh memory for every batch: its pages cost more than the pixels."""
    index, _ = foreign_index(store, [40], kind="PNG")
    with (
        closing(load_split(store, index, "train")) as images,
        batches_of(images, num_steps=100, batch_size=4) as batches,
    ):
        seen = {batches.take().images.data_ptr() for _ in range(100)}
    assert len(seen) <= 8 + 3


def test_a_range_of_more_than_memory_is_refused(store, monkeypatch):
    """Catches 'all images' of a data set that is streamed because it does not fit."""
    monkeypatch.setattr("ddpm_core.loading.stream.MAX_RANGE_BYTES", 4 * 16 * 12 * 3)
    index, _ = foreign_index(store, [5])
    with closing(load_split(store, index, "train")) as images:
        assert len(images.images(0, 4)) == 4
        with pytest.raises(DataError, match="5 images have 2880 bytes of pixels"):
            images.images(0, 5)


def test_a_range_is_in_memory_once(store, monkeypatch):
    """Catches a second copy of the whole range, channels last, beside it and after it; parts that
    are put in each other's place."""
    monkeypatch.setattr("ddpm_core.loading.stream._PART_BYTES", 4 * 16 * 12 * 3)
    index, files = foreign_index(store, [5, 6], kind="PNG")
    leased = []
    lease = Buffers.lease

    def recorded(buffers, shape, dtype):
        leased.append(shape[0])
        return lease(buffers, shape, dtype)

    monkeypatch.setattr(Buffers, "lease", recorded)
    with closing(load_split(store, index, "train")) as images:
        got = images.images(1, 11)
        assert leased == [4, 4, 2]
        assert sum(len(one) for one in images._buffers._free) <= 4 + 2
    assert got.is_contiguous()
    for image_u8, file in zip(got.numpy(), files[1:], strict=True):
        assert np.array_equal(image_u8, pixels_of(file))
