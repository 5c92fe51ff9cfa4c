"""Decoding a split: the short ways have the pixels of the long one, and say how far they are."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_core.errors import DataError
from ddpm_core.images.shaped import Cut
from ddpm_core.loading import fill, shard_rows
from ddpm_core.loading.fill import Work
from ddpm_core.loading.loader import load_split
from ddpm_core.progress import parse
from ddpm_core.shards import members
from ddpm_core.shards.index import load_index
from ddpm_core.store.manifest import FileRecord, Manifest
from ddpm_core.store.storage import open_store, sha256_of
from tests.loading.streams import encoded, foreign_index, pixels_of, smooth
from tests.sharding.small import data_config, shard_dataset, splits


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)], ids=["grey", "colour"])
def test_our_own_images_are_copied_all_at_once(shape, store, monkeypatch):
    """Catches a million images that are unpacked one by one, under one lock; exchanged axes."""
    images = splits(shape=shape, num_train=25)
    name = "digits" if shape[2] == 1 else "cifar10"
    config = data_config(name=name, height=shape[0], width=shape[1], images_per_shard=10)
    index = load_index(store, shard_dataset(store, config, images).folder)
    monkeypatch.setattr(shard_rows, "_columns_slowly", lambda *_: pytest.fail("file by file"))
    monkeypatch.setattr(members.ImageMember, "decode", lambda *_: pytest.fail("one by one"))
    found = load_split(store, index, "train")
    assert np.array_equal(found.pixels.permute(0, 2, 3, 1).numpy(), images.train.images_u8)
    assert np.array_equal(found.others["label"].numpy(), images.train.labels)


def test_a_checksum_that_does_not_fit_is_found_in_the_short_way_too(store):
    """Catches pixels that another hand changed in a shard, and committed."""
    index = load_index(store, shard_dataset(store, data_config(), splits()).folder)
    shard, found = index.shards["train"][1], index.manifest
    key = f"{found.folder}/{shard.name}"
    tar = bytearray(store.read(key))
    tar[shard.offsets[2] + 60] ^= 1
    store.write(key, bytes(tar))
    record = FileRecord(shard.name, len(tar), sha256_of(bytes(tar)))
    changed = Manifest(found.folder, found.body, {**found.files, shard.role: record})
    with pytest.raises(DataError, match=r"train-000001\.tar: train-\d+ cannot be used: its pixels"):
        load_split(store, dataclasses.replace(index, manifest=changed), "train")


CHOSEN, LABELS = (0, 3, 4), (2, 1, 0, 2, 1, 0)


def chosen(index, at, places):
    """The index with some images of a shard alone, each with a label of its own."""
    shard = index.shards["train"][at]
    part = dataclasses.replace(
        shard,
        num_images=len(places),
        offsets=tuple(shard.offsets[place] for place in places),
        sizes=tuple(shard.sizes[place] for place in places),
        labels=LABELS[: len(places)],
    )
    shards = {**index.shards, "train": (part,)}
    return dataclasses.replace(index, shards=shards, num_images={"train": len(places)})


@pytest.mark.parametrize("way", ["copied", "decoded", "decoded by processes"])
def test_of_a_part_of_a_shard_the_images_of_the_index_are_read(way, store, monkeypatch):
    """Catches neighbours in the place of the images that stay, and labels of the files."""
    if way == "copied":
        images = splits(num_train=12)
        config = data_config(images_per_shard=6)
        index = load_index(store, shard_dataset(store, config, images).folder)
        expected = images.train.images_u8[6:].transpose(0, 3, 1, 2)
    else:
        index, files = foreign_index(store, [6, 6])
        expected = np.stack([pixels_of(file) for file in files[6:]])
    if way == "decoded by processes":
        monkeypatch.setattr(fill, "_MANY", 1)
    found = load_split(store, chosen(index, 1, CHOSEN), "train")
    assert np.array_equal(found.pixels.numpy(), expected[list(CHOSEN)])
    assert found.others["label"].tolist() == [2, 1, 0]


def test_a_whole_shard_with_other_labels_goes_the_short_way(store, monkeypatch):
    """Catches a union that is parsed file by file because its labels stand in the index."""
    index, files = foreign_index(store, [6, 6])
    monkeypatch.setattr(shard_rows, "_columns_slowly", lambda *_: pytest.fail("file by file"))
    found = load_split(store, chosen(index, 1, range(6)), "train")
    assert np.array_equal(found.pixels.numpy(), np.stack([pixels_of(one) for one in files[6:]]))
    assert found.others["label"].tolist() == list(LABELS)


def test_a_damaged_image_of_a_part_is_named_by_its_place(store):
    """Catches the name of the image that had this number before others were left out."""

    def spoil(number, file):
        return encoded(smooth(4, (12, 16, 3)), "PNG") if number == 4 else file

    index, _ = foreign_index(store, [6], kind="PNG", spoil=spoil)
    offset = index.shards["train"][0].offsets[4]
    with pytest.raises(DataError, match=rf"train-000000\.tar: the image at byte {offset} cannot"):
        load_split(store, chosen(index, 0, CHOSEN), "train")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_many_files_of_others_are_decoded_by_processes(kind, store, monkeypatch):
    """Catches parts of a shard in each other's place, and pixels of another shard."""
    monkeypatch.setattr(fill, "_MANY", 1)
    monkeypatch.setattr(shard_rows, "_POOL_BYTES", 7 * 16 * 12 * 3)
    monkeypatch.setattr(members.ImageMember, "decode", lambda *_: pytest.fail("here"))
    index, files = foreign_index(store, [20, 1, 9], kind=kind)
    images = load_split(store, index, "train")
    for image_u8, file in zip(images.pixels.numpy(), files, strict=True):
        assert np.array_equal(image_u8, pixels_of(file))


def test_processes_let_go_of_the_shards_that_are_done(store, monkeypatch):
    """Catches the memory of a whole data set of files: a shard was copied there for them, and is
    held as long as one of them has it open."""
    monkeypatch.setattr(fill, "_MANY", 1)
    monkeypatch.setattr("ddpm_core.loading.loader.cores", lambda: 1)
    held, close = [], fill.DecodePool.close

    def look_and_close(pool):
        for child in pool._children:
            opened = Path(f"/proc/{child.process.pid}/fd").iterdir()
            held.append(sum("ddpm-shard" in str(one.readlink()) for one in opened))
        close(pool)

    monkeypatch.setattr(fill.DecodePool, "close", look_and_close)
    index, _ = foreign_index(store, [1] * 12)
    load_split(store, index, "train")
    assert len(held) == 1
    assert 1 <= held[0] <= 2, "of each of its two channels the last"


@pytest.mark.parametrize(("shards", "largest"), [(3, 3), (0.5, 1)], ids=["three fit", "none fits"])
def test_threads_hold_no_more_bytes_of_shards_than_there_is_room(
    shards, largest, store, monkeypatch
):
    """Catches the memory of 16 shards of any size and of their copies; a shard larger than all the
    room, which is waited for to the end of time."""
    index, _ = foreign_index(store, [2] * 12, kind="PNG")
    (size,) = set(index.file_bytes("train").tolist())
    monkeypatch.setattr(fill, "_ROOM_BYTES", int(shards * 2 * size))
    monkeypatch.setattr("ddpm_core.loading.loader.cores", lambda: 8)
    held, most, read_rows = set(), [], fill.read_rows

    def watched(*values):
        held.add(values[2].name)
        time.sleep(0.01)  # for others to come, if they may
        most.append(len(held))
        read_rows(*values)
        held.remove(values[2].name)

    monkeypatch.setattr(fill, "read_rows", watched)
    assert len(load_split(store, index, "train")) == 24
    assert len(most) == 12
    assert max(most) <= largest


def test_a_file_that_a_process_cannot_decode_is_named(store, monkeypatch):
    """Catches the name of another image, in the second part of its shard."""
    monkeypatch.setattr(fill, "_MANY", 1)
    monkeypatch.setattr(shard_rows, "_POOL_BYTES", 2 * 16 * 12 * 3)

    def spoil(number, file):
        return encoded(smooth(4, (12, 16, 3)), "PNG") if number == 6 else file

    index, _ = foreign_index(store, [3, 5], kind="PNG", spoil=spoil)
    with pytest.raises(DataError, match=r"train-000001\.tar: train-00000006 cannot be used"):
        load_split(store, index, "train")


def test_equal_labels_are_read_once_and_each_image_has_its_own(store, monkeypatch):
    """Catches labels sorted or shifted, and `1` taken for `10`."""
    read = []

    def decode(self, files, origin):
        read.append(len(files))
        return np.array([int(file) for file in files], np.int64)

    monkeypatch.setattr(members.ClassMember, "decode", decode)
    index, _ = foreign_index(store, [36], kind="PNG")
    labels = load_split(store, index, "train").others["label"]
    assert torch.equal(labels, torch.arange(36) % 3)
    assert read == [3]


def test_how_far_it_is_is_shown(store, monkeypatch, capsys):
    """Catches a minute without a line, and a line that no flow understands."""
    monkeypatch.setattr(fill, "_SHOW_EVERY_S", 0)
    index, _ = foreign_index(store, [3, 3, 2], kind="PNG")
    load_split(store, index, "train", stage="train")
    lines = [parse(line, ["train"]) for line in capsys.readouterr().out.splitlines()]
    assert [line.done for line in lines][-1] == 8
    assert {(line.total, line.unit) for line in lines} == {(8, "images")}
    assert all("images/s" in line.note for line in lines)


def test_it_ends_between_two_shards_when_it_is_told_to(store, monkeypatch):
    """Catches a training that ended and waits for images that nobody wants any more."""
    index, _ = foreign_index(store, [1] * 40, kind="PNG")
    calls, read, read_rows = [], [], fill.read_rows
    monkeypatch.setattr(fill, "read_rows", lambda *of: read.append(1) or read_rows(*of))

    def go_on():
        calls.append(1)
        if len(calls) > 3:
            raise DataError("enough")

    rows = shard_rows.Rows(np.zeros((40, 3, 16, 12), np.uint8), {"label": np.zeros(40, np.int64)})
    with pytest.raises(DataError, match="enough"):
        fill.fill(store, index, "train", rows, Work(1, None, go_on))
    assert len(read) == 3


@pytest.mark.parametrize("many", [1, 2**12], ids=["by processes", "here"])
def test_how_many_images_cannot_be_used_is_counted_of_the_whole_split(many, store, monkeypatch):
    """Catches each block of a shard counted by itself, in which few are broken; and a split that
    is refused, or not, by which shard a thread reads first."""
    monkeypatch.setattr(fill, "_MANY", many)
    monkeypatch.setattr(shard_rows, "_BLOCK_IMAGES", 10)
    monkeypatch.setattr("ddpm_core.images.shaped._MAX_SHARE", 0.5)
    cut = Cut("center", "box", (0, 0, 0), 10**6)

    def load(num_broken):
        index, _ = foreign_index(
            store, [23, 20], spoil=lambda at, file: file[:99] if at < num_broken else file
        )
        shaped = dataclasses.replace(index, image=dataclasses.replace(index.image, cut=cut))
        return load_split(store, shaped, "train").pixels

    assert load(21).flatten(1).any(1).sum() == 22
    if many > 1:
        with pytest.raises(DataError, match="22 of 43 images cannot be used"):
            load(22)
