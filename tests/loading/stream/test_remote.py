"""Shards that lie elsewhere: fetched once, checked as they arrive, and kept in the cache."""

import os
import time
from contextlib import closing
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.loading import shard_files
from ddpm_core.loading.cache import LIMIT_VARIABLE
from ddpm_core.loading.loader import load_split
from tests.loading.streams import FOLDER, RemoteStore, batches_of, foreign_index, numbers, pixels_of


def test_remote_shards_are_fetched_once_for_all_processes(store, cache_folder):
    """Catches a fetch for every epoch, every rank and every image."""
    index, _ = foreign_index(store, [3] * 5)
    first, second = RemoteStore(Path(store.uri)), RemoteStore(Path(store.uri))
    for remote in (first, second):
        with (
            closing(load_split(remote, index, "train")) as images,
            batches_of(images, num_steps=15, batch_size=3) as batches,
        ):
            for _ in range(15):
                batches.take()
    assert (first.num_reads, second.num_reads) == (5, 0)
    assert len(list(cache_folder.glob("shard-*.tar"))) == 5


def test_a_damaged_shard_in_the_cache_is_fetched_again(store, cache_folder):
    """Catches trust in what lies in the cache, and a run that stops for it."""
    index, files = foreign_index(store, [3])
    remote = RemoteStore(Path(store.uri))
    for num_reads in (1, 2):
        with closing(load_split(remote, index, "train")) as images:
            assert np.array_equal(images.take(numbers(1))[0].numpy(), pixels_of(files[1]))
        assert remote.num_reads == num_reads
        (path,) = cache_folder.glob("shard-*.tar")
        data = path.read_bytes()
        path.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])


@pytest.mark.parametrize(
    "changed",
    [
        lambda data: data[:600] + bytes([data[600] ^ 1]) + data[601:],
        lambda data: data[:600],
        lambda data: data + b"x",
    ],
    ids=["a bit", "cut", "longer"],
)
def test_a_shard_that_arrives_changed_is_fetched_again(changed, store, cache_folder):
    """Catches images out of a transfer that went wrong, an error about it while the shard is whole,
    and a second file behind the first one.
    """
    index, files = foreign_index(store, [3])
    arrived = []

    def changed_if_unchecked(data, checked):
        arrived.append(checked)
        return data if checked else changed(data)

    remote = RemoteStore(Path(store.uri), arriving=changed_if_unchecked)
    with closing(load_split(remote, index, "train")) as images:
        assert np.array_equal(images.take(numbers(1))[0].numpy(), pixels_of(files[1]))
    # Compared with the index each time; the third read distinguishes the way from the disk.
    assert arrived == [False, False, True]
    (path,) = cache_folder.glob("shard-*.tar")
    assert path.read_bytes() == store.read(f"{FOLDER}/train-000000.tar")


def test_a_shard_that_comes_again_under_the_same_inode_is_verified(
    store, cache_folder, monkeypatch
):
    """Catches trust in a file because a deleted one of its length was verified: inodes are used
    again.
    """
    index, files = foreign_index(store, [3])
    flips = [False, True, False]
    real = os.fstat

    def fstat(descriptor):
        found = real(descriptor)
        names = ("st_size", "st_nlink", "st_mode", "st_mtime_ns", "st_ctime_ns")
        return SimpleNamespace(st_ino=7, **{name: getattr(found, name) for name in names})

    def arriving(data, _checked):
        return data[:600] + bytes([data[600] ^ 1]) + data[601:] if flips.pop(0) else data

    monkeypatch.setattr(os, "fstat", fstat)
    remote = RemoteStore(Path(store.uri), arriving=arriving)
    with closing(load_split(remote, index, "train")) as images:
        for _ in range(2):
            assert np.array_equal(images.take(numbers(1))[0].numpy(), pixels_of(files[1]))
            (path,) = cache_folder.glob("shard-*.tar")
            assert path.read_bytes() == store.read(f"{FOLDER}/train-000000.tar")
            path.unlink()
            images._files._files.clear()
    assert flips == []


def test_a_shard_that_arrives_as_it_is_costs_one_digest(store, monkeypatch):
    """Catches hashing it as it arrives, against the index, and again as it lies in the cache."""
    index, _ = foreign_index(store, [3])
    hashed, arrived = [], []
    real = shard_files._sha256
    monkeypatch.setattr(shard_files, "_sha256", lambda *words: hashed.append(words) or real(*words))
    remote = RemoteStore(
        Path(store.uri), arriving=lambda data, checked: arrived.append(checked) or data
    )
    with closing(load_split(remote, index, "train")) as images:
        images.take(numbers(0, 1, 2))
    assert len(hashed) == 1
    assert arrived == [False]


def test_processes_start_while_the_first_shards_are_on_their_way(store):
    """Catches a start of half a second that begins when the shards are there."""
    index, _ = foreign_index(store, [3])
    answers = Event()

    def late(data, _checked):
        assert answers.wait(30)
        return data

    remote = RemoteStore(Path(store.uri), arriving=late)
    with (
        closing(load_split(remote, index, "train")) as images,
        batches_of(images, num_steps=1, batch_size=3) as batches,
    ):
        deadline = time.monotonic() + 30
        while images._decoders is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        answers.set()
        assert len(batches.take().images) == 3


def test_a_cache_that_cannot_hold_the_windows_is_refused(store, monkeypatch):
    """Catches shards that are fetched again for every batch, without a word."""
    index, _ = foreign_index(store, [3] * 5)
    monkeypatch.setenv(LIMIT_VARIABLE, "0.00001")
    load_split(store, index, "train").close()
    with pytest.raises(ConfigError, match=r"needs .* GiB in the local cache .* raise DDPM_CACHE"):
        load_split(RemoteStore(Path(store.uri)), index, "train")


@pytest.mark.parametrize("waited", [True, False], ids=["failed before", "fails meanwhile"])
def test_a_shard_that_could_not_be_fetched_ahead_is_fetched_when_it_is_used(store, waited):
    """Catches an outage that was over long ago, and ends the run when the shard is used."""
    index, files = foreign_index(store, [2, 2])
    is_away, may_fail = Event(), Event()
    is_away.set()

    def arriving(data, _checked):
        if is_away.is_set():
            may_fail.wait(30)
            raise StorageError("the server is away")
        return data

    remote = RemoteStore(Path(store.uri), arriving=arriving)
    with closing(load_split(remote, index, "train")) as images:
        shards = images._files
        shards.expect([0])
        ahead = shards._files[0]
        if waited:
            may_fail.set()
            assert isinstance(ahead.exception(30), StorageError)
            is_away.clear()
        else:
            real = ahead.result

            def result():
                may_fail.set()
                assert ahead.exception(30)
                is_away.clear()
                return real()

            ahead.result = result
        file = shards.get(0)
        shard = index.shards["train"][0]
        assert file.read(shard.offsets[1], shard.sizes[1]) == files[1]
        is_away.set()
        for _ in range(2):
            with pytest.raises(StorageError, match="the server is away"):
                shards.get(1)
        assert remote.num_reads == 4, "one that was not fetched ahead is not asked for twice"
