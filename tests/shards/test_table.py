"""An index in parts (format 4): the same as one of format 3, of shards that lie elsewhere."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.loading import loader
from ddpm_core.loading.loader import load_split
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import SPLITS, commit_in_parts, load_index
from ddpm_core.shards.one import Located, Shard
from ddpm_core.shards.parts import part_of, shard_of
from ddpm_core.shards.table import TableWriter
from ddpm_core.store.commit import commit
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import open_store
from tests.sharding.small import data_config, shard_dataset, splits


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def whole(store):
    """An index of format 3."""
    return load_index(store, shard_dataset(store, data_config(), splits()).folder)


def in_parts(store, index, *, name="parts", change=lambda shard: shard):
    """Return an index of format 4 of the same shards, which stay where they are."""
    folder = f"datasets/{name}-{index.fingerprint[:16]}"
    shards = {
        split: [change(replace(one, file=index.located(one))) for one in index.shards[split]]
        for split in SPLITS
    }
    commit_in_parts(store, folder, index.manifest.body, shards)
    return load_index(store, folder, index.fingerprint)


def all_of(store, index, split):
    with closing(load_split(store, index, split)) as images:
        numbers = np.arange(len(images))
        return images.take(numbers).numpy().copy(), images.member("label", numbers).numpy().copy()


@pytest.mark.parametrize("max_decoded", [loader.MAX_DECODED_BYTES, 0], ids=["decoded", "streamed"])
def test_an_index_in_parts_says_the_same_of_shards_that_lie_elsewhere(
    max_decoded, store, whole, monkeypatch
):
    """Catches: offsets that are not those of the images, shards looked for in the folder of the
    index, a part that is another shard's."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", max_decoded)
    parts = in_parts(store, whole)
    assert parts.is_in_parts
    assert not whole.is_in_parts
    for split in SPLITS:
        assert [replace(one, file=None) for one in parts.shards[split]] == list(whole.shards[split])
        assert parts.counts(split).tolist() == whole.counts(split).tolist()
        for ours, theirs in zip(
            all_of(store, parts, split), all_of(store, whole, split), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert problems_of(store, parts) == []


@pytest.mark.parametrize("max_decoded", [loader.MAX_DECODED_BYTES, 0], ids=["decoded", "streamed"])
def test_labels_of_the_index_stand_for_those_of_the_files(max_decoded, store, whole, monkeypatch):
    """Catches: classes of a data set that was appended to another, read by their old numbers."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", max_decoded)
    _, labels = all_of(store, whole, "train")
    turned = iter(9 - labels)

    def change(shard):
        if shard.name.startswith("test"):
            return shard
        return replace(shard, labels=tuple(int(next(turned)) for _ in range(shard.num_images)))

    _, found = all_of(store, in_parts(store, whole, change=change), "train")
    assert found.tolist() == (9 - labels).tolist()


def test_what_is_wrong_with_an_index_in_parts_is_said(store, whole, tmp_path):
    """Catches: a part, a table or a shard elsewhere that changed, used or read as another."""
    parts = in_parts(store, whole)
    (path,) = (tmp_path / "root" / parts.manifest.folder).glob("train-parts-*")
    good = path.read_bytes()
    path.write_bytes(good.replace(b"gap", b"Gap", 1))
    assert problems_of(store, parts)[0].startswith(str(path))
    with pytest.raises(DataError, match=r"train-parts-.*damaged.*set aside"):
        load_split(store, load_index(store, parts.manifest.folder), "train")
    path.write_bytes(good)
    store.delete(f"{parts.manifest.folder}/index.quarantined.json")
    shard = tmp_path / "root" / whole.manifest.folder / "train-000001.tar"
    bytes_of_shard = shard.read_bytes()
    shard.write_bytes(bytes_of_shard[:-1] + b"x")
    with pytest.raises(DataError, match=r"train-000001\.tar is damaged"):
        load_split(store, load_index(store, parts.manifest.folder), "train")
    shard.write_bytes(bytes_of_shard)
    store.delete(f"{parts.manifest.folder}/index.quarantined.json")
    (path,) = (tmp_path / "root" / parts.manifest.folder).glob("train-table-*")
    path.write_bytes(path.read_bytes().replace(b"train-", b"Train-", 1))
    with pytest.raises(DataError, match=r"train-table-.*damaged"):
        load_index(store, parts.manifest.folder)


def test_a_missing_shard_elsewhere_is_found_without_reading(store, whole, tmp_path):
    """Catches: a data set that counts as complete without the shards that lie elsewhere."""
    parts = in_parts(store, whole)
    parts.require_there(store)
    (tmp_path / "root" / whole.manifest.folder / "test-000000.tar").unlink()
    with pytest.raises(DamagedError, match=r"test-000000\.tar is missing"):
        parts.require_there(store)


@pytest.mark.parametrize(
    ("places", "reason"),
    [([""], "beyond the 1"), (["../x", ""], "lie in"), (["datasets/a/b", ""], "lie in")],
)
def test_a_table_of_another_hand_is_refused(places, reason, store, whole):
    """Catches: folders outside of the root, and numbers of places that there are not."""
    body = in_parts(store, whole).manifest.body
    folder = f"datasets/other-{whole.fingerprint[:16]}"
    writer = TableWriter(store, folder)
    for split in SPLITS:
        writer.write(split, [replace(one, file=whole.located(one)) for one in whole.shards[split]])
    said = {**body, "shards": {**writer.body(), "places": places}}
    commit(store, folder, writer.files, said, name="index.json")
    with pytest.raises(DataError, match=f"no index of this program.*{reason}"):
        load_index(store, folder)


FILE = Located("datasets/a-0", "train-000000.tar", 10**9, "sha256:" + 64 * "0")


def shard(offsets, sizes, **more):
    return Shard(FILE.name, len(offsets), 7, tuple(offsets), tuple(sizes), file=FILE, **more)


@pytest.mark.parametrize(
    "one",
    [
        shard([], []),
        shard([512], [0]),
        shard([512, 4096, 10**8], [1, 700, 9 * 10**8]),
        shard([4096, 512], [10, 3]),  # not in the order of the file
        shard([512, 2048], [9, 9], labels=(65535, 0)),
        shard([512, 2048], [9, 9], beside={"caption": ((100, 5), (10**6, 0))}),
    ],
)
def test_a_part_is_read_as_it_was_written(one):
    """Catches: widths, bases and gaps that lose a number."""
    assert shard_of(part_of(one), FILE.name, one.num_images, 7, FILE) == one


def test_a_part_takes_few_bytes_for_an_image():
    """Catches: a part of 16 bytes an image, or of JSON: 10^9 images in tens of GB."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(5_000, 60_000, 1000)
    offsets = np.cumsum([512, *(512 * 5 + -(-sizes // 512) * 512)])[:-1]
    assert len(part_of(shard(offsets.tolist(), sizes.tolist()))) < 6 * 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part[:-1],
        lambda part: part + b"x",
        lambda part: part.replace(b'"num_images":2', b'"num_images":3'),
        lambda part: part.replace(b'["gap",', b'["gap",9'),  # a base far beyond the file
        lambda part: part.replace(b'"size"', b'"sizf"'),
    ],
)
def test_a_part_of_another_hand_is_refused(change):
    """Catches: images outside of their file, and arrays of another length."""
    part = part_of(shard([512, 2048], [9, 700]))
    with pytest.raises((KeyError, TypeError, ValueError)):
        shard_of(change(part), FILE.name, 2, 7, replace(FILE, size=10**4))


def test_many_shards_have_several_files_of_parts(store, monkeypatch):
    """Catches: parts looked for at their place in another file of parts."""
    monkeypatch.setattr("ddpm_core.shards.table._PART_IMAGES", 4)
    index = load_index(store, shard_dataset(store, data_config(), splits()).folder)
    parts = in_parts(store, index)
    names = [name for name in store.names(parts.manifest.folder) if "parts" in name]
    assert len(names) > 3
    assert [replace(one, file=None) for one in parts.shards["train"]] == list(index.shards["train"])
