"""Batches: images with what they are made under, the same wherever and whenever they are made."""

from contextlib import closing

import numpy as np
import pytest
import torch

from ddpm_core.conditioning import NOTHING
from ddpm_core.errors import DataError
from ddpm_core.loading import loader
from ddpm_core.loading.batches import Batches, conditioning_of
from ddpm_core.loading.loader import load_split
from ddpm_core.recipes.small import digits
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from tests.sharding.small import data_config, shard_dataset, splits

LABEL = frozenset({"label"})
TRAIN = digits().train.model_copy(update={"global_batch_size": 4, "num_steps": 6})


@pytest.fixture(params=["held", "streamed"])
def images(request, tmp_path, monkeypatch):
    """A split in memory, and the same one read from its shards."""
    if request.param == "streamed":
        monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 0)
    store = open_store(str(tmp_path / "root"))
    folder = shard_dataset(store, data_config(), splits()).folder
    with closing(load_split(store, load_index(store, folder), "train")) as loaded:
        yield loaded


def taken(images, *, accepts, start=0, rank=0, world_size=1):
    with Batches(
        images,
        TRAIN,
        start=start,
        rank=rank,
        world_size=world_size,
        pinned=False,
        accepts=accepts,
    ) as batches:
        return [batches.take() for _ in range(start, TRAIN.num_steps)]


def test_each_image_has_its_own_label(images):
    """Catches labels of another slice, of the sorted numbers, or of the images' positions."""
    for batch in taken(images, accepts=LABEL):
        assert batch.conditioning.label.dtype == torch.int64
        assert torch.equal(batch.conditioning.label, images.member("label", batch.numbers))
        assert torch.equal(batch.images, images.take(batch.numbers))
    assert len(set(images.member("label", np.arange(len(images))).tolist())) > 1


def test_what_a_network_does_not_take_is_not_read(images, monkeypatch):
    """Catches an unconditional training that reads a class for each image."""
    monkeypatch.setattr(type(images), "member", lambda *_: pytest.fail("read"))
    for batch in taken(images, accepts=frozenset()):
        assert batch.conditioning is NOTHING


def test_labels_change_neither_the_order_nor_the_images(images):
    """Catches conditioning that draws from the same numbers as the order."""
    for with_labels, without in zip(
        taken(images, accepts=LABEL), taken(images, accepts=frozenset()), strict=True
    ):
        assert np.array_equal(with_labels.numbers, without.numbers)
        assert torch.equal(with_labels.images, without.images)


def test_ranks_and_a_later_start_see_the_same_labels(images):
    whole = taken(images, accepts=LABEL)
    parts = [taken(images, accepts=LABEL, start=2, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(2, TRAIN.num_steps):
        labels = [part[step - 2].conditioning.label for part in parts]
        assert torch.equal(torch.cat(labels), whole[step].conditioning.label)


def test_a_part_that_shards_lack_is_refused_before_the_first_batch(images):
    """Catches a refusal in a thread, after the training has begun."""
    with pytest.raises(
        DataError,
        match="takes text, and the data set has no caption; with its images come: label",
    ):
        Batches(
            images,
            TRAIN,
            start=0,
            rank=0,
            world_size=1,
            pinned=False,
            accepts=frozenset({"text"}),
        )


def test_a_label_that_is_the_null_is_no_class(images):
    """Catches images of an eleventh class that are measured with the row of no class."""
    numbers = np.arange(len(images))
    largest = int(images.member("label", numbers).max())
    given = conditioning_of(images, numbers, LABEL, num_classes=largest + 1)
    assert given.label.max() == largest
    with pytest.raises(DataError, match=f"has the label {largest}, and the network takes 0 to"):
        conditioning_of(images, numbers, LABEL, num_classes=largest)
