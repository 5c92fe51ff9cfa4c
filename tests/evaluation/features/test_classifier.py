"""The classifier's batches: any images of a small data set, of a large one those of a window."""

from contextlib import closing

import numpy as np
import pytest
import torch
from torch.nn import functional

from ddpm_core import seeding
from ddpm_core.evaluation.features import classifier
from ddpm_core.evaluation.features.classifier import batch_numbers
from ddpm_core.loading import loader
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.loader import ImageSet, load_split
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.shards.index import load_index
from tests.sharding.small import data_config, shard_dataset, splits

CPU = torch.device("cpu")


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of two shards."""
    monkeypatch.setattr("ddpm_core.loading.blocks.MIN_WINDOW_SHARDS", 2)
    monkeypatch.setattr("ddpm_core.loading.blocks.MAX_WINDOW_SHARDS", 2)


@pytest.mark.parametrize("counts", [(1500,), (500, 500, 500), (3, 1), (1,)])
def test_of_one_window_any_image_may_come(counts):
    """Catches: other networks, and other distances, for the data sets that there were before there
    were windows; images by their place in an order instead of their number."""
    order, key = BlockOrder(0, counts), seeding.key(0, "features", 1)
    for step in (0, 1, 99):
        expected = seeding.uniform_int(key, step, torch.arange(64), sum(counts))
        assert batch_numbers(order, step).tolist() == expected.tolist()


@pytest.mark.usefixtures("small_windows")
def test_a_batch_is_of_the_window_in_which_the_training_would_be():
    """Catches: batches out of all shards; the first window for ever; the windows of one epoch again
    in the next; the small windows of epoch 0; images of the window that never come."""
    counts = [100, 90, 110, 100, 80, 120]
    order, owner = BlockOrder(0, counts), np.repeat(np.arange(6), counts)
    windows = set()
    for step in range(3 * 600 // 64):
        epoch, within = divmod(600 + step * 64, 600)
        window = order.window_of(epoch, within)
        numbers = batch_numbers(order, step)
        assert len(numbers) == 64
        assert set(owner[numbers].tolist()) == set(order.shards_of(epoch, window).tolist())
        windows.add((epoch, window))
    assert len(windows) == 3 * 3


def test_members_are_the_images_of_the_window():
    """Catches: a shard of the window left out, members in the order of the epoch."""
    order = BlockOrder(3, [4, 2, 5, 1], window_shards=2)
    for epoch in range(3):
        members = [order.members(epoch, window) for window in range(order.num_windows(epoch))]
        assert sorted(np.concatenate(members).tolist()) == list(range(12))
        at = 0
        for own in members:
            assert own.tolist() == sorted(own.tolist())
            positions = np.arange(at, at + len(own))
            assert sorted(order.images(epoch, positions).tolist()) == own.tolist()
            at += len(own)


@pytest.mark.usefixtures("small_windows")
def test_the_network_of_a_streamed_set_is_that_of_a_kept_one(store, monkeypatch):
    """Catches: batches by how the images are stored; classes that are counted where they occur;
    every batch out of every shard, which no window of open shards holds."""
    config = data_config(num_test_images=6, images_per_shard=10)
    images = splits(num_train=120)
    images.train.labels[images.train.labels == 9] = 0
    index = load_index(store, shard_dataset(store, config, images).folder)
    kept = load_split(store, index, "train")
    expected = classifier.train_classifier(kept, num_steps=5, device=CPU)
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 0)
    monkeypatch.setattr("ddpm_core.loading.stream.MAX_RANGE_BYTES", 6 * 64)
    with closing(load_split(store, index, "train")) as streamed:
        assert isinstance(streamed, StreamedImages)
        used, expected_at = [], []
        take, expect = streamed.take, streamed.expect
        monkeypatch.setattr(streamed, "take", lambda numbers: used.append(numbers) or take(numbers))
        monkeypatch.setattr(streamed, "expect", lambda at: expected_at.append(at) or expect(at))
        found = classifier.train_classifier(streamed, num_steps=5, device=CPU)
    assert classifier.to_bytes(found) == classifier.to_bytes(expected)
    assert [len(set((numbers // 10).tolist())) for numbers in used[1:]] == [2] * 5
    assert expected_at == [120, 184, 248, 312, 376]  # from epoch 1 on
    with closing(load_split(store, index, "test")) as held_out:
        share = classifier.accuracy(found, held_out, CPU)
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 2**20)
    assert share == classifier.accuracy(expected, load_split(store, index, "test"), CPU)


# -- the size of the images ------------------------------------------------------------------------


def embedded_in_quarters(network, images_u8):
    """Return the features as they were before images of every size had any; None where they had
    none."""
    x = images_u8.float() / 127.5 - 1
    for conv in network.convs:
        x = functional.relu(conv(x))
    height, width = x.shape[-2:]
    if height < 2 or width < 2:
        return None
    x = functional.avg_pool2d(x, (height // 2, width // 2)).flatten(1)
    return network.features(x) if x.shape[1] == 64 * 2 * 2 else None


SIDES = [(side, side) for side in range(1, 41)]
OBLONG = [(1, 40), (40, 1), (2, 9), (9, 2), (3, 12), (11, 4), (5, 17), (10, 32), (12, 1), (28, 36)]


@pytest.mark.parametrize(("height", "width"), SIDES + OBLONG)
def test_images_of_every_size_have_features(height, width):
    """Catches: an evaluation that ends in a traceback after the training (sides 1 to 4 and 9 to
    12), and other numbers for the sizes that had some."""
    network = classifier.Classifier(1, 3).eval()
    generator = torch.Generator().manual_seed(height + 100 * width)
    images_u8 = torch.randint(0, 256, (2, 1, height, width), generator=generator).to(torch.uint8)
    with torch.inference_mode():
        found, before = network.embed(images_u8), embedded_in_quarters(network, images_u8)
    assert found.shape == (2, classifier.FEATURE_DIM)
    assert bool(found.isfinite().all())
    assert not torch.equal(found[0], found[1])
    has_quarters = all(side not in (*range(1, 5), *range(9, 13)) for side in (height, width))
    assert (before is not None) == has_quarters
    if before is not None:
        assert torch.equal(found, before)


@pytest.mark.parametrize("side", [1, 3])
def test_maps_of_a_few_pixels_are_halved(side):
    """Catches: a row that counts twice or not at all; a side of 1 whose halves are not both it."""
    x = torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side)
    found = classifier._quarters(x)[0, 0].tolist()
    assert found == ([[0, 0], [0, 0]] if side == 1 else [[2, 3], [5, 6]])


@pytest.mark.parametrize("size", [(1, 1), (3, 10), (9, 12)])
def test_a_network_for_images_of_few_pixels_is_trained(size):
    """Catches: a gradient through the widened maps that does not exist."""
    generator = torch.Generator().manual_seed(0)
    images_u8 = torch.randint(0, 256, (64, 1, *size), generator=generator).to(torch.uint8)
    labels = (images_u8.float().mean(dim=(1, 2, 3)) > 127).long()
    train = ImageSet(images_u8, {"label": labels}, num_classes=2, counts=(64,))
    network = classifier.train_classifier(train, num_steps=60, device=CPU)
    assert classifier.accuracy(network, train, CPU) > 0.9
