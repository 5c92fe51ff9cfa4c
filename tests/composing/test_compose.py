"""Data sets made of others: read through both loaders, beside lists that are written out."""

from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest

from ddpm_core.composing.agree import Given
from ddpm_core.composing.compose import compose, plan
from ddpm_core.config import TrainConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.loading import loader
from ddpm_core.loading.batches import Batches
from ddpm_core.permutation import images_at
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from tests.composing.sets import DATA, composed, labels_of, made, values_of

FACES, FLOWERS = list(range(10, 20)), list(range(100, 106))


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "a root"))


@pytest.fixture
def faces(store):
    return made(store, train=FACES, test=[1, 2, 3])


@pytest.fixture
def flowers(store):
    return made(store, train=FLOWERS, test=[4, 5, 6], classes=("dog", "rose"))


@pytest.fixture(params=["in memory", "from shards"])
def read(request, store, monkeypatch):
    """Read a split in one of the two ways."""
    if request.param == "from shards":
        monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 0)
    return lambda index, split: closing(loader.load_split(store, index, split))


def test_a_union_is_all_images_with_classes_by_name_and_nothing_is_copied(
    store, faces, flowers, read
):
    """Catches: labels as numbers, by which `dog` of the second set would be `cat` of the first;
    and shards that are written again."""
    index = composed(store, faces, flowers)
    assert index.label.names == ("cat", "dog", "rose")
    with read(index, "train") as train:
        assert values_of(train) == FACES + FLOWERS
        assert labels_of(train) == [0, 1] * 5 + [1, 2] * 3
    with read(index, "test") as test:
        assert values_of(test) == [1, 2, 3, 4, 5, 6]
    assert not [name for name in store.names(index.manifest.folder) if name.endswith(".tar")]
    assert problems_of(store, index) == []
    assert index.label.counts == {"train": (5, 8, 3), "test": (2, 3, 1)}


def test_what_a_union_is_made_of_stays_what_it_was(store, faces, flowers):
    composed(store, faces, flowers, duplicates="drop")
    for one in (faces, flowers):
        assert load_index(store, one.manifest.folder, one.fingerprint).manifest == one.manifest
        assert problems_of(store, one) == []


def test_a_mixture_draws_by_its_weights_and_each_set_in_epochs_of_its_own(
    store, faces, flowers, read
):
    """7 : 3, where the images are 10 : 6: catches an order by numbers of images, and a set that is
    drawn with repetitions before it is through."""
    index = composed(store, faces, flowers, weights=("0.7", "0.3"))
    with read(index, "train") as train:
        order = train.order(5)
        train.expect(0)
        drawn = values_of(train, images_at(order, np.arange(100)))
    of_faces = [value for value in drawn if value in FACES]
    of_flowers = [value for value in drawn if value in FLOWERS]
    assert (len(of_faces), len(of_flowers)) == (70, 30)
    assert all(sorted(of_faces[at : at + 10]) == FACES for at in range(0, 70, 10))
    assert all(sorted(of_flowers[at : at + 6]) == FLOWERS for at in range(0, 30, 6))
    assert of_faces[:10] != of_faces[10:20]


def test_batches_of_a_mixture_are_the_same_on_ranks_and_after_a_resume(store, faces, flowers, read):
    """Step 10**6 is made without those before it; two ranks together read the batch of one."""
    index = composed(store, faces, flowers, weights=("0.7", "0.3"))
    train = TrainConfig(num_steps=2 * 10**6, global_batch_size=20)

    def batches(images, start, rank, world_size):
        with Batches(
            images, train, start=start, rank=rank, world_size=world_size, pinned=False
        ) as made:
            return [made.take().numbers.tolist() for _ in range(3)]

    with read(index, "train") as images:
        whole = batches(images, 10**6 - 1, 0, 1)
        resumed = batches(images, 10**6, 0, 1)
        slices = [batches(images, 10**6 - 1, rank, 2) for rank in range(2)]
    assert resumed[:2] == whole[1:]
    assert [a + b for a, b in zip(*slices, strict=True)] == whole


def test_a_part_by_class_has_its_classes_numbered_anew(store, faces, read):
    index = composed(store, faces, only_classes=("dog",))
    assert index.label.names == ("dog",)
    with read(index, "train") as train:
        assert values_of(train) == FACES[1::2]
        assert labels_of(train) == [0] * 5
    assert problems_of(store, index) == []


def test_a_set_and_a_part_of_it_are_whole_together(store, faces):
    """Catches: a shard that is there twice, as is meant, and is called damage."""
    both = composed(store, faces, composed(store, faces, only_classes=("dog",)))
    assert both.num_images == {"train": 15, "test": 4}
    assert problems_of(store, both) == []


def test_a_part_by_keys(store, faces, read):
    """Of the first shard one image, of the second none, of the third one: catches positions taken
    for those of the data set, and a shard of which nothing is left."""
    keys = b"train-00000002\ntrain-00000008\ntest-00000001\n"
    index = composed(store, faces, keys=keys, only_keys_sha256="0" * 64)
    with read(index, "train") as train:
        assert values_of(train) == [12, 18]
        assert labels_of(train) == [0, 0]
    assert len(index.counts("train")) == 2
    assert problems_of(store, index) == []


def test_equal_images_are_dropped_across_sets_and_splits_and_counted(store, read):
    """The second set repeats two images of the first and one that is held out."""
    first = made(store, train=[10, 11, 10], test=[1, 2])
    second = made(store, train=[11, 12, 1], test=[2, 3])
    index = composed(store, first, second, duplicates="drop")
    with read(index, "train") as train, read(index, "test") as test:
        assert values_of(train) == [10, 11, 12]
        assert values_of(test) == [1, 2, 3]
    assert index.manifest.body["left_out"] == {
        "train": {"by_class": 0, "unlisted": 0, "duplicates": 3},
        "test": {"by_class": 0, "unlisted": 0, "duplicates": 1},
    }
    assert problems_of(store, index) == []


def test_a_fingerprint_counts_the_sets_the_weights_and_what_is_chosen(store, faces, flowers):
    """Catches: a key that was forgotten, so that two sets share one folder; and weights counted as
    they are written, by which 0.7 : 0.3 and 7 : 3 were two."""
    all_of = [
        composed(store, faces, flowers),
        composed(store, flowers, faces),
        composed(store, faces, flowers, weights=("0.7", "0.3")),
        composed(store, faces, flowers, weights=("0.3", "0.7")),
        composed(store, faces, flowers, duplicates="drop"),
        composed(store, faces, only_classes=("dog",)),
        composed(store, faces, only_classes=("cat",)),
        composed(store, faces, keys=b"train-00000002\ntest-00000000\n", only_keys_sha256="1" * 64),
    ]
    assert len({one.fingerprint for one in all_of}) == len(all_of)
    again = composed(store, faces, flowers, weights=("7", "3"))
    assert again.fingerprint == all_of[2].fingerprint


def test_a_set_of_a_union_can_be_mixed_again_and_a_mixture_cannot(store, faces, flowers, read):
    """Shards of shards: each stays in the folder of the data set that made it."""
    both = composed(store, faces, flowers)
    third = made(store, train=[200, 201], test=[7])
    index = composed(store, both, third, weights=("1", "1"))
    with read(index, "train") as train:
        assert values_of(train) == [*FACES, *FLOWERS, 200, 201]
    places = {index.located_at("train", at).place for at in range(len(index.counts("train")))}
    assert places == {one.manifest.folder for one in (faces, flowers, third)}
    with pytest.raises(DataError, match="set 0 is a mixture with weights of its own"):
        composed(store, index, third, weights=("1", "1"))
    with pytest.raises(DataError, match="nor used in part"):  # it would be a union
        composed(store, index, only_classes=("dog",))


def test_what_does_not_go_together_is_refused_in_a_sentence(store, faces):
    wide = made(store, train=[10, 11], test=[1], data=DATA.model_copy(update={"width": 12}))
    with pytest.raises(DataError, match=r"1 x 8 x 8 uint8 .* and set 1 of 1 x 8 x 12 uint8"):
        composed(store, faces, wide)
    twice = made(store, train=[10, 11, 12], test=[1], classes=("a", "b", "a"))
    with pytest.raises(DataError, match="set 1 has two classes called 'a'"):
        composed(store, faces, twice)
    with pytest.raises(ConfigError, match="no class of the images"):
        composed(store, faces, only_classes=("rose",))
    with pytest.raises(DataError, match="no image is left in the test split"):
        composed(store, faces, keys=b"train-00000000\n", only_keys_sha256="0" * 64)
    with pytest.raises(ConfigError, match="some data sets have a weight and others none"):
        plan(DATA, [Given("a", faces, Fraction(1)), Given("b", faces)])


def test_killed_on_the_way_it_leaves_no_index_and_is_made_by_the_next(store, faces, monkeypatch):
    """The tables are written and the index is not: what is there does not count."""
    own = plan(DATA.model_copy(update={"only_classes": ("dog",)}), [Given("faces", faces)])

    def killed(*_args, **_words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ddpm_core.shards.index.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            compose(store, own)
    with pytest.raises(DataError, match="there is no data set"):
        load_index(store, own.pointer.folder)
    compose(store, own)
    assert problems_of(store, load_index(store, own.pointer.folder)) == []
