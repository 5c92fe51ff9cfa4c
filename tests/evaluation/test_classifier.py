"""The classifier's batches: any images of a small data set, of a large one those of a window."""

from contextlib import closing

import numpy as np
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.data import loader
from ddpm_core.data.blocks import BlockOrder
from ddpm_core.data.index import load_index
from ddpm_core.data.loader import load_split
from ddpm_core.data.stream import StreamedImages
from ddpm_core.evaluation import classifier
from ddpm_core.evaluation.classifier import batch_numbers
from tests.data.small import data_config, shard_dataset, splits

CPU = torch.device("cpu")


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of two shards."""
    monkeypatch.setattr("ddpm_core.data.blocks.MIN_WINDOW_SHARDS", 2)
    monkeypatch.setattr("ddpm_core.data.blocks.MAX_WINDOW_SHARDS", 2)


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
    monkeypatch.setattr("ddpm_core.data.stream.MAX_RANGE_BYTES", 6 * 64)
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
