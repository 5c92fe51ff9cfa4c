"""A split that is decoded while it is used: the same batches before, during and after."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from ddpm_core.errors import DataError
from ddpm_core.loading import fill, filling, loader, stream
from ddpm_core.loading.filling import FillingImages
from ddpm_core.loading.loader import ImageSet, load_split
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.shards.index import load_index
from ddpm_core.store import durable
from ddpm_core.store.storage import open_store
from tests.composing import sets
from tests.loading.streams import RemoteStore, batches_of, foreign_index, numbers
from tests.sharding.small import data_config, shard_dataset, splits


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture(params=["ours", "others"])
def index(request, store):
    if request.param == "others":
        return foreign_index(store, [5, 7, 3], kind="JPEG")[0]
    config = data_config(name="cifar10", height=32, width=32, images_per_shard=6)
    shapes = splits(num_train=15, shape=(32, 32, 3))
    return load_index(store, shard_dataset(store, config, shapes).folder)


@pytest.fixture
def gate(monkeypatch):
    """Holds the decoding back until it is set."""
    opened, read_rows = Event(), fill.read_rows

    def held_back(*values):
        assert opened.wait(60)
        read_rows(*values)

    monkeypatch.setattr(fill, "read_rows", held_back)
    monkeypatch.setattr(filling, "_SOON_S", 0)
    yield opened
    opened.set()


def beside(store, index):
    return load_split(store, index, "train", beside=True)


STEPS = {"num_steps": 9, "batch_size": 4, "seed": 3}


def test_batches_are_the_same_before_while_and_after_it_is_decoded(store, index, gate):
    """Catches the order of what is streamed, another layout in memory, by which convolutions round
    otherwise, and a change of the way in the middle that costs or repeats a batch."""
    batches_are_the_same(store, index, gate)


def test_batches_of_a_mixture_are_the_same_too(store, gate):
    """Catches the order of all images permuted, in which a mixture in memory is not trained."""
    first = sets.made(store, train=range(10, 20), test=[1])
    second = sets.made(store, train=range(100, 106), test=[2], classes=("dog", "rose"))
    batches_are_the_same(store, sets.composed(store, first, second, weights=(7, 3)), gate)


def batches_are_the_same(store, index, gate):
    with (
        closing(beside(store, index)) as images,
        batches_of(images, start=0, **STEPS) as batches,
    ):
        assert isinstance(images, FillingImages)
        got = [batches.take() for _ in range(4)]
        assert isinstance(images._shards, StreamedImages)
        gate.set()
        images._held.result(60)
        got += [batches.take() for _ in range(5)]
        labels = images.member("label", numbers(3, 14, 0))
        assert images._shards is None, "the shards are still open"
    with closing(load_split(store, index, "train", beside=True)) as held:
        assert isinstance(held, ImageSet), "it was decoded before"
        assert torch.equal(held.member("label", numbers(3, 14, 0)), labels)
        with batches_of(held, start=0, **STEPS) as batches:
            for one in got:
                other = batches.take()
                assert np.array_equal(one.numbers, other.numbers)
                assert torch.equal(one.images, other.images)
                assert one.images.stride() == other.images.stride()


@pytest.fixture
def far(store):
    """A data set of 40 shards of an image each, in a store of which nothing lies here."""
    index = foreign_index(store, [1] * 40, kind="PNG")[0]
    return RemoteStore(Path(store.uri)), index


def test_of_a_store_elsewhere_the_first_batch_fetches_the_shards_of_its_images(
    far, gate, cache_folder
):
    """Catches a step that waits for the whole split; a shard that is fetched for the batches and
    once more for the decoding; batches that differ from those of a split in memory."""
    remote, index = far
    with closing(beside(remote, index)) as images:
        chosen = images.order(3).images(0, np.arange(6))
        first = images.take(chosen)
        assert remote.num_reads == 6
        gate.set()
        assert isinstance(images._held.result(60), ImageSet)
        assert torch.equal(images.take(chosen), first)
        assert remote.num_reads == 40
        assert first.stride() == images.take(chosen).stride()
    assert len(list(cache_folder.glob("shard-*.tar"))) == 40
    with closing(load_split(remote, index, "train")) as held:
        assert torch.equal(held.take(chosen), first)


def test_between_two_shards_the_decoding_waits_for_the_first_batch(far, gate, monkeypatch):
    """Catches a first batch that shares disk, network and cores with the rest of the data set."""
    remote, index = far
    begun, read_rows, take, meanwhile = [], fill.read_rows, StreamedImages.take, []
    monkeypatch.setattr(fill, "read_rows", lambda *of: begun.append(1) or read_rows(*of))

    def slowly(*values, **words):
        before = len(begun)
        gate.set()
        time.sleep(0.2)
        meanwhile.append(len(begun) - before)
        return take(*values, **words)

    monkeypatch.setattr(StreamedImages, "take", slowly)
    with closing(beside(remote, index)) as images:
        images.take(numbers(20, 30))
        assert meanwhile[0] <= 2, "one of each thread was under way"
        assert isinstance(images._held.result(60), ImageSet)


def test_a_cache_without_room_for_the_shards_too_decodes_first(far, monkeypatch):
    """Catches a training that is refused, or fetches each shard again and again, where it ran
    before."""
    remote, index = far
    monkeypatch.setenv("DDPM_CACHE_GIB", str(60_000 / 2**30))
    with closing(beside(remote, index)) as images:
        assert isinstance(images, ImageSet)
    assert remote.num_reads == 40


def test_a_disk_without_room_for_the_shards_too_decodes_first(far, monkeypatch, cache_folder):
    """Catches a training that ends on a full disk, on which what is decoded alone has room."""
    remote, index = far
    cache_folder.mkdir(parents=True)
    (cache_folder / "shard-old.tar").write_bytes(bytes(2**16))  # it may go
    needed = loader._needed_bytes(index, "train")
    for free, kind in ((needed - 2**16 - 1, ImageSet), (needed - 2**16, FillingImages)):
        monkeypatch.setattr(durable, "free_bytes", lambda _folder, free=free: free)
        with closing(beside(remote, index)) as images:
            assert isinstance(images, kind)
        for path in cache_folder.glob("decoded-*"):
            path.unlink()


def test_whether_there_are_labels_is_known_before_anything_is_read(store, index, gate):
    """Catches half a second, and processes, for the look whether a member is there."""
    with closing(beside(store, index)) as images:
        empty = images.member("label", numbers())
        assert (empty.dtype, len(empty)) == (torch.int64, 0)
        assert images._shards is None


def test_a_batch_of_very_many_shards_opens_some_at_a_time(store, gate, monkeypatch):
    """Catches 'too many open files' of a large batch, whose images are of as many shards; rows of
    it in another order for that; and 16 bits, of which torch has no rows by number."""
    monkeypatch.setattr("ddpm_core.loading.blocks.MIN_WINDOW_SHARDS", 1)
    monkeypatch.setattr("ddpm_core.loading.blocks.WINDOW_IMAGES", 1)
    monkeypatch.setattr(filling, "_SHARDS_AT_ONCE", 2)
    images = splits(num_train=20, num_test=1, shape=(1, 2, 1))
    train = dataclasses.replace(images.train, images_u8=images.train.images_u8.astype("u2") * 201)
    images = dataclasses.replace(images, train=train)
    config = data_config(name="swiss_roll", height=1, width=2, depth=16, images_per_shard=1)
    index = load_index(store, shard_dataset(store, config, images).folder)
    decode, at_a_time = stream.decode_files, []
    monkeypatch.setattr(
        stream, "decode_files", lambda *a, **k: at_a_time.append(num_open()) or decode(*a, **k)
    )
    chosen = np.random.default_rng(0).permutation(20)
    with closing(beside(store, index)) as images:
        before = num_open()
        taken, labels = images.take(chosen), images.member("label", chosen)
        gate.set()
        images._held.result(60)
        assert torch.equal(taken, images.take(chosen))
        assert torch.equal(labels, images.member("label", chosen))
    assert len(at_a_time) == 10
    # Those of a part, and of three windows, of one shard each.
    assert max(at_a_time) - before < 10


def num_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_damaged_shard_ends_the_training_whichever_way_it_is_found(store, index, gate):
    """Catches an error of a thread that nobody asks for."""
    key = f"{index.manifest.folder}/{index.shards['train'][2].name}"
    path = store.local_path(key)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with closing(beside(store, index)) as images:
        assert len(images.take(numbers(0, 1))) == 2
        gate.set()
        while not images._held.done():
            time.sleep(0.005)
        with pytest.raises(DataError, match=r"\.tar is damaged: expected"):
            images.take(numbers(0, 1))


def test_a_training_that_ends_sooner_ends_the_decoding(store, index, gate, cache_folder):
    """Catches a process that stays for it, and a half file under the whole one's name."""
    images = beside(store, index)
    images.take(numbers(0))
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(images.close)
        while not images._is_closed.is_set():
            time.sleep(0.005)
        gate.set()
        closed.result(60)
    assert not list(cache_folder.glob("*.bin"))
    assert not list(cache_folder.glob(".*.tmp"))


def test_one_rank_decodes_and_the_others_change_over_with_it(store, index, gate, monkeypatch):
    """Catches each rank of a machine decoding for itself, and one that waits for another to the
    end of a training that is over."""
    made, decode = [], fill.fill
    monkeypatch.setattr(
        "ddpm_core.loading.decoded.fill", lambda *values: made.append(1) or decode(*values)
    )
    with closing(beside(store, index)) as first, closing(beside(store, index)) as second:
        third = beside(store, index)
        chosen = numbers(0, 9, 14)
        expected = first.take(chosen)
        assert torch.equal(second.take(chosen), expected)
        third.close()
        gate.set()
        for images in (first, second):
            assert isinstance(images._held.result(60), ImageSet)
            assert torch.equal(images.take(chosen), expected)
    assert made == [1]


def test_of_what_is_decoded_soon_no_shard_is_opened(store, index, monkeypatch):
    """Catches processes and open files for a data set that takes milliseconds."""
    monkeypatch.setattr(filling, "_SOON_S", 60)
    with closing(beside(store, index)) as images:
        images.take(numbers(0, 3))
        assert images._shards is None
