"""Public image sets as people have them on their disks: read as they are meant, or refused with the
remedy that works. Each is the tree of names that its archives unpack to, cut to a few files.
"""

import logging

import pytest

from ddpm_core.errors import DataError
from ddpm_core.sources.listing import list_images
from tests.sources.test_listing import Names, keys, of


def numbered(pattern, count=4):
    """`count` names: {} in the pattern is a number."""
    return [pattern.format(number) for number in range(1, count + 1)]


ALL = ("all",)
LAYOUTS = {
    # name: (names, classes, images of the test split by key, or how many are held out)
    "ImageNet, as torchvision wants it": (
        numbered("train/n01440764/n01440764_{}.JPEG")
        + numbered("train/n01443537/n01443537_{}.JPEG")
        + numbered("val/n01440764/val_{}.JPEG", 2),
        ("n01440764", "n01443537"),
        ["val/n01440764/val_1.JPEG", "val/n01440764/val_2.JPEG"],
    ),
    "ImageNet, its test split unlabelled, its val split in classes": (
        numbered("ILSVRC/Data/CLS-LOC/train/n01440764/{}.JPEG")
        + numbered("ILSVRC/Data/CLS-LOC/train/n01443537/{}.JPEG")
        + numbered("ILSVRC/Data/CLS-LOC/val/n01443537/{}.JPEG", 1)
        + numbered("ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_{}.JPEG")
        + numbered("ILSVRC/Annotations/CLS-LOC/val/{}.xml")
        + ["LOC_synset_mapping.txt"],
        ("n01440764", "n01443537"),
        ["val/n01443537/1.JPEG"],
    ),
    "CelebA, aligned": (
        ["list_attr_celeba.csv", *numbered("img_align_celeba/img_align_celeba/{:06d}.jpg", 20)],
        ALL,
        2,
    ),
    "CelebA-HQ": (
        numbered("celeba_hq/train/female/{}.jpg") + numbered("celeba_hq/val/female/{}.jpg", 1),
        ("female",),
        ["val/female/1.jpg"],
    ),
    "CIFAR-10 as PNG": (
        numbered("cifar/train/airplane/{:04d}.png")
        + numbered("cifar/train/frog/{:04d}.png")
        + numbered("cifar/test/frog/{:04d}.png", 1),
        ("airplane", "frog"),
        ["test/frog/0001.png"],
    ),
    "MNIST as PNG": (
        numbered("mnist_png/training/0/{}.png")
        + numbered("mnist_png/training/1/{}.png")
        + numbered("mnist_png/testing/1/{}.png", 1),
        ("0", "1"),
        ["testing/1/1.png"],
    ),
    "Oxford flowers": (numbered("jpg/image_{:05d}.jpg", 30), ALL, 3),
    "FFHQ, one class": (
        ["dataset.json", *numbered("00000/img{:08d}.png"), *numbered("01000/img{:08d}.png")],
        ("00000", "01000"),
        1,
    ),
    "Food-101": (
        [
            "food-101/meta/classes.txt",
            "food-101/README.txt",
            *numbered("food-101/images/apple_pie/{}.jpg", 6),
            *numbered("food-101/images/waffles/{}.jpg", 6),
        ],
        ("apple_pie", "waffles"),
        1,
    ),
    "COCO": (
        [
            "annotations/instances_val2017.json",
            *numbered("train2017/{:012d}.jpg"),
            *numbered("val2017/{:012d}.jpg", 1),
            *numbered("test2017/{:012d}.jpg", 2),
        ],
        ALL,
        ["test2017/000000000001.jpg", "test2017/000000000002.jpg"],
    ),
    "Stanford cars": (
        [
            "devkit/README.txt",
            *numbered("cars_train/{:05d}.jpg"),
            *numbered("cars_test/{:05d}.jpg", 1),
        ],
        ALL,
        ["cars_test/00001.jpg"],
    ),
    "YOLO": (
        numbered("images/train/{}.jpg")
        + numbered("images/val/{}.jpg", 1)
        + numbered("labels/train/{}.txt"),
        ALL,
        ["val/1.jpg"],
    ),
    "an imagefolder of the hub": (
        [
            "README.md",
            ".gitattributes",
            "train/metadata.jsonl",
            "test/metadata.jsonl",
            *numbered("train/{:04d}.png"),
            *numbered("test/{:04d}.png", 1),
        ],
        ALL,
        ["test/0001.png"],
    ),
    "Kaggle: train, valid, test": (
        [
            "birds.csv",
            *numbered("train/ABBOTTS BABBLER/{}.jpg"),
            *numbered("valid/ABBOTTS BABBLER/{}.jpg", 1),
            *numbered("test/ABBOTTS BABBLER/{}.jpg", 1),
        ],
        ("ABBOTTS BABBLER",),
        ["test/ABBOTTS BABBLER/1.jpg"],
    ),
    "Kaggle: dogs and cats in one folder": (
        numbered("train/cat.{}.jpg") + numbered("test/{}.jpg", 1),
        ALL,
        ["test/1.jpg"],
    ),
    "a zip that macOS made": (
        [
            ".DS_Store",
            "photos/.DS_Store",
            "__MACOSX/photos/._1.jpg",
            "photos/Thumbs.db",
            "photos/desktop.ini",
            *numbered("photos/{}.jpg", 10),
        ],
        ALL,
        1,
    ),
    "train alone": (
        numbered("train/cat/{}.png", 6) + numbered("train/dog/{}.png", 6),
        ("cat", "dog"),
        1,
    ),
    "classes called as splits are": (
        numbered("bullet_train/{}.png", 5) + numbered("test_tube/{}.png", 5),
        ("bullet_train", "test_tube"),
        1,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_public_image_sets_are_read_as_they_are_meant(name):
    """Catches splits taken for classes, an unlabelled split taken for the test, a hold-out that
    nobody gave asked for, and a wrapping folder that hides the splits.
    """
    names, classes, test = LAYOUTS[name]
    listing = list_images(Names(names), num_test_images=None, on_bad="few", max_bad_share=0.01)
    assert listing.classes == classes
    if isinstance(test, int):
        assert len(listing.test) == test
    else:
        assert keys(listing.test) == test
    assert len(listing.train) >= 2


REFUSED = {
    "Tiny ImageNet": (
        numbered("train/n01443537/images/{}.JPEG")
        + numbered("train/n01629819/images/{}.JPEG")
        + numbered("val/images/val_{}.JPEG")
        + numbered("test/images/test_{}.JPEG"),
        r'"test" holds none of the classes of "train", but "images".*Give "train" itself',
    ),
    "LSUN, the archive of a database": (["bedroom_lmdb/data.mdb"], "an LMDB: give the folder"),
    "SVHN": (["train_32x32.mat"], "arrays or tables, which may hold some: write each"),
    "a data set of the hub": (["data/train-00000-of-00001.parquet"], "write each image as a PNG"),
    "EuroSAT, all bands": (numbered("EuroSAT/AnnualCrop/{}.tif"), "convert it to PNG"),
    "only a validation split": (numbered("a/val/{}.png"), "or give what lies in val/"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_with_what_to_do(name):
    """Catches classes made of what is none, and "holds no image" without a word of why."""
    names, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        list_images(Names(names), num_test_images=None, on_bad="few", max_bad_share=0.01)


REMEDIES = {
    "Tiny ImageNet: train/ itself": (
        numbered("n01443537/images/{}.JPEG") + numbered("n01629819/images/{}.JPEG"),
        {},
        ("n01443537", "n01629819"),
    ),
    "one class": (
        numbered("train/a/{}.png") + numbered("train/b/{}.png") + numbered("test/{}.png"),
        {"class_folders": False},
        ALL,
    ),
    "what lies in val": (numbered("{}.png"), {}, ALL),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_the_remedies_work(name):
    """Catches advice that ends in the next error."""
    names, words, classes = REMEDIES[name]
    assert list_images(Names(names), num_test_images=None, **words).classes == classes


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (LAYOUTS["FFHQ, one class"][0], '"00000", "01000" are taken for 2 classes'),
        (["train/1.png", "ship/2.png"], '"ship", "train" are taken for classes, not for splits'),
        (["cat/1.png", "dog/2.png"], ""),
        (["0/1.png", "1/2.png"], ""),
        (["trains/1.png", "latest/2.png"], ""),
    ],
)
def test_classes_that_may_be_none_are_said(names, said, caplog):
    """Catches 70 classes of FFHQ's folders, which only divide the files, without a word."""
    with caplog.at_level(logging.WARNING):
        list_images(Names(names), num_test_images=None)
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)


@pytest.mark.parametrize(
    ("count", "held_out"), [(2, 1), (19, 1), (20, 2), (5000, 500), (20_000, 1000)]
)
def test_a_tenth_is_held_out_where_nobody_says_how_many(count, held_out):
    """Catches a refusal that a default spares, 0 images held out, and 100,000 of a million.

    They are those that the number itself would have given.
    """
    names = numbered("{}.png", count)
    listing = list_images(Names(names), num_test_images=None)
    assert len(listing.test) == held_out
    assert len(listing.train) == count - held_out
    assert of(listing) == of(list_images(Names(names), num_test_images=held_out))


def test_few_other_files_are_left_out_and_many_refused():
    """Catches one .mat among 8,000 flowers that ends a sharding, and a folder of TIFF files of
    which the two PNG files become the data set.
    """
    names = numbered("{}.png", 99)
    few = list_images(
        Names([*names, "labels.mat"]), num_test_images=1, on_bad="few", max_bad_share=0.01
    )
    assert sum(few.passed_over.counts.values()) == 1
    with pytest.raises(
        DataError, match=r"more than data\.max_bad_share=0\.01 of all.*(.|\n)*2 passed over"
    ):
        list_images(
            Names([*names, "1.tif", "2.tif"]), num_test_images=1, on_bad="few", max_bad_share=0.01
        )
    with pytest.raises(DataError, match="1 passed over"):
        list_images(Names([*names, "labels.mat"]), num_test_images=1)
