"""Members of a data set by name: what each image comes with, read from memory and from shards."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.images import png
from ddpm_core.loading import loader
from ddpm_core.loading.loader import load_split
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import Index, Shard, key_of
from ddpm_core.shards.members import MADE, ClassMember, ImageMember, require_members
from ddpm_core.shards.tar_writer import pack
from ddpm_core.store.manifest import FileRecord, Manifest
from ddpm_core.store.storage import open_store, sha256_of

FOLDER = "datasets/own"
NUM_IMAGES = 5


@dataclass(frozen=True)
class PairMember:
    """A pair of numbers for each image: a member as a later version may add it."""

    ending: ClassVar[str]
    dtype: ClassVar[str] = "int16"
    shape: ClassVar[tuple[int, ...]] = (2,)

    def decode(self, files, origin):
        for number, content in enumerate(files):
            if len(content) != 4:
                raise DataError(f"{origin(number)} has {len(content)} bytes, not 4")
        return np.array([np.frombuffer(content, "<i2") for content in files])


class BetweenMember(PairMember):
    ending = "control.bin"


class LastMember(PairMember):
    ending = "pair"


def written(store, changes: Mapping[str, bytes]) -> Index:
    """Write a shard whose images come with a class and two pairs; return its index."""
    files = []
    for number in range(NUM_IMAGES):
        key = key_of("train", number)
        sample = {
            f"{key}.png": png.encode(np.full((3, 2, 1), 40 * number, np.uint8)),
            f"{key}.cls": b"%d" % (number % 2),
            f"{key}.control.bin": np.array([number, -number], "<i2").tobytes(),
            f"{key}.json": b"{}" * 400,
            f"{key}.pair": np.array([7 * number, 1], "<i2").tobytes(),
        }
        files += [(name, changes.get(name, content)) for name, content in sample.items()]
    tar, offsets = pack(files)
    store.write(f"{FOLDER}/train-000000.tar", tar)
    record = FileRecord("train-000000.tar", len(tar), sha256_of(tar))
    size = len(files[0][1])
    levels = 40.0 * np.arange(NUM_IMAGES)
    return Index(
        manifest=Manifest(FOLDER, {}, {"train-000000": record}),
        fingerprint="f" * 64,
        image=ImageMember("uint8", (1, 3, 2), (levels.mean(),), (levels.std(),), size),
        others={
            "last": LastMember(),
            "between": BetweenMember(),
            "label": ClassMember(("a", "b"), {"train": (3, 2), "test": (0, 0)}),
        },
        num_images={"train": NUM_IMAGES, "test": 0},
        shards={
            "train": (Shard("train-000000.tar", 5, 0, tuple(offsets[::5]), (size,) * NUM_IMAGES),),
            "test": (),
        },
        rejected=(),
    )


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.mark.parametrize("held_bytes", [0, 2**20], ids=["streamed", "held"])
def test_a_member_is_read_by_its_name_wherever_its_file_stands(held_bytes, store, monkeypatch):
    """Catches: readers that know of three files; a member's file looked for behind the image's;
    numbers of 8 bytes in memory that begin in between."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", held_bytes)
    chosen = np.array([4, 0, 2])
    with closing(load_split(store, written(store, {}), "train")) as images:
        assert set(images.members) == {"label", "last", "between"}
        assert images.member("label", chosen).tolist() == [0, 0, 0]
        assert images.member("last", chosen).tolist() == [[28, 1], [0, 1], [14, 1]]
        assert images.member("between", chosen).tolist() == [[4, -4], [0, 0], [2, -2]]
        assert images.take(chosen)[:, 0, 2, 1].tolist() == [160, 0, 80]
        if held_bytes:
            assert all(one.numpy().flags.aligned for one in images.others.values())


DAMAGE = {
    "train-00000001.control.bin": b"abc",
    "train-00000003.cls": b"2",
    "train-00000002.png": b"x",
}


def test_verify_looks_at_every_member(store):
    """Catches: a check of images and classes alone, or one that ends at the first."""
    assert problems_of(store, written(store, {})) == []
    for name, content in DAMAGE.items():
        line = problems_of(store, written(store, {name: content}))[0]
        assert name in line


def test_a_network_that_takes_more_is_refused():
    """Catches: a recipe whose captions are missed after the sharding; a refusal of the label."""
    require_members(MADE, {"label"}, of="the data set")
    require_members(MADE, frozenset(), of="the data set")
    with pytest.raises(DataError, match="takes caption, label, and the data set has no caption"):
        require_members(MADE, {"label", "caption"}, of="the data set")
