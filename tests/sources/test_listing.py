import json
import pickle  # noqa: TID251 - how Ray sends things to workers
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from ddpm_core.errors import DataError
from ddpm_core.sources.containers.container import Container, Entry, PassedOver
from ddpm_core.sources.listing import list_images


class Names(Container):
    """A container of names only: a file has as many bytes as its name."""

    def __init__(self, names, *, labels=None, seed=0):
        self.uri = "some-place"
        self._names = list(names)
        self._labels = labels or {}
        random.Random(seed).shuffle(self._names)  # noqa: S311

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        for name in self._names:
            yield Entry(name, len(name), (hash(name) % 1000, 7), self._labels.get(name))

    def read(self, entry: Entry) -> bytes:
        raise AssertionError("nothing is read while listing")

    def place(self) -> dict[str, Any]:
        raise AssertionError


def keys(items):
    return [item.key for item in items]


def listed(names, *, num_test_images=1, **words):
    return list_images(Names(names), num_test_images=num_test_images, **words)


def of(listing):
    """{key: (split, class)}"""
    return {
        item.key: (split, listing.classes[item.label])
        for split, items in (("train", listing.train), ("test", listing.test))
        for item in items
    }


TREES = {
    "split folders": (
        ["train/cat/1.png", "train/dog/x/2.png", "test/dog/1.png"],
        {
            "train/cat/1.png": "train cat",
            "train/dog/x/2.png": "train dog",
            "test/dog/1.png": "test dog",
        },
    ),
    "in a folder, in a folder": (
        ["a/b/train/cat/1.png", "a/b/val/cat/1.png"],
        {"train/cat/1.png": "train cat", "val/cat/1.png": "test cat"},
    ),
    "no classes": (
        ["train/1.png", "valid/1.png"],
        {"train/1.png": "train all", "valid/1.png": "test all"},
    ),
    "any case": (
        ["Train/x/1.png", "VALIDATION/x/2.png"],
        {"Train/x/1.png": "train x", "VALIDATION/x/2.png": "test x"},
    ),
    "test before val": (
        ["train/1.png", "val/2.png", "test/3.png"],
        {"train/1.png": "train all", "test/3.png": "test all"},
    ),
    "outside of the splits": (
        ["train/1.png", "test/2.png", "extra/3.png", "4.png"],
        {"train/1.png": "train all", "test/2.png": "test all"},
    ),
    "a class called train": (
        ["train/1.png", "ship/2.png"],
        {"train/1.png": "? train", "ship/2.png": "? ship"},
    ),
    "classes only": (["cat/1.png", "dog/1.png"], {"cat/1.png": "? cat", "dog/1.png": "? dog"}),
    "one class": (["cat/1.png", "cat/2.png"], {"1.png": "? all", "2.png": "? all"}),
    "nothing but files": (["1.png", "2.png"], {"1.png": "? all", "2.png": "? all"}),
    "folders of a hash": (["x/a/1.png", "x/a/2.png"], {"1.png": "? all", "2.png": "? all"}),
    "no common folder by letters": (
        ["ab/1.png", "a/1.png"],
        {"ab/1.png": "? ab", "a/1.png": "? a"},
    ),
}


@pytest.mark.parametrize(("names", "expected"), TREES.values(), ids=TREES)
def test_folders_give_splits_and_classes(names, expected):
    """Catches a level too high or too low, and a common folder found by letters."""
    got = of(listed(names))
    for key, split_and_class in expected.items():
        split, name = split_and_class.split(" ")
        assert got[key][1] == name
        assert split in ("?", got[key][0])
    assert got.keys() == expected.keys()


def test_order_is_that_of_bytes_and_keys_stay_exact():
    """Catches an order by locale or by code unit, and near-duplicates made equal."""
    names = [
        "a.jpg", "A.jpg", "a.b.jpg", "a .jpg", "a..jpg", "caf\u00e9.png", "cafe\u0301.png",
        "😀.png", "\uff5e.png", "\udcff.png", "\udcfe.png", "new\nline.png", "-rf.png", " .png",
    ]  # fmt: skip
    listing = list_images(Names([f"all/{name}" for name in names]), num_test_images=3)
    got = [*listing.train, *listing.test]
    assert sorted(item.key for item in got) == sorted(names)
    for items in (listing.train, listing.test):
        assert keys(items) == sorted(
            keys(items), key=lambda k: k.encode("utf-8", "surrogateescape")
        )
    for item in got:
        assert item.entry.name == f"all/{item.key}"
        assert item.entry.size == len(item.entry.name)
        assert item.entry.where == (hash(item.entry.name) % 1000, 7)
        assert json.loads(json.dumps(item)) == [
            item.key,
            [*item.entry[:2], [*item.entry[2]], None],
            0,
            None,
        ]


def test_listing_does_not_depend_on_the_order_of_the_disk():
    """Catches anything that follows from the order in which a folder is read."""
    names = [f"{letter}/{number}.png" for letter in "abc" for number in range(50)]
    first, *others = (list_images(Names(names, seed=seed), num_test_images=20) for seed in range(3))
    for other in others:
        assert list(first.train) == list(other.train)
        assert list(first.test) == list(other.test)


def test_held_out_images_are_those_that_always_were():
    """Catches another hash, another order of its digests, and a key with the common folder."""
    names = [f"{number}.png" for number in range(40)]
    expected = ["1.png", "22.png", "26.png", "6.png"]
    assert keys(listed(names, num_test_images=4).test) == expected
    assert keys(listed([f"zip/{name}" for name in names], num_test_images=4).test) == expected
    assert len(listed(names, num_test_images=39).train) == 1
    assert len(listed(names, num_test_images=0).test) == 0


def test_held_out_images_stay_when_images_are_added():
    """Catches a split by position: a new image moves at most one other, out of the test split."""
    names = [f"{number}.png" for number in range(200)]
    before = set(keys(listed(names, num_test_images=30).test))
    after = set(keys(listed([*names, "new.png", "new2.png"], num_test_images=30).test))
    assert len(before - after) <= 2
    assert after - before <= {"new.png", "new2.png"}


def test_a_test_folder_is_cut_to_num_test_images():
    """Catches the first by name, often all of one class, and a training set that grows."""
    names = [f"{split}/{number:03d}.png" for split in ("train", "test") for number in range(100)]
    whole, part = listed(names, num_test_images=None), listed(names, num_test_images=10)
    assert len(whole.test) == 100
    assert list(part.train) == list(whole.train)
    assert set(keys(part.test)) < set(keys(whole.test))
    assert keys(part.test) != keys(whole.test)[:10]
    assert keys(part.test) == sorted(keys(part.test))


def test_labels_of_the_container_go_before_folders():
    """Catches shards whose folders are taken for classes."""
    names = [f"shard-{number}/a.png" for number in range(3)]
    labels = {names[0]: 0, names[1]: 3, names[2]: 3}
    listing = list_images(Names(names, labels=labels), num_test_images=1)
    assert listing.classes == ("0", "1", "2", "3")
    assert {i.entry.name: i.label for i in [*listing.train, *listing.test]} == labels
    del labels[names[1]]
    with pytest.raises(DataError, match=r'none to "shard-1/a\.png"'):
        list_images(Names(names, labels=labels), num_test_images=1)


def test_class_folders_can_be_ignored():
    """Catches sixteen classes of images that lie in folders by their digests, as LSUN's do."""
    listing = listed(["0/a/1.png", "f/2.png", "3.png"], class_folders=False)
    assert listing.classes == ("all",)


WRONG = {
    "nothing": ([], {}, "holds no image; data.source must be"),
    "only text": (["readme.txt"], {}, r'holds no image(.|\n)*1 passed over: text.*"readme\.txt"'),
    "only hidden": ([".git/a.png"], {}, r"holds no image(.|\n)*hidden"),
    "too few": (["1.png", "2.png"], {"num_test_images": 2}, "one must be left .* has 2 images"),
    "too few for the test": (
        ["train/1.png", "test/2.png"],
        {"num_test_images": 2},
        r"num_test_images=2, but its test split has 1 images .*give at most 1",
    ),
    "only a test split": (["x/val/1.png", "x/val/2.png"], {}, "holds the folder val/ and no other"),
    "twice": (["1.png", "1.png", "2.png"], {}, r'holds "1\.png" twice'),
    "loose images": (
        ["cat/1.png", "dog/2.png", "3.png", "4.png"],
        {},
        r'folders, such as "cat", .* and 2 images beside them, the first "3\.png"',
    ),
    "another kind": (
        ["1.png", "2.bmp", "3.tiff", "x.foo"],
        {},
        r'can be read:\n.*1 passed over: no name.*"x\.foo"\n.*2 passed over: no name.*convert it '
        r'to PNG.*"2\.bmp", "3\.tiff"\n.*data\.on_bad',
    ),
    "arrays": (["1.npy", "2.npz"], {}, r"arrays or tables.*write each image as a PNG file"),
    "a database": (["a/data.mdb", "a/lock.mdb"], {}, r"an LMDB: give the folder in which it lies"),
    "archives": (["train.tar.gz", "val.zip"], {}, r"an archive: unpack it, or give it as data"),
    "a test split of no class": (
        ["train/cat/1.png", "train/dog/1.png", "test/images/1.png", "test/images/2.png"],
        {},
        r'"test" holds none of the classes of "train", but "images".*Give "train" itself',
    ),
    "a test split without classes": (
        ["train/cat/1.png", "train/dog/1.png", "test/1.png"],
        {},
        r'but images in no folder; .*data\.class_folders=False',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("names", "words", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_a_data_set_is_refused(names, words, message):
    """Catches a training without images, without a test, or without a part of them."""
    with pytest.raises(DataError, match=message):
        listed(names, **words)


def test_what_is_left_out_is_counted():
    """Catches files that vanish without a word."""
    names = ["train/1.png", "test/2.png", "3.png", "a.bmp", ".DS_Store", "__MACOSX/1.png", "x.csv"]
    listing = listed(names, on_bad="skip")
    assert sorted(listing.passed_over.counts.values()) == [1, 1, 1, 2]
    assert len(listing.passed_over.lost) == 1
    assert "1 passed over: no name of an image" in "\n".join(listing.passed_over.lines())


def test_items_are_a_sequence_that_can_be_sent():
    """Catches slices that copy, negative places, and a listing that a worker cannot be given."""
    listing = listed([f"{number:02d}.png" for number in range(20)], num_test_images=4)
    items = listing.train
    assert list(items[3:7]) == [items[number] for number in range(3, 7)]
    assert items[-1] == list(items)[-1]
    assert items[::-2][0] == items[-1]
    with pytest.raises(IndexError):
        items[16]
    assert list(pickle.loads(pickle.dumps(items))) == list(items)  # noqa: S301


def test_a_listing_takes_under_a_hundred_bytes_an_image():
    """Catches an object for each image: a million of them would take over 300 MB."""
    count = 20_000
    container = Names(
        [f"train/class-{number % 10}/{number:08d}.png" for number in range(count - 1)]
    )
    container._names.append("test/1.png")
    tracemalloc.start()
    listing = list_images(container, num_test_images=None, class_folders=False)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listing.train) == count - 1
    assert kept / count < 100
    assert peak / count < 300
