"""Small splits: decoded once for all processes of a machine, checked, and nobody's to change."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_core.errors import ConfigError
from ddpm_core.loading.cache import LIMIT_VARIABLE
from ddpm_core.loading.loader import load_split
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from tests.loading.streams import RemoteStore, foreign_index, pixels_of
from tests.sharding.small import data_config, shard_dataset, splits


@pytest.fixture
def store(tmp_path):
    return RemoteStore(Path(open_store(str(tmp_path / "root")).uri))


@pytest.fixture
def index(store):
    folder = shard_dataset(store, data_config(), splits()).folder
    store.num_reads = 0
    return load_index(store, folder)


def decoded_file(cache_folder, split="train"):
    (path,) = cache_folder.glob(f"decoded-*-{split}.bin")
    return path


def test_a_split_is_decoded_once_for_all_processes(store, index, cache_folder):
    """Catches every rank and every stage decoding for itself."""
    first = load_split(store, index, "train")
    assert store.num_reads == 3
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(_reads_nothing, [(store.uri, index)] * 3)
    assert torch.equal(load_split(store, index, "train").pixels, first.pixels)
    assert store.num_reads == 3


def _reads_nothing(uri, index):
    store = RemoteStore(Path(uri))
    assert len(load_split(store, index, "train")) == 10
    assert store.num_reads == 0


@pytest.mark.parametrize("at", [0, 100, -40, -1], ids=["labels", "pixels", "last pixels", "digest"])
def test_a_flipped_bit_in_the_cache_is_found_and_mended(at, store, index, cache_folder):
    """Catches training on damaged pixels, or with damaged labels, that no checksum covers."""
    before = load_split(store, index, "train")
    images_u8, labels = before.pixels.clone(), before.others["label"].clone()
    path = decoded_file(cache_folder)
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)
    again = load_split(store, index, "train")
    assert store.num_reads == 6
    assert torch.equal(again.pixels, images_u8)
    assert torch.equal(again.others["label"], labels)


@pytest.mark.parametrize("by_range", [False, True])
def test_a_flipped_bit_among_the_images_is_found_when_they_are_used(by_range, store, cache_folder):
    """Catches an opening that reads all, damage in what was not read then, and a file that keeps
    it for the next process."""
    count = 400  # 1.2 MB, five blocks
    config = data_config(name="cifar10", height=32, width=32, images_per_shard=100)
    made = splits(num_train=count, shape=(32, 32, 3))
    index = load_index(store, shard_dataset(store, config, made).folder)
    load_split(store, index, "train")
    path = decoded_file(cache_folder)
    data = bytearray(path.read_bytes())
    at = 2**18 + 1000  # in the second block, and image 84 begins in the first
    assert (at - 8 * count) // 3072 == 84
    data[at] ^= 1
    path.write_bytes(data)
    store.num_reads = 0
    images = load_split(store, index, "train")
    truth = torch.from_numpy(made.train.images_u8).permute(0, 3, 1, 2)
    assert torch.equal(images.take(np.arange(50)), truth[:50])
    assert (store.num_reads, path.exists()) == (0, True)
    got = images.images(84, 85) if by_range else images.take(np.array([84]))
    assert torch.equal(got, truth[84:85])
    assert store.num_reads == 2, "of four shards those of the block"
    assert torch.equal(images.images(0, count), truth)
    assert not path.exists()
    assert torch.equal(load_split(store, index, "train").images(0, count), truth)
    assert path.exists()


def test_the_file_of_another_split_or_data_set_is_not_taken(store, index, cache_folder):
    """Catches a digest that says only that the file is whole."""
    load_split(store, index, "train")
    other = data_config(num_test_images=5)
    second = load_index(store, shard_dataset(store, other, splits()).folder)
    path = decoded_file(cache_folder)
    data = path.read_bytes()
    path.unlink()
    load_split(store, second, "train")
    decoded_file(cache_folder).write_bytes(data)
    before = store.num_reads
    load_split(store, second, "train")
    assert store.num_reads == before + 3


def test_writing_into_the_images_changes_no_other_process_s(store, index, cache_folder):
    """Catches a mapping through which one stage spoils the data of the next."""
    one, other = (load_split(store, index, "train") for _ in range(2))
    before, data = other.pixels.clone(), decoded_file(cache_folder).read_bytes()
    one.pixels.zero_()
    assert torch.equal(other.pixels, before)
    assert decoded_file(cache_folder).read_bytes() == data


def test_an_evicted_file_stays_mapped(store, index, cache_folder):
    """Catches pixels that vanish under a training when another needs the room."""
    images = load_split(store, index, "train")
    before = images.pixels.clone()
    decoded_file(cache_folder).unlink()
    assert torch.equal(images.pixels, before)


def test_the_pages_are_the_file_s(store, cache_folder):
    """Catches a copy in each process of what all of them have mapped."""
    count = 1000  # 3 MB
    config = data_config(name="cifar10", height=32, width=32, images_per_shard=count)
    images = splits(num_train=count, shape=(32, 32, 3))
    index = load_index(store, shard_dataset(store, config, images).folder)
    load_split(store, index, "train")

    def private_kib():
        text = Path("/proc/self/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if "Private_Dirty" in line)

    before = private_kib()
    images = load_split(store, index, "train")
    assert sum(int(images.take(np.array([number])).sum()) for number in range(count)) > 0
    assert private_kib() - before < 1024


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_files_of_other_programs_are_decoded(kind, store):
    """Catches a decoder that knows our own PNG only."""
    index, files = foreign_index(store, [3, 2], kind=kind)
    images = load_split(store, index, "train")
    for image_u8, file in zip(images.pixels.numpy(), files, strict=True):
        assert np.array_equal(image_u8, pixels_of(file))
    assert images.others["label"].tolist() == [0, 1, 2, 0, 1]


def test_a_cache_that_is_too_small_is_refused(store, index, monkeypatch):
    """Catches a file over the limit, and one that is evicted as soon as it is made."""
    monkeypatch.setenv(LIMIT_VARIABLE, "0.0000001")
    with pytest.raises(ConfigError, match=r"the train split of .* needs .* raise DDPM_CACHE_GIB"):
        load_split(store, index, "train")


def test_a_full_disk_is_reported_before_it_is_written_to(store, index, monkeypatch):
    """Catches a mapped write that the kernel answers with SIGBUS."""
    from ddpm_core.errors import StorageError

    def full(*_arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    expected = (
        r"local cache .* No space left on device: \d+ bytes are needed \(\d+ bytes are free\); "
        "free some"
    )
    with pytest.raises(StorageError, match=expected):
        load_split(store, index, "train")
