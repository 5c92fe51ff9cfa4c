import gzip
import hashlib
import io
import json
import shutil

import pytest
from webdataset import TarWriter

from ddpm_core.errors import DataError
from ddpm_core.images.names import TEXT
from ddpm_core.sources.containers.container import PassedOver
from ddpm_core.sources.containers.opening import open_container, reopen
from ddpm_core.sources.containers.shard_files import ShardFiles
from ddpm_core.sources.listing import list_images
from tests.sources.containers.test_tarred import tar_of


def sample(key, label, content=b"image", extension="jpg"):
    return {f"{key}.{extension}": content, f"{key}.cls": str(label).encode(), f"{key}.json": b"{}"}


def write(folder, shards):
    for name, files in shards.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_of(files))
    return open_container(str(folder), cache=folder / "cache")


def test_shards_of_webdataset_are_read(tmp_path):
    """Catches a sample that loses its label or its image, and a wrong place in a shard."""
    (tmp_path / "data").mkdir()
    for number in range(2):
        out = io.BytesIO()
        with TarWriter(out, encoder=False, mtime=0) as writer:
            for index in range(3):
                writer.write(
                    {
                        "__key__": f"sample{index}",
                        "jpg": b"%d-%d" % (number, index),
                        "cls": str(index % 2).encode(),
                    }
                )
        (tmp_path / "data" / f"{number}.tar").write_bytes(out.getvalue())
    opened = open_container(str(tmp_path / "data"), cache=tmp_path)
    assert isinstance(opened, ShardFiles)
    listing = list_images(opened, num_test_images=2)
    assert listing.classes == ("0", "1")
    assert listing.passed_over.counts == {}
    again = reopen(json.loads(json.dumps(opened.description())))
    for item in (*listing.train, *listing.test):
        number, _, index = item.key.partition("/sample")
        assert again.read(item.entry) == f"{number}-{index[0]}".encode()
        assert item.label == int(index[0]) % 2
    assert len(listing.train) == 4


def test_splits_are_words_in_the_names_of_shards(tmp_path):
    """Catches letters of another word taken for a split, and a split by folders lost."""
    shards = {"imagenet-train-000.tar": sample("a", 0), "imagenet-val-000.tar": sample("a", 1)}
    listing = list_images(write(tmp_path / "1", shards), num_test_images=None)
    assert [item.key for item in listing.train] == ["train/imagenet-train-000/a.jpg"]
    assert [item.key for item in listing.test] == ["test/imagenet-val-000/a.jpg"]
    shards = {"train/0.tar": sample("a", 0), "test/0.tar": sample("a", 1)}
    listing = list_images(write(tmp_path / "2", shards), num_test_images=None)
    assert [item.label for item in listing.test] == [1]
    shards = {"train-0.tar": sample("a", 0), "contest-0.tar": sample("a", 1)}
    listing = list_images(write(tmp_path / "3", shards), num_test_images=1)
    assert len(listing.train) == len(listing.test) == 1


def test_shards_without_labels_have_one_class(tmp_path):
    """Catches shards, or folders in keys, taken for classes."""
    files = {"x/1.png": b"1", "y/2.png": b"2"}
    listing = list_images(write(tmp_path, {"a.tar": files, "b.tar": files}), num_test_images=1)
    assert listing.classes == ("all",)
    assert len(listing.train) == 3


def test_what_stands_beside_an_image_is_counted_and_never_read(tmp_path):
    """Catches a pickle that is looked into, a caption lost in silence, and keys with more dots."""
    files = {
        "1.jpg": b"1",
        "1.pyd": b"cos\nsystem\n.",
        "1.txt": b"a cat",
        "2.pth": b"",
        "2.seg.png": b"no image of this sample, but of its segments",
        "2.PNG": b"2",
        ".hidden.png": b"",
        "3.txt": b"no image",
    }
    passed_over = PassedOver()
    opened = write(tmp_path, {"a.tar": files})
    assert [e.name for e in opened.entries(passed_over)] == ["a/1.jpg", "a/2.PNG"]
    assert passed_over.counts[TEXT] == 1
    assert passed_over.examples["a sample without an image"] == ["a/3"]
    assert sum(passed_over.counts.values()) == 6
    assert passed_over.lost == {"a sample without an image"}


BAD = {
    "two images": ({"1.jpg": b"1", "1.png": b"2"}, "has several images"),
    "the same twice by case": ({"1.jpg": b"1", "1.JPG": b"2"}, "twice"),
    "apart": ({"1.jpg": b"1", "2.jpg": b"2", "1.cls": b"0"}, "files in two places"),
    "no number": ({"1.jpg": b"1", "1.cls": b"cat"}, 'is "cat"; it must be the number of a class'),
    "negative": ({"1.jpg": b"1", "1.cls": b"-1"}, "must be the number of a class"),
    "too large": ({"1.jpg": b"1", "1.cls": b"65536"}, "must be the number of a class"),
    "other digits": ({"1.jpg": b"1", "1.cls": "٣".encode()}, "must be the number of a class"),
    "long": ({"1.jpg": b"1", "1.cls": b"1" + b" " * 64}, "must be the number of a class"),
    "empty label": ({"1.jpg": b"1", "1.cls": b""}, "must be the number of a class"),
    "slip": ({"../1.jpg": b"1"}, "must be a path"),
    "a name without end": ({"1" * 4997 + ".jpg": b"1"}, "must be a path of 1..4096"),
}


@pytest.mark.parametrize(("files", "message"), BAD.values(), ids=BAD)
def test_shards_that_cannot_be_understood_are_refused(files, message, tmp_path):
    """Catches an image with the label of another."""
    with pytest.raises(DataError, match=message):
        list(write(tmp_path, {"a.tar": {**files, "9.jpg": b""}}).entries(PassedOver()))


def test_a_single_shard_is_distinguished_from_an_archive_of_images(tmp_path):
    """Catches labels lost because a shard was given by its own path."""
    path = tmp_path / "some-train-0.tar"
    path.write_bytes(tar_of({**sample("a", 1), **sample("b", 0)}))
    listing = list_images(open_container(str(path), cache=tmp_path), num_test_images=1)
    assert listing.classes == ("0", "1")
    path.write_bytes(tar_of({"cat/a.jpg": b"1", "dog/b.jpg": b"2"}))
    listing = list_images(open_container(str(path), cache=tmp_path), num_test_images=1)
    assert listing.classes == ("cat", "dog")


def test_a_single_shard_may_be_gzipped(tmp_path):
    """Catches labels lost because a shard was compressed."""
    path = tmp_path / "some-0.tgz"
    path.write_bytes(gzip.compress(tar_of({**sample("a", 1), **sample("b", 0)}), mtime=0))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    opened = open_container(str(path), cache=tmp_path, sha256=digest)
    listing = list_images(opened, num_test_images=1)
    assert listing.classes == ("0", "1")
    assert listing.train[0].entry.name.startswith("some-0/")
    with pytest.raises(DataError, match=rf"has the SHA-256 {digest}"):
        open_container(str(path), cache=tmp_path, sha256="0" * 64)


def test_a_folder_with_images_beside_a_tar_is_a_folder(tmp_path):
    """Catches 60,000 images that are passed over because of one archive beside them."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"1")
    opened = write(tmp_path, {"backup.tar": sample("a", 1)})
    assert not isinstance(opened, ShardFiles)


def test_a_shard_that_has_gone_is_named(tmp_path):
    """Catches a bare error in a worker."""
    opened = write(tmp_path / "data", {"a.tar": sample("a", 1)})
    [entry] = opened.entries(PassedOver())
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match=r"a\.tar is missing"):
        opened.read(entry)
