"""Reading from shards: the same images as from memory, in the documented order, or an error."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_core.errors import ClusterError, ConfigError, DataError, StorageError
from ddpm_core.loading import loader, shard_files
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.buffers import Buffers
from ddpm_core.loading.cache import LIMIT_VARIABLE
from ddpm_core.loading.loader import load_split
from ddpm_core.permutation import images_at
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from tests.loading.streams import FOLDER, RemoteStore, batches_of, foreign_index, pixels_of
from tests.sharding.small import data_config, shard_dataset, splits


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch):
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 0)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def numbers(*values):
    return np.array(values, dtype=np.int64)


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
    read, get = shard_files.ShardFile.read, shard_files.ShardFiles.get
    with closing(load_split(store, index, "train")) as images:
        monkeypatch.setattr(
            shard_files.ShardFile, "read", lambda *at: reads.append(at) or read(*at)
        )
        monkeypatch.setattr(shard_files.ShardFiles, "get", lambda *at: gets.append(at) or get(*at))
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


DAMAGE = {
    "a bit": lambda data, _other: data[:700] + bytes([data[700] ^ 4]) + data[701:],
    "the last bit": lambda data, _other: data[:-1] + b"\x01",
    "cut": lambda data, _other: data[:-512],
    "empty": lambda _data, _other: b"",
    "another shard": lambda _data, other: other,
    "missing": lambda _data, _other: None,
}


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_named_when_it_is_first_used(damage, remote, store):
    """Catches images out of a file that is not what was committed, and errors without its name."""
    index, _ = foreign_index(store, [3, 3, 3], kind="PNG")
    paths = [store.local_path(f"{FOLDER}/train-00000{number}.tar") for number in (0, 1)]
    bad = damage(paths[1].read_bytes(), paths[0].read_bytes())
    paths[1].unlink()
    if bad is not None:
        paths[1].write_bytes(bad)
    used = RemoteStore(Path(store.uri)) if remote else store
    with closing(load_split(used, index, "train")) as images:
        assert len(images.take(numbers(0, 2, 6, 8))) == 4
        told = r"train-000001\.tar is (damaged: expected .* found|missing).*the shard stage"
        for _ in range(2):
            with pytest.raises(DataError, match=told):
                images.take(numbers(0, 4))


def test_a_shard_that_is_replaced_while_it_is_open_stays_what_it_was(store):
    """Catches a verified name whose file somebody exchanges later."""
    index, files = foreign_index(store, [3, 3])
    path = store.local_path(f"{FOLDER}/train-000000.tar")
    with closing(load_split(store, index, "train")) as images:
        before = images.take(numbers(0, 1, 2))
        path.unlink()
        path.write_bytes(store.read(f"{FOLDER}/train-000001.tar"))
        assert torch.equal(images.take(numbers(0, 1, 2)), before)
    assert np.array_equal(before[0].numpy(), pixels_of(files[0]))


def test_a_shard_that_is_cut_while_it_is_open_is_named(store):
    """Catches SIGBUS, and zeros taken for pixels."""
    folder = shard_dataset(store, data_config(), splits()).folder
    with closing(load_split(store, load_index(store, folder), "train")) as images:
        images.take(numbers(0))
        os.truncate(store.local_path(f"{folder}/train-000000.tar"), 700)
        with pytest.raises(DataError, match=r"train-000000\.tar ends within the .* was cut"):
            images.take(numbers(1))


SPOILT = {
    "no image": lambda _file: b"no image at all",
    "cut": lambda file: file[: len(file) // 2],
    "another size": None,
}


@pytest.mark.parametrize("name", SPOILT)
def test_an_image_that_cannot_be_decoded_is_named(name, store):
    """Catches the pixels of the image before it in its place; the others are still right."""
    from tests.loading.streams import encoded, smooth

    def spoil(number, file):
        if number != 4:
            return file
        spoilt = SPOILT[name]
        return spoilt(file) if spoilt else encoded(smooth(4, (12, 16, 3)), "PNG")

    index, files = foreign_index(store, [3, 3], kind="PNG", spoil=spoil)
    with closing(load_split(store, index, "train")) as images:
        with pytest.raises(DataError, match=r"train-000001\.tar: train-00000004"):
            images.take(numbers(3, 4, 5))
        got = images.take(numbers(3, 5))
        assert np.array_equal(got[1].numpy(), pixels_of(files[5]))


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
