"""A folder as people have it, from the one line that names it: nothing that a default can spare."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from ddpm_core.recipes import recipe
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from tests.images.image_files import image_file, write_folder
from tests.sampling.tiny import in_process
from tests.sharding.test_collection import images_in

__all__ = ["in_process"]

CLASSES = ("Hände", "図", "cat")


def large_jpeg():
    """A photograph of 20 megapixels, half of it red."""
    pixels = np.zeros((4000, 5000, 3), np.uint8)
    pixels[:, :2500, 0] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    """300 images: three classes, a file cut short, a PNG called .JPEG, a link, a large one."""
    content = {
        f"my photos/{CLASSES[number % 3]}/{number:03d}.jpg": image_file(
            number, "JPEG", height=40, width=30 + number % 7
        )
        for number in range(296)
    }
    some = next(iter(content.values()))
    content["my photos/cat/cut.jpg"] = some[: len(some) // 2]
    content["my photos/cat/n02105855_2933.JPEG"] = image_file(1000)
    content["my photos/図/large.jpg"] = large_jpeg()
    content["my photos/cat/wide.png"] = image_file(1001, channels=3, width=90)
    content |= {
        ".DS_Store": b"x",
        "my photos/.DS_Store": b"x",
        "my photos/Thumbs.db": b"x",
        "my photos/cat/notes.txt": b"x",
    }
    folder = write_folder(tmp_path / "photos", content)
    (tmp_path / "blob").write_bytes(image_file(1002))
    (folder / "my photos" / "cat" / "linked.png").symlink_to(tmp_path / "blob")
    return folder


def test_300_mixed_images_need_nothing_but_their_folder(
    photos, tmp_path, in_process, caplog, capfd
):
    """Catches every refusal on the way that a default can spare, and a file that is lost without a
    word: a hold-out that nobody gave, a link, a PNG called .JPEG, 20 megapixels, one cut file.
    """
    store = open_store(str(tmp_path / "root"))
    config = recipe("images").replaced({"data.source": str(photos)})
    with caplog.at_level(logging.WARNING):
        index = load_index(store, run_shard(store, config))
    assert index.label.names == tuple(sorted(CLASSES, key=str.encode))
    assert sum(index.num_images.values()) == 300
    assert index.num_images["test"] in (29, 30)  # of 301, one of which cannot be used
    assert [(one.key, one.reason) for one in index.rejected] == [
        ("cat/cut.jpg", "it is cut short: the JPEG file has no end")
    ]
    found = {
        about["source"]: pixels
        for split in ("train", "test")
        for _, pixels, _, about in images_in(store, index, split)
    }
    large = found["図/large.jpg"].astype(int)
    assert (large[:, :14] > [200, -1, -1]).all()
    assert (large[:, 18:] < 50).all()
    assert {"cat/linked.png", "cat/n02105855_2933.JPEG", "cat/wide.png"} <= found.keys()
    assert index.manifest.body["notes"] == {
        "PNG files that are named as another kind": 1,
        "images of over 16777216 pixels": 1,
    }
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert '1 files were left out ("cat/cut.jpg": it is cut short' in said
    assert 'named as another kind are read; the first: "cat/n02105855_2933.JPEG"' in said
    assert "DS_Store" not in said
    assert (
        "shard  0/301 files  reading them and making shards; 30 are held out\n"
        in capfd.readouterr().out
    )


def test_a_data_set_is_the_same_under_any_bound_on_what_it_does_not_hold(tmp_path, in_process):
    """Catches a bound that makes another data set of images that it has nothing to do with, and one
    that makes no difference to the digest of a data set that it lets images into.
    """
    small = {f"{number}.png": image_file(number) for number in range(12)}
    folder = write_folder(tmp_path / "photos", small)
    store = open_store(str(tmp_path / "root"))

    def made(name, **changes):
        values = {"name": name, "data.source": str(folder), "data.max_bad_share": 0.5}
        changed = {f"data.{key}": value for key, value in changes.items()}
        return run_shard(store, recipe("images").replaced(values | changed))

    assert made("a", max_megapixels=16) == made("b", max_megapixels=1024)
    (folder / "large.jpg").write_bytes(large_jpeg())
    assert made("c", max_megapixels=16) != made("d")
    assert [one.key for one in load_index(store, made("c", max_megapixels=16)).rejected] == [
        "large.jpg"
    ]


def test_sixteen_bits_are_said_to_become_eight(tmp_path, in_process, caplog):
    """Catches half of a microscope's range that is cut off without a word."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 4096, (8, 8)).astype(np.uint16)
        Image.fromarray(values).save(folder / f"{number}.png")
    store = open_store(str(tmp_path / "root"))
    with caplog.at_level(logging.WARNING):
        run_shard(store, recipe("images").replaced({"data.source": str(folder)}))
    assert "4 PNG files have 16 bits for each sample, of which the data set keeps 8" in caplog.text
