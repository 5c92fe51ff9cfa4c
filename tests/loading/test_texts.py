"""Texts of batches: captions of the images themselves, one of each drawn by key."""

import dataclasses
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.errors import DataError
from ddpm_core.loading import decoded, filling, loader
from ddpm_core.loading.batches import Batches, conditioning_of
from ddpm_core.loading.filling import FillingImages
from ddpm_core.loading.held import ImageSet
from ddpm_core.loading.loader import load_split
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.loading.texts import Draw, Texts, first_captions, texts_of
from ddpm_core.recipes.small import digits
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from ddpm_core.text import tokens
from tests.sharding.small import data_config, shard_dataset, with_captions

TEXT = frozenset({"text"})
TRAIN = digits().train.model_copy(update={"global_batch_size": 4, "num_steps": 6})
LENGTH = 24
NUM_TRAIN = 10
LETTER = "\u00e9"  # of two bytes
CAPTIONS = [
    tuple(f"{number}: {LETTER * (number % 3)}{of}" for of in range(number % 4))
    for number in range(NUM_TRAIN)
]
"""of each training image: none of every fourth, up to three of others"""


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def index(store):
    config = data_config(name="coloured_digits", captions="beside")
    images = with_captions(lambda number: CAPTIONS[number], num_train=NUM_TRAIN, shape=(8, 8, 3))
    return load_index(store, shard_dataset(store, config, images).folder)


WAYS = {"held": ImageSet, "streamed": StreamedImages, "filling": FillingImages}


@pytest.fixture(params=WAYS)
def images(request, store, index, monkeypatch):
    """The training split, read in each of the ways that there are."""
    if request.param == "streamed":
        monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 0)
    monkeypatch.setattr(filling, "_SOON_S", 0)
    monkeypatch.setattr(filling, "_SHARDS_AT_ONCE", 1)
    with closing(load_split(store, index, "train", beside=request.param == "filling")) as loaded:
        assert isinstance(loaded, WAYS[request.param])
        yield loaded


def taken(images, texts, *, start=0, rank=0, world_size=1):
    places = {"start": start, "rank": rank, "world_size": world_size, "pinned": False}
    with Batches(images, TRAIN, accepts=TEXT, texts=texts, **places) as batches:
        return [batches.take() for _ in range(start, TRAIN.num_steps)]


def test_each_image_has_its_own_captions_however_it_is_read(images):
    """Catches: captions of the sorted numbers, of the shard before, one where there is none."""
    numbers = np.array([7, 0, 3, 9, 3, 4, 6])
    assert "caption" in images.members
    assert images.captions(numbers) == [CAPTIONS[number] for number in numbers]
    assert images.captions(numbers[:0]) == []


def test_measuring_reads_the_first_caption_and_the_empty_one_of_none(images):
    given = conditioning_of(images, np.arange(NUM_TRAIN), TEXT, texts=Texts(LENGTH))
    firsts = [one[0] if one else "" for one in CAPTIONS]
    assert tokens.decode(given.text) == firsts
    assert torch.equal(given.text.tokens, tokens.encode(firsts, LENGTH).tokens)


def test_ranks_and_a_later_start_read_the_same_captions(images):
    """Catches a draw by the order of calls, by the rank, or by the image's place in its slice."""
    texts = Texts(LENGTH)
    whole = taken(images, texts)
    parts = [taken(images, texts, start=2, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(2, TRAIN.num_steps):
        both = [part[step - 2].conditioning.text.tokens for part in parts]
        assert torch.equal(torch.cat(both), whole[step].conditioning.text.tokens)
    for batch in whole:
        for number, text in zip(
            batch.numbers.tolist(), tokens.decode(batch.conditioning.text), strict=True
        ):
            assert text in (CAPTIONS[number] or ("",))


def test_each_of_several_captions_is_drawn_as_often():
    """Catches: the first alone, a bound that leaves out the last, one draw for all of a step."""
    counts, positions = np.full(6000, 3, np.int64), np.arange(6000)
    drawn = Draw(3, 5, positions).of(counts)
    # Six standard deviations of a binomial of 6000 draws at 1/3.
    assert np.abs(np.bincount(drawn, minlength=4) - [2000, 2000, 2000, 0]).max() < 220
    for other in (Draw(4, 5, positions), Draw(3, 6, positions), Draw(3, 5, positions + 1)):
        assert (other.of(counts) == drawn).mean() < 0.4
    # Of another number of captions beside it, an image keeps its own draw.
    assert np.array_equal(Draw(3, 5, positions[::2]).of(counts[::2]), drawn[::2])


def test_the_draw_of_a_caption_is_what_it_was():
    """Golden: a run that goes on under another version reads the captions that it would have."""
    drawn = Draw(0, 7, np.arange(12)).of(np.array([1, 2, 3, 4] * 3))
    assert drawn.tolist() == [0, 1, 1, 0, 0, 1, 1, 3, 0, 1, 1, 1]


def test_captions_of_classes_are_made_by_templates_while_they_are_read(images):
    """Catches: a class's number in the place of its name, the templates of a neighbour."""
    texts = Texts(LENGTH, ("a {name}", "{name}!"), tuple(f"no_{one}" for one in range(10)))
    labels = images.member("label", np.arange(NUM_TRAIN)).tolist()
    given = conditioning_of(images, np.arange(NUM_TRAIN), TEXT, texts=texts)
    assert tokens.decode(given.text) == [f"a no {label}" for label in labels]
    drawn = {
        (number, text)
        for batch in taken(images, texts)
        for number, text in zip(
            batch.numbers.tolist(), tokens.decode(batch.conditioning.text), strict=True
        )
    }
    assert {text for _, text in drawn} <= {f"a no {one}" for one in labels} | {
        f"no {one}!" for one in labels
    }
    assert all(text in (f"a no {labels[at]}", f"no {labels[at]}!") for at, text in drawn)
    assert {text[-1] == "!" for _, text in drawn} == {True, False}


def test_a_file_of_captions_that_is_damaged_is_made_again(store, index, cache_folder):
    """Catches captions that are taken as they lie in a cache that anything may have written to."""
    with closing(load_split(store, index, "train")) as loaded:
        wanted = loaded.captions(np.arange(NUM_TRAIN))
    (path,) = (one for one in Path(cache_folder).rglob("decoded-*") if one.suffix == ".bin")
    content = path.read_bytes()
    at = content.rindex(b"9: ")
    path.chmod(0o600)
    path.write_bytes(content[:at] + b"8" + content[at + 1 :])
    with closing(load_split(store, index, "train")) as loaded:
        assert loaded.captions(np.arange(NUM_TRAIN)) == wanted == CAPTIONS


def test_first_captions_are_read_without_a_pixel(store, index, monkeypatch):
    """Catches: all of a data set decoded for its words; captions of the other split."""
    monkeypatch.setattr(StreamedImages, "take", None)
    config = digits().replaced({"name": "a", "data": {"name": "coloured_digits"}})
    with pytest.raises(DataError, match="has no data set yet"):
        first_captions(store, config, "train", 9)
    store.create("runs/a/dataset.json", index.pointer.to_json())
    firsts = [one[0] if one else "" for one in CAPTIONS]
    assert first_captions(store, config, "train", 7) == firsts[:7]
    assert first_captions(store, config, "train", 99) == firsts
    of_classes = config.replaced({"data.captions": "classes"})
    assert first_captions(store, of_classes, "train", 1)[0].startswith("a picture of ")


def test_versions_that_know_no_captions_have_a_file_of_their_own(store, index):
    """Catches two versions on one machine that make each other's file again, by turns."""
    before = dataclasses.replace(index, texts={})
    names = {decoded._Layout.of(store, one, "train").name for one in (index, before)}
    assert len(names) == 2
    with closing(load_split(store, before, "train")) as loaded:
        assert loaded.captions(np.arange(2)) == [(), ()]


def test_what_reads_no_captions_is_given_none(store, index):
    config = digits()
    assert texts_of(config, index) is None
    with closing(load_split(store, index, "train")) as loaded:
        assert conditioning_of(loaded, np.arange(2), frozenset()) == Conditioning()
        with pytest.raises(DataError, match="the data set has no nothing"):
            conditioning_of(loaded, np.arange(2), frozenset({"nothing"}))
