"""A split on a root in S3 that is decoded while it is used."""

from collections import Counter
from contextlib import closing

import numpy as np
import pytest
import torch

from ddpm_core.loading import fill, filling
from ddpm_core.loading.filling import FillingImages
from ddpm_core.loading.loader import load_split
from ddpm_core.store.storage import S3Store
from tests.loading.streams import batches_of, foreign_index

pytest_plugins = ["tests.s3_fixtures"]
SHARDS = 24


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.s3)])
def store(request):
    name = "s3_store" if request.param == "fake" else "real_s3_store"
    return request.getfixturevalue(name)


def test_a_training_begins_before_the_split_is_fetched_with_the_same_batches(
    store, monkeypatch, cache_folder
):
    """Catches a first step that waits for all shards, one that is fetched twice, and batches other
    than those of the split in memory."""
    index, _ = foreign_index(store, [3] * SHARDS, kind="JPEG")
    fetched, read = Counter(), S3Store.read
    monkeypatch.setattr(
        S3Store, "read", lambda store, key, **how: fetched.update([key]) or read(store, key, **how)
    )
    monkeypatch.setattr(filling, "_SOON_S", 0)
    # It has begun before the first batch is wanted: what it has under way is one shard a thread.
    monkeypatch.setattr(fill, "_MAX_THREADS", 1)
    steps = {"num_steps": 12, "batch_size": 4, "seed": 5}
    with closing(load_split(store, index, "train", beside=True)) as images:
        assert isinstance(images, FillingImages)
        order = images.order(5)
        images._begun.set()
        first = images.take(order.images(0, np.arange(4)))
        assert len(fetched) < SHARDS
        images._held.result(60)
        with batches_of(images, start=0, **steps) as batches:
            got = [batches.take() for _ in range(12)]
    assert set(fetched.values()) == {1}
    assert len(fetched) == SHARDS
    assert torch.equal(got[0].images, first)
    for path in cache_folder.glob("decoded-*"):
        path.unlink()
    with (
        closing(load_split(store, index, "train")) as held,
        batches_of(held, start=0, **steps) as batches,
    ):
        for one in got:
            other = batches.take()
            assert np.array_equal(one.numbers, other.numbers)
            assert torch.equal(one.images, other.images)
