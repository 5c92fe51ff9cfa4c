import gc
import io
import json
import tarfile
import weakref
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddpm_core.canonical import canonical_json
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.runs import layout
from ddpm_core.sharding.bundle import Bundle
from ddpm_core.sharding.dataset import make_dataset
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import Shard, dataset_fingerprint, load_index, shard_entry
from ddpm_core.sources.containers.container import MAX_ENTRIES
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit
from ddpm_core.store.storage import open_store, sha256_of
from tests.sharding.small import data_config, files_below, shard_dataset, splits


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def test_a_shard_holds_png_cls_and_json_of_each_image_in_order(store):
    """Catches keys that sort wrongly, labels of other images, and members out of order."""
    images = splits(shape=(8, 8, 1))
    index = shard_dataset(store, data_config(), images)
    assert {record.name for record in index.files.values()} == {
        *(f"train-{number:06d}.tar" for number in range(3)),
        *(f"test-{number:06d}.tar" for number in range(2)),
        "train-first.png",
    }
    with tarfile.open(fileobj=io.BytesIO(index.read(store, "train-000002"))) as tar:
        assert tar.getnames() == [
            f"train-{number:08d}.{extension}"
            for number in (8, 9)
            for extension in ("png", "cls", "json")
        ]
        about = json.loads(tar.extractfile("train-00000009.json").read())
        label = tar.extractfile("train-00000009.cls").read()
        assert label == str(images.train.labels[9]).encode()
        assert about == {
            "class": str(images.train.labels[9]),
            "index": 9,
            "label": int(images.train.labels[9]),
            "split": "train",
        }
        with Image.open(tar.extractfile("train-00000009.png")) as image:
            np.testing.assert_array_equal(np.asarray(image), images.train.images_u8[9, :, :, 0])
        assert {info.mtime for info in tar} == {0}
        assert {(info.uname, info.gname, info.uid, info.gid) for info in tar} == {
            ("ddpm", "ddpm", 0, 0)
        }


def test_the_index_finds_every_image_without_the_tar(store):
    """Catches offsets of headers instead of contents, and offsets that forget the padding."""
    images = splits(shape=(8, 8, 1))
    index = load_index(store, shard_dataset(store, data_config(), images).folder)
    for split, raw in (("train", images.train), ("test", images.test)):
        number = 0
        for shard in index.shards[split]:
            tar = index.manifest.read(store, shard.role)
            assert set(shard.sizes) == {index.image.file_bytes}
            for offset, size in zip(shard.offsets, shard.sizes, strict=True):
                content = io.BytesIO(tar[offset : offset + size])
                with Image.open(content) as image:
                    got = np.asarray(image)
                np.testing.assert_array_equal(got, raw.images_u8[number, :, :, 0])
                number += 1
        assert number == len(raw) == index.num_images[split]


def test_the_index_says_mean_spread_and_shape_of_the_training_images(store):
    """Catches statistics over all images, over channels together, or in 0..1."""
    images = splits(num_train=601, shape=(32, 32, 3))
    config = data_config(name="cifar10", height=32, width=32, images_per_shard=300)
    index = load_index(store, shard_dataset(store, config, images).folder)
    pixels = images.train.images_u8.astype(np.float64)
    np.testing.assert_allclose(index.image.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(index.image.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert index.shape == (3, 32, 32)
    assert index.label.names == images.classes
    for split, raw in (("train", images.train), ("test", images.test)):
        counts = np.bincount(raw.labels, minlength=10)
        np.testing.assert_array_equal(index.label.counts[split], counts)
    with Image.open(io.BytesIO(index.manifest.read(store, "train-first"))) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (256, 256, 3)
    np.testing.assert_array_equal(sheet[32:64, 64:96], images.train.images_u8[10])


def test_the_same_images_make_the_same_bytes(tmp_path):
    """Catches time stamps, the user's name, and an order of threads."""
    made = []
    for number, num_workers in enumerate((1, 1, 3)):
        store = open_store(str(tmp_path / str(number)))
        shard_dataset(store, data_config(), splits(), num_workers=num_workers)
        made.append(files_below(tmp_path / str(number)))
    assert len(made[0]) == 12
    assert made[0] == made[1] == made[2]


def test_a_data_set_is_these_bytes_for_ever(store):
    """Catches any change of the format without a new FORMAT_VERSION, on any machine."""
    index = shard_dataset(store, data_config(), splits())
    data = store.read(f"{index.folder}/train-000000.tar")
    assert sha256_of(data) == "8941c3e677e9233d647669b2f77e4ee36c8995fbb5b546bf5c6c1f251ef1ce15"
    assert index.folder == "datasets/digits-c369b14da2fdf9c4"


def test_the_fingerprint_sees_what_changes_the_bytes_and_nothing_else():
    """Catches a fingerprint of places, or one that misses a knob."""
    base = dataset_fingerprint(data_config(), "0" * 64)
    mnist = {"name": "mnist", "height": 28, "width": 28}
    here, elsewhere = data_config(**mnist), data_config(**mnist, source="/elsewhere")
    assert dataset_fingerprint(here, "0" * 64) == dataset_fingerprint(elsewhere, "0" * 64)
    others = {
        base,
        dataset_fingerprint(data_config(), "1" * 64),
        dataset_fingerprint(data_config(images_per_shard=5), "0" * 64),
        dataset_fingerprint(data_config(height=16), "0" * 64),
        dataset_fingerprint(data_config(num_test_images=7), "0" * 64),
    }
    assert len(others) == 5


@pytest.mark.parametrize("num_workers", [1, 3])
def test_killed_at_any_write_it_leaves_no_index_and_the_next_call_completes(
    num_workers, tmp_path, monkeypatch
):
    """Catches an index committed early, and a failure of a thread that nobody hears of."""
    reference = open_store(str(tmp_path / "reference"))
    folder = shard_dataset(reference, data_config(), splits()).folder

    class Killed(BaseException):
        pass

    for fatal in range(6):
        root = tmp_path / str(fatal)
        store, writes = open_store(str(root)), []
        write = store.write

        def dying(key, data, *, sha256=None, write=write, writes=writes, fatal=fatal):
            writes.append(key)
            if len(writes) > fatal:
                raise Killed
            write(key, data, sha256=sha256)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write", dying)
            with pytest.raises(Killed):
                shard_dataset(store, data_config(), splits(), num_workers=num_workers)
        assert not store.exists(f"{folder}/{layout.DATASET_INDEX}")
        shard_dataset(store, data_config(), splits())
        assert files_below(root) == files_below(tmp_path / "reference")


def test_progress_counts_images_up_to_all(store):
    """Catches a count of shards, and an end that is never shown."""
    seen = []
    shard_dataset(
        store,
        data_config(),
        splits(),
        num_workers=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (0, 16)
    assert seen[-1] == (16, 16)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_load_index_says_what_is_wrong(store, tmp_path):
    """Catches a KeyError from a foreign index, and a missing one read as empty."""
    with pytest.raises(DataError, match=r"no data set at .*run the shard stage first"):
        load_index(store, "datasets/none-0")
    folder = shard_dataset(store, data_config(), splits()).folder
    path = tmp_path / "root" / folder / "index.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"64", b"65", 1))
    with pytest.raises(DataError, match=r"index\.json is damaged.*shard stage"):
        load_index(store, folder)


def test_an_index_of_another_format_is_refused(store, monkeypatch):
    """Catches reading the future as if it were today."""
    monkeypatch.setattr("ddpm_core.sharding.dataset.FORMAT_VERSION", 5)
    folder = shard_dataset(store, data_config(), splits()).folder
    monkeypatch.undo()
    with pytest.raises(DataError, match="has format 5, this program reads up to 4"):
        load_index(store, folder)


def without(body, *keys):
    """Return a body that lacks what the keys lead to."""
    first, *rest = keys
    if rest:
        return body | {first: without(body[first], *rest)}
    return {key: value for key, value in body.items() if key != first}


@pytest.mark.parametrize(
    "keys",
    [
        ("num_images",),
        ("shards",),
        ("rejected",),
        ("members",),
        ("members", "image"),
        ("members", "label"),
        *(("members", "image", key) for key in ("kind", "dtype", "shape", "mean", "file_bytes")),
        *(("members", "label", key) for key in ("kind", "names", "counts")),
    ],
)
def test_an_index_of_another_hand_is_refused(keys, store):
    """Catches a KeyError or TypeError that no command line knows."""
    body = shard_dataset(store, data_config(), splits()).body
    folder = f"datasets/foreign-{body['fingerprint'][:16]}"
    commit(store, folder, {}, without(body, *keys), name="index.json")
    with pytest.raises(DataError, match=r"index\.json is committed, but no index.*shard stage"):
        load_index(store, folder)


FOREIGN = {
    "images beyond numbers": ("num_images", {"train": 10**30, "test": 6}),
    "images as text": ("num_images", {"train": "10", "test": 6}),
    "no test images": ("num_images", {"train": 10}),
    "no test shards": ("shards.test", None),
    "a shard of three billion": ("shards.train.0.num_images", 3 * 10**9),
    "a first number as text": ("shards.train.0.first_number", "x"),
    "a shard without a name": ("shards.train.0.name", 5),
    "a shard that is no file": ("shards.train.0.name", "train-000009.tar"),
    "a shard's images as text": ("shards.train.0.num_images", "3"),
    "an offset outside": ("shards.train.0.offsets.0", 10**30),
    "an offset before": ("shards.train.0.offsets.0", -512),
    "two channels": ("members.image.shape.0.1", 2),
    "a side beyond memory": ("members.image.shape.1.1", 10**6),
    "both sides": ("members.image.shape", [["channels", 1], ["height", 10**6], ["width", 10**6]]),
    "a side below zero": ("members.image.shape.1.1", -8),
    "no height": ("members.image.shape.1.1", 0),
    "files of another length": ("members.image.file_bytes", 1),
    "means of other channels": ("members.image.mean", []),
    "no counts": ("members.label.counts", {}),
    "counts of other classes": ("members.label.counts.test", [6]),
    "a class without a name": ("members.label.names.3", 3),
}


@pytest.fixture(scope="module")
def small_index(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("small")))
    return shard_dataset(store, data_config(), splits())


@pytest.mark.parametrize(("path", "value"), FOREIGN.values(), ids=FOREIGN)
def test_an_index_of_absurd_numbers_is_refused(path, value, store, small_index):
    """Catches: an OverflowError, a KeyError or a MemoryError, here or in a later stage."""
    body = json.loads(json.dumps(small_index.body))
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inner = body
    for key in keys:
        inner = inner[key]
    inner[last] = value
    folder = f"datasets/foreign-{body['fingerprint'][:16]}"
    commit(store, folder, small_index.files, body, name="index.json")
    with pytest.raises(DataError, match=r"index\.json is committed, but no index.*shard stage"):
        load_index(store, folder)


LATER = {
    "a kind": {"caption": {"kind": "tokens", "dtype": "utf-8", "shape": []}},
    "a data type": {"image": {"dtype": "float32"}},
    "axes": {"image": {"shape": [["frames", 4], ["height", 8], ["width", 8]]}},
}


@pytest.mark.parametrize("change", LATER.values(), ids=LATER)
def test_a_member_of_a_later_version_is_refused(change, store):
    """Catches numbers read as pixels, frames as channels, files that are passed over."""
    body = shard_dataset(store, data_config(), splits()).body
    members = body["members"]
    changed = {name: {**members.get(name, {}), **entry} for name, entry in change.items()}
    folder = f"datasets/later-{body['fingerprint'][:16]}"
    commit(store, folder, {}, body | {"members": members | changed}, name="index.json")
    with pytest.raises(DataError, match=r"no index of this program: .*a later version"):
        load_index(store, folder)


def put_in_format_2(store, found):
    """Write the index of a data set as versions before this one did."""
    image, label = found.body["members"]["image"], found.body["members"]["label"]
    before = {
        **without(found.body, "members"),
        "format_version": 2,
        "shape": [size for _, size in image["shape"]],
        "classes": label["names"],
        "class_counts": label["counts"],
        **{key: image[key] for key in ("mean", "std")},
        "png_bytes": image["file_bytes"],
    }
    store.delete(f"{found.folder}/index.json")
    return commit(store, found.folder, found.files, before, name="index.json")


def test_an_index_of_format_2_says_the_same(store):
    """Catches: a data set of before that is refused, is another one, or is made again; counts of
    the classes for those of the splits."""
    found = shard_dataset(store, data_config(), splits())
    now = load_index(store, found.folder)
    put_in_format_2(store, found)
    then = load_index(store, found.folder, now.fingerprint)
    assert replace(then, manifest=now.manifest) == now


def test_a_lost_shard_of_format_2_is_made_again(store):
    """Catches: the words of an index compared where its meaning is; an index of another meaning
    that is taken for the same."""
    images = splits()
    found = put_in_format_2(store, shard_dataset(store, data_config(), images))
    store.delete(f"{found.folder}/train-000001.tar")
    assert shard_dataset(store, data_config(), images).body == found.body
    assert store.exists(f"{found.folder}/train-000001.tar")
    store.delete(f"{found.folder}/index.json")
    other = dict(found.body) | {"mean": [0.0]}
    commit(store, found.folder, found.files, other, name="index.json")
    with pytest.raises(RunConflictError):
        shard_dataset(store, data_config(), images)


def test_histograms_are_not_held(store, monkeypatch):
    """Catches: half a MiB in the driver for each shard of 16 bits, until the last is made."""
    held = []

    class Watched(Bundle):
        def make_shards(self, *given, on_done):
            def done(unit, shard):
                held.append(weakref.ref(shard.histogram))
                on_done(unit, shard)

            super().make_shards(*given, on_done=done)
            gc.collect()
            held[:] = [one for one in held if one() is not None]

    source, config = Watched(splits(num_train=40)), data_config()
    make_dataset(store, config, source, ComputeConfig(), images_sha256=source.digest())
    assert len(held) <= 1


# -- other people's readers ------------------------------------------------------------------


def by_key(samples):
    return {
        sample["__key__"]: (np.asarray(sample["png"]).tolist(), int(sample["cls"]), sample["json"])
        for sample in samples
    }


def wanted(images):
    return {
        f"{raw.name}-{number:08d}": (
            raw.images_u8[number].tolist(),
            int(raw.labels[number]),
            {
                "class": images.classes[raw.labels[number]],
                "index": number,
                "label": int(raw.labels[number]),
                "split": raw.name,
            },
        )
        for raw in (images.train, images.test)
        for number in range(len(raw))
    }


@pytest.fixture
def colour_shards(store):
    """(paths, images) of a data set with three channels."""
    images = splits(shape=(32, 32, 3))
    config = data_config(name="cifar10", height=32, width=32)
    index = shard_dataset(store, config, images)
    paths = [
        str(store.local_path(f"{index.folder}/{record.name}"))
        for split in ("train", "test")
        for record in sorted(index.files.values(), key=lambda record: record.name)
        if record.name.startswith(split) and record.name.endswith(".tar")
    ]
    return paths, images


# It leaves its last file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_same_samples(colour_shards):
    """Catches shards that only our reader understands."""
    import webdataset

    paths, images = colour_shards
    pipeline = webdataset.WebDataset(
        paths, shardshuffle=False, nodesplitter=webdataset.split_by_node
    ).decode("rgb8")
    samples = list(pipeline)
    del pipeline
    gc.collect()
    assert [sample["__key__"] for sample in samples] == list(wanted(images))
    assert by_key(samples) == wanted(images)


def test_the_index_of_as_many_images_as_are_listed_is_not_too_long():
    """Catches days of sharding that end in an index which nobody may read: 3 million bedrooms."""
    count = 1000
    sizes = [20_000 + number for number in range(count)]
    offsets = [10**8 + 10**5 * number for number in range(count)]
    full = Shard("train-000000.tar", count, 0, tuple(offsets), tuple(sizes))
    num_bytes = len(canonical_json(shard_entry(full, None))) / count
    assert num_bytes * MAX_ENTRIES < manifest.MAX_MANIFEST_BYTES


def test_a_data_set_of_very_many_images_has_an_index_in_parts(store, monkeypatch):
    """Catches: an end at 30 million images; another data set, or other shards, beyond a number."""
    whole = load_index(store, shard_dataset(store, data_config(), splits()).folder)
    monkeypatch.setattr("ddpm_core.sharding.dataset.MAX_WHOLE", 15)
    store.delete(f"{whole.manifest.folder}/index.json")
    parts = load_index(store, shard_dataset(store, data_config(), splits()).folder)
    assert parts.is_in_parts
    assert parts.fingerprint == whole.fingerprint
    for split in ("train", "test"):
        assert [replace(one, file=None) for one in parts.shards[split]] == list(whole.shards[split])
    assert problems_of(store, parts) == []
    parts.require_there(store)
    store.delete(f"{whole.manifest.folder}/train-000001.tar")
    assert "train-000001.tar is missing" in problems_of(store, parts)[0]
