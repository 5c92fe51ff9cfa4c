"""`verify` against data sets that are damaged in one place each."""

import json
import os
import signal

import pytest

from ddpm_core.errors import ClusterError
from ddpm_core.images import png
from ddpm_core.sharding import verify
from ddpm_core.sharding.verify import problems_of
from ddpm_core.sharding.verify_child import Child
from ddpm_core.shards.index import load_index
from ddpm_core.store.commit import commit
from ddpm_core.store.storage import open_store
from tests.sharding.small import data_config, shard_dataset, splits


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def folder(store):
    return shard_dataset(store, data_config(), splits()).folder


def test_a_whole_data_set_has_no_problems(store, folder):
    """Catches a check that cries wolf, and one that counts images twice."""
    seen = []
    index = load_index(store, folder)
    assert problems_of(store, index, on_progress=lambda *at: seen.append(at), num_at_once=3) == []
    assert seen == [(done, 16) for done in (0, 4, 8, 10, 14, 16)]


@pytest.mark.parametrize("number", range(5))
def test_every_flipped_bit_names_its_shard(number, store, folder):
    """Catches a check that reads the index only."""
    names = [f"train-{n:06d}.tar" for n in range(3)] + [f"test-{n:06d}.tar" for n in range(2)]
    path = store.local_path(f"{folder}/{names[number]}")
    good = path.read_bytes()
    path.write_bytes(good[:700] + bytes([good[700] ^ 4]) + good[701:])
    (line,) = problems_of(store, load_index(store, folder))
    assert names[number] in line


def test_other_processes_find_what_this_one_finds(store, folder, monkeypatch):
    """Catches counts of a process that get lost or are of another split, and lines that do."""
    index = load_index(store, folder)
    one = [problems_of(store, index)]
    monkeypatch.setattr(verify, "_FEW_S", 0)
    monkeypatch.setattr(verify, "shard_problems", lambda *_: pytest.fail("looks in this process"))
    two = [problems_of(store, index, num_at_once=2)]
    assert one == two == [[]]
    path = store.local_path(f"{folder}/train-000001.tar")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (line,) = problems_of(store, index, num_at_once=2)
    assert "train-000001.tar is damaged" in line


def test_a_process_that_ends_is_one_error(store, folder):
    """Catches a check that waits for ever for a process that is gone, or passes over its shard."""
    child = Child(store, load_index(store, folder))
    try:
        os.kill(child._process.pid, signal.SIGKILL)
        child._process.wait()  # or it would depend on time whether the pipe is broken
        with pytest.raises(ClusterError, match=r"has ended \(exit code -9\)"):
            child.look("train", 0)
    finally:
        child.close()


def test_a_damaged_picture_of_the_first_images_is_found(store, folder):
    """Catches files of the manifest that are no shard, and that nobody reads."""
    path = store.local_path(f"{folder}/train-first.png")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (line,) = problems_of(store, load_index(store, folder))
    assert "train-first.png is damaged" in line


def test_all_that_is_wrong_is_said_at_once(store, folder):
    """Catches a check that ends at the first missing shard."""
    for name in ("train-000000.tar", "train-000002.tar", "test-000001.tar"):
        store.delete(f"{folder}/{name}")
    found = problems_of(store, load_index(store, folder))
    assert [
        line.partition(" is missing")[0].rpartition("/")[2].removesuffix(".tar") for line in found
    ] == ["train-000000", "train-000002", "test-000001"]


def nudge(values):
    values[0] += 1e-9


CHANGES = {
    "one image less": (
        lambda body: body["num_images"].update(train=9),
        "train: shards of 10 images, the index says 9",
    ),
    "other classes": (
        lambda body: body["members"]["label"]["counts"]["train"].reverse(),
        "train: the classes of the images are not those that the index counts",
    ),
    "an offset": (
        lambda body: body["shards"]["train"][1]["offsets"].__setitem__(1, 512),
        "train-00000005.png is not where the index says",
    ),
    "a number twice": (
        lambda body: body["shards"]["train"][1].update(first_number=3),
        "train-000001.tar: begins with image 3, which was there",
    ),
    "a gap of numbers": (
        lambda body: body["shards"]["train"][2].update(first_number=9),
        "train-00000008.png stands where train-00000009 should",
    ),
    "fewer classes": (
        lambda body: body["members"]["label"].update(
            names=["0"], counts={"train": [10], "test": [6]}
        ),
        'holds "1", which is no class',
    ),
    "another mean": (
        lambda body: nudge(body["members"]["image"]["mean"]),
        "train: mean and standard deviation are not those of the images",
    ),
    "another deviation": (
        lambda body: nudge(body["members"]["image"]["std"]),
        "train: mean and standard deviation are not those of the images",
    ),
    "another shape": (
        lambda body: body["members"]["image"].update(
            shape=[["channels", 1], ["height", 8], ["width", 9]],
            file_bytes=png.stored_bytes((8, 9, 1)),
        ),
        "train-00000000.png",
    ),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_an_index_that_says_otherwise_than_its_shards_is_found(change, said, store, folder):
    """Catches numbers of an index that nobody holds against the images."""

    found = load_index(store, folder).manifest
    body = json.loads(json.dumps(found.body))
    change(body)
    store.delete(f"{folder}/index.json")
    commit(store, folder, found.files, body, name="index.json")
    lines = problems_of(store, load_index(store, folder))
    assert any(said in line for line in lines), lines
