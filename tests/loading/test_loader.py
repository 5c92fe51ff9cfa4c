import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest
import torch

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import DataError
from ddpm_core.loading import loader
from ddpm_core.loading.batches import Batches
from ddpm_core.loading.loader import batch, flip, load_split, to_unit_range
from ddpm_core.recipes import digits
from ddpm_core.runs import layout
from ddpm_core.sampling.draw import to_u8
from ddpm_core.shards.index import load_index
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import FileRecord
from ddpm_core.store.storage import open_store, sha256_of
from tests.sharding.small import data_config, shard_dataset, splits, tar_of


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def folder(store):
    return shard_dataset(store, data_config(), splits()).folder


@pytest.mark.parametrize("channels", [1, 3])
def test_load_split_gives_back_the_images(channels, store):
    """Catches shards in another order, exchanged axes, and labels of other images."""
    images = splits(shape=(32, 32, channels))
    name = {1: "mnist", 3: "cifar10"}[channels]
    config = data_config(name=name, height=32, width=32)
    index = load_index(store, shard_dataset(store, config, images).folder)
    for split, raw in (("train", images.train), ("test", images.test)):
        got = load_split(store, index, split)
        assert got.pixels.dtype == torch.uint8
        assert got.others["label"].dtype == torch.int64
        assert len(got) == len(raw)
        np.testing.assert_array_equal(got.pixels.permute(0, 2, 3, 1).numpy(), raw.images_u8)
        np.testing.assert_array_equal(got.others["label"].numpy(), raw.labels)


DAMAGE = {
    "a bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "the last bit": lambda data: data[:-1] + b"\x01",
    "a byte less": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\0",
    "empty": lambda _data: b"",
    "zeros": lambda data: bytes(len(data)),
    "another shard": lambda data: data.replace(b"train-0000000", b"train-0000001"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_named_with_expected_and_found(damage, store, folder):
    """Catches training on damaged images, and an error that does not say which shard."""
    path = store.local_path(f"{folder}/train-000001.tar")
    good = path.read_bytes()
    path.write_bytes(damage(good))
    index = load_index(store, folder)
    message = rf"train-000001\.tar is damaged: expected {len(good)} bytes, SHA-256 .*; found .*"
    with pytest.raises(DataError, match=message + "the shard stage"):
        load_split(store, index, "train")
    assert len(load_split(store, index, "test")) == 6


def test_any_flipped_bit_is_found(store, folder):
    """Catches bytes that no checksum covers."""
    path = store.local_path(f"{folder}/test-000000.tar")
    good, rng, index = path.read_bytes(), np.random.default_rng(0), load_index(store, folder)
    for _ in range(50):
        at, bit = int(rng.integers(len(good))), int(rng.integers(8))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])
        with pytest.raises(DataError):
            load_split(store, index, "test")


def test_a_missing_shard_is_named(store, folder):
    """Catches a KeyMissingError that no command line knows."""
    store.delete(f"{folder}/train-000002.tar")
    with pytest.raises(DataError, match=r"train-000002\.tar is missing.*shard stage"):
        load_split(store, load_index(store, folder), "train")


def test_an_outage_is_no_damage(store, folder, monkeypatch):
    """Catches telling people to delete shards because the network is down."""
    index = load_index(store, folder)

    def down(*_arguments, **_options):
        raise loader_storage_error

    from ddpm_core.errors import StorageError

    loader_storage_error = StorageError("no answer")
    monkeypatch.setattr(store, "read", down)
    with pytest.raises(StorageError, match="no answer"):
        load_split(store, index, "train")


def recommitted(store, folder, tar, change_body=lambda _body: None):
    """The index after another program committed `tar` as the first test shard."""
    found = manifest.load(store, folder, Expected({}), name=layout.DATASET_INDEX)
    store.write(f"{folder}/test-000000.tar", tar)
    store.delete(f"{folder}/index.json")
    files = {
        **found.files,
        "test-000000": FileRecord("test-000000.tar", len(tar), sha256_of(tar)),
    }
    body = json.loads(canonical_json(found.body))
    change_body(body)
    commit(store, folder, files, body, name=layout.DATASET_INDEX)
    return load_index(store, folder)


def members_of(store, folder):
    """{name: bytes} of the first test shard."""
    from ddpm_core.shards.tar import members

    tar = store.read(f"{folder}/test-000000.tar")
    return {m.name: tar[m.offset : m.offset + m.size] for m in members(tar, origin="")}


def without(files, name):
    return {key: value for key, value in files.items() if key != name}


FOREIGN = {
    "pickle beside it": lambda files: {**files, "test-00000003.pkl": b"cos\nsystem\n."},
    "pickle instead": lambda files: {
        name.replace("0.json", "0.pth"): content for name, content in files.items()
    },
    "path": lambda files: {f"../{name}": content for name, content in files.items()},
    "other key": lambda files: {n.replace("00001.", "00009."): c for n, c in files.items()},
    "no label": lambda files: without(files, "test-00000001.cls"),
    "one image less": lambda files: dict(list(files.items())[:-3]),
    "reversed": lambda files: dict(reversed(files.items())),
    "label of no class": lambda files: {**files, "test-00000001.cls": b"10"},
    "negative label": lambda files: {**files, "test-00000001.cls": b"-1"},
    "endless label": lambda files: {**files, "test-00000001.cls": b"1" * 5000},
    "label is text": lambda files: {**files, "test-00000001.cls": b"cat"},
    "image is text": lambda files: {**files, "test-00000001.png": b"cat" * 40},
    "image is cut": lambda files: {
        **files,
        "test-00000001.png": files["test-00000001.png"][:70].ljust(140, b"\0"),
    },
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_shard_of_another_hand_is_refused_though_its_digest_fits(change, store, folder):
    """Catches members that are skipped, executed, or taken for the next image."""
    tar = tar_of(change(members_of(store, folder)))
    index = recommitted(store, folder, tar)
    with pytest.raises(DataError, match=r"test-000000\.tar.*gain|test-000000\.tar.*nother root"):
        load_split(store, index, "test")


def test_an_index_that_disagrees_with_its_shards_is_refused(store, folder):
    """Catches empty memory returned as images where the counts do not add up."""
    tar = store.read(f"{folder}/test-000000.tar")

    def more(body):
        body["num_images"]["test"] += 1

    with pytest.raises(DataError, match="has shards of 6 test images, but says 7"):
        load_split(store, recommitted(store, folder, tar, more), "test")

    def elsewhere(body):
        body["num_images"]["test"] -= 1
        body["shards"]["test"][0]["offsets"][1] += 512

    with pytest.raises(DataError, match="where the index says"):
        load_split(store, recommitted(store, folder, tar, elsewhere), "test")


def test_a_data_set_that_does_not_fit_is_refused_before_memory_is_taken(store, folder):
    """Catches an allocation of whatever the index says."""
    index = load_index(store, folder)
    huge = dataclasses.replace(index, num_images={"train": 2**26 + 1, "test": 6})
    with pytest.raises(DataError, match="has shards of 10 train images, but says 67108865"):
        load_split(store, huge, "train")
    assert loader.MAX_DECODED_BYTES == 4 * 2**30


def test_batch_takes_the_images_in_the_given_order(store, folder):
    """Catches sorted, unique or shifted indices."""
    images = load_split(store, load_index(store, folder), "train")
    indices = np.array([3, 0, 3, 9], dtype=np.int64)
    got = batch(images, indices)
    assert got.dtype == torch.uint8
    torch.testing.assert_close(got, torch.stack([images.pixels[i] for i in indices]))


def test_to_unit_range_is_the_paper_s_scaling_of_every_value():
    """Catches /255, /127, /128, and half precision."""
    values = torch.arange(256, dtype=torch.uint8)
    x = to_unit_range(values, torch.device("cpu"))
    assert x.dtype == torch.float32
    assert (x[0].item(), x[255].item()) == (-1.0, 1.0)
    torch.testing.assert_close(x.double(), values.double() / 127.5 - 1, rtol=0, atol=1e-7)
    back = ((x + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back, values)


def test_flip_mirrors_left_and_right_where_the_coin_says():
    """Catches turning upside down, flipping the batch, and the coin read the other way round."""
    images = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
    got = flip(images, torch.tensor([False, True]))
    assert torch.equal(got[0], images[0])
    assert got[1, 0].tolist() == [[27, 26, 25, 24], [31, 30, 29, 28]]


@pytest.mark.gpu
@pytest.mark.parametrize("streamed", [False, True])
def test_pinned_batches_arrive_on_a_gpu_unchanged(streamed, store, folder, gpu, monkeypatch):
    """Catches memory that is used again before the GPU has read it, and axes in another order."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 0 if streamed else 2**20)
    train = digits().train.model_copy(update={"global_batch_size": 4, "num_steps": 50})

    def batches(*, pinned):
        with (
            closing(load_split(store, load_index(store, folder), "train")) as images,
            Batches(images, train, start=0, rank=0, world_size=1, pinned=pinned) as made,
        ):
            for _ in range(train.num_steps):
                yield made.take().images

    there = []
    for images_u8 in batches(pinned=True):
        assert images_u8.is_pinned()
        there.append(images_u8.to(gpu, non_blocking=True))
    for on_gpu, images_u8 in zip(there, batches(pinned=False), strict=True):
        assert torch.equal(on_gpu.cpu(), images_u8)


@pytest.mark.gpu
def test_every_level_has_its_value_on_a_gpu(gpu):
    """Catches a GPU's division by a number, a product with its inverse, that leads elsewhere."""
    values = torch.arange(256, dtype=torch.uint8)
    x = to_unit_range(values, gpu)
    torch.testing.assert_close(x.cpu().double(), values.double() / 127.5 - 1, rtol=0, atol=2.5e-7)
    assert torch.equal(to_u8(x.reshape(1, 1, 1, 256)).flatten().cpu(), values)
