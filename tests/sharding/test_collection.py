"""A collection of image files to a data set: the same bytes by whomever, and nothing bad in it."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.recipes import recipe
from ddpm_core.runs import results
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards import shard
from ddpm_core.shards.index import load_index
from ddpm_core.shards.tar import members
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import open_store
from tests.images.image_files import files, image_file, pixels, write_folder, write_zip
from tests.sampling.tiny import in_process
from tests.sharding.small import files_below

__all__ = ["in_process"]


def config_of(source, **changes):
    """The recipe `images`, four small images to a shard, which are those of `files`."""
    values = {
        "data.source": str(source),
        "data.height": 8,
        "data.width": 8,
        "data.images_per_shard": 4,
        "model.attention_resolutions": [4],
        "evaluate.num_likelihood_images": 2,
        "compute.num_workers": 2,
    }
    changed = {f"data.{key}": value for key, value in changes.items()}
    return recipe("images").replaced(values | changed)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def store(root):
    return open_store(str(root))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos", files())


def datasets_below(root):
    """Return the files of all data sets; what their names keep says where the images came from."""
    return {
        name: data
        for name, data in files_below(root).items()
        if name.startswith("datasets/") and not name.startswith("datasets/names/")
    }


def images_in(store, index, split):
    """[(key, pixels, label, what is said of it)] of a split, by other readers than ours."""
    found = []
    for one in index.shards[split]:
        tar = index.manifest.read(store, one.role)
        parts = [(m.name, tar[m.offset : m.offset + m.size]) for m in members(tar, origin="it")]
        for (name, image), (_, label), (_, about) in zip(*[iter(parts)] * 3, strict=True):
            with Image.open(io.BytesIO(image)) as opened:
                found.append((name, np.asarray(opened), int(label), json.loads(about)))
    return found


def test_a_folder_becomes_shards_with_its_pixels_classes_and_names(store, folder, in_process):
    """Catches images of other names, splits that are mixed, and labels by order of appearance."""
    index = load_index(store, run_shard(store, config_of(folder)))
    assert index.label.names == ("cat", "dog")
    assert index.num_images == {"train": 9, "test": 5}
    assert index.label.counts == {"train": (4, 5), "test": (2, 3)}
    assert index.rejected == ()
    for split, seed in (("train", 0), ("test", 100)):
        found = images_in(store, index, split)
        assert [about["source"] for *_, about in found] == sorted(
            name for name in files() if name.startswith(split)
        )
        for number, (name, image, label, about) in enumerate(found):
            source = int(about["source"][-7:-4])
            np.testing.assert_array_equal(image, pixels(seed + source))
            assert name == f"{split}-{number:08d}.png"
            assert about["class"] == index.label.names[label] == about["source"].split("/")[1]


@pytest.mark.parametrize("reverse", [False, True])
def test_where_the_files_lie_and_who_works_first_changes_no_byte(
    reverse, tmp_path, folder, in_process
):
    """Catches a data set that knows its place, its workers, or the order of a disk."""
    run_shard(open_store(str(tmp_path / "a")), config_of(folder))
    in_process.reverse = reverse
    shuffled = dict(reversed(files().items()))
    zipped = write_zip(tmp_path / "photos.zip", shuffled)
    run_shard(open_store(str(tmp_path / "b")), config_of(zipped))
    assert datasets_below(tmp_path / "a") == datasets_below(tmp_path / "b")


def test_another_image_is_another_data_set(tmp_path, store, folder, in_process):
    """Catches a fingerprint of names and sizes, under which changed pixels are never noticed."""
    before = run_shard(store, config_of(folder))
    path = folder / "train/cat/001.png"
    other = bytearray(path.read_bytes())
    with Image.open(io.BytesIO(other)) as image:
        changed = np.array(image)
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(path)
    after = run_shard(store, config_of(folder).replaced({"name": "other"}))
    assert before != after


def test_killed_after_any_shard_it_goes_on_and_makes_no_shard_twice(
    tmp_path, folder, in_process, monkeypatch
):
    """Catches a sharding that begins anew, or ends with other bytes, after a kill."""
    whole = open_store(str(tmp_path / "whole"))
    run_shard(whole, config_of(folder))

    class Killed(BaseException):
        pass

    for survived in range(5):
        root = tmp_path / str(survived)
        store, made = open_store(str(root)), []

        def dying(*arguments, made=made, survived=survived, **words):
            if len(made) == survived:
                raise Killed
            made.append(arguments[2:4])
            return shard.make_shard(*arguments, **words)

        with monkeypatch.context() as patch:
            patch.setattr("ddpm_core.sharding.collection_worker.make_shard", dying)
            with pytest.raises(Killed):
                run_shard(store, config_of(folder))
        assert not any(name.endswith("index.json") for name in files_below(root))

        def counting(*arguments, made=made, **words):
            made.append(arguments[2:4])
            return shard.make_shard(*arguments, **words)

        with monkeypatch.context() as patch:
            patch.setattr("ddpm_core.sharding.collection_worker.make_shard", counting)
            run_shard(store, config_of(folder))
        assert sorted(made) == [("test", 0), ("test", 1), ("train", 0), ("train", 1), ("train", 2)]
        assert datasets_below(root) == datasets_below(tmp_path / "whole")


def test_a_shard_that_was_damaged_meanwhile_is_made_again(store, root, folder, in_process):
    """Catches a resumption that trusts what its notes say of a shard without reading it."""
    made = run_shard(store, config_of(folder))
    good = datasets_below(root)
    path = root / made / "train-000001.tar"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    (root / made / "index.json").unlink()
    run_shard(store, config_of(folder))
    assert datasets_below(root) == good


BAD = {
    "train/cat/empty.png": b"",
    "train/dog/text.png": b"this is no image, but says it is",
    "test/dog/cut.png": image_file(1)[:-30],
}


def test_bad_files_end_in_one_error_that_lists_them(store, root, folder, in_process):
    """Catches a stage that stops at the first, or that publishes the rest."""
    write_folder(folder, dict.fromkeys([f"train/cat/e{n:02d}.png" for n in range(12)], b""))
    with pytest.raises(DataError) as caught:
        run_shard(store, config_of(folder))
    message = str(caught.value)
    assert "12 of the 26 images of" in message
    assert message.count("\n  ") == 11
    assert "train/cat/e00.png" in message
    assert "and 2 more" in message
    assert "data.max_bad_share=0.01 allows 0 of them" in message
    assert "raise it to 0.47" in message
    assert not {name.partition("/")[0] for name in files_below(root)} - {"making", "ledgers"}
    with pytest.raises(DataError, match=r"and 2 more\n.*data\.on_bad=skip"):
        run_shard(store, config_of(folder, on_bad="fail"))


def test_files_that_decode_badly_are_found_before_anything_is_published(
    store, root, folder, in_process
):
    """Catches a look at the first bytes only."""
    write_folder(folder, {"test/dog/cut.png": BAD["test/dog/cut.png"]})
    with pytest.raises(
        DataError, match=r"1 of the 15 images of .*\n.*test/dog/cut\.png.*\n.*raise it"
    ):
        run_shard(store, config_of(folder))
    assert not any(name.endswith(("index.json", "dataset.json")) for name in files_below(root))


def test_bad_files_are_left_out_up_to_a_share_and_written_down(store, folder, in_process):
    """Catches bad files that vanish without a trace, and a data set of what little was good."""
    write_folder(folder, BAD)
    with pytest.raises(DataError, match=r"max_bad_share=0\.1 allows 1 of them.* raise it to 0\.12"):
        run_shard(store, config_of(folder, on_bad="skip", max_bad_share=0.1))
    index = load_index(store, run_shard(store, config_of(folder, on_bad="skip", max_bad_share=0.3)))
    assert {one.key for one in index.rejected} == set(BAD)
    assert all(one.reason for one in index.rejected)
    assert index.num_images == {"train": 9, "test": 5}
    names = [name for name, *_ in images_in(store, index, "train")]
    # Within a shard without a gap, and each shard begins where it would without bad files.
    assert names[:3] == [f"train-{number:08d}.png" for number in (0, 1, 2)]
    assert len(set(names)) == 9
    for one in index.shards["train"]:
        assert one.first_number % 4 == 0
    sources = [about["source"] for *_, about in images_in(store, index, "train")]
    assert sources == sorted(name for name in files() if name.startswith("train"))


def test_a_run_that_found_bad_files_may_skip_them(store, folder, in_process):
    """Catches a second start that is refused since the first one left half a data set."""
    write_folder(folder, {"test/dog/cut.png": BAD["test/dog/cut.png"]})
    with pytest.raises(DataError):
        run_shard(store, config_of(folder))
    index = load_index(store, run_shard(store, config_of(folder, on_bad="skip", max_bad_share=0.3)))
    assert [one.key for one in index.rejected] == ["test/dog/cut.png"]


def test_what_was_made_with_bad_files_left_out_is_refused_by_a_stricter_run(
    store, folder, in_process
):
    """Catches a training on a data set of which another run let files be left out."""
    write_folder(folder, {"test/dog/cut.png": BAD["test/dog/cut.png"]})
    lenient = config_of(folder, on_bad="skip", max_bad_share=0.3)
    made = run_shard(store, lenient.replaced({"name": "lenient"}))
    with pytest.raises(DataError, match=r"1 of the 15 images of .*\n.*cut\.png"):
        run_shard(store, config_of(folder))
    assert run_shard(store, lenient) == made


def test_a_file_that_its_archive_damaged_is_reported_without_the_place(tmp_path, in_process):
    """Catches an index with the path of one machine in it: elsewhere it would be another."""
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = write_zip(tmp_path / name / "photos.zip", files())
        content = bytearray(path.read_bytes())
        content[content.index(files()["train/dog/002.png"]) + 50] ^= 1
        path.write_bytes(content)
        store = open_store(str(tmp_path / name / "root"))
        config = config_of(path, on_bad="skip", max_bad_share=0.3)
        index = load_index(store, run_shard(store, config))
        assert [one.reason for one in index.rejected] == [
            "is damaged, or has changed since it was listed: its checksum (CRC-32) does not fit"
        ]
        made.append(datasets_below(tmp_path / name / "root"))
    assert made[0] == made[1]


def test_a_data_set_is_mended_although_other_files_lie_beside_the_images_now(
    store, root, folder, in_process
):
    """Catches a conflict about a README that came later, after days of sharding."""
    made = run_shard(store, config_of(folder))
    before = datasets_below(root)
    index = load_index(store, made)
    store.delete(f"{made}/{index.shards['train'][0].name}")
    (folder / "README.md").write_text("new")
    assert run_shard(store, config_of(folder)) == made
    assert datasets_below(root) == before


def test_a_first_shard_without_a_good_image_is_no_end(store, folder, in_process):
    """Catches a sheet of the first images that is made of none, after all shards."""
    first = sorted(name for name in files() if name.startswith("train"))[:4]
    write_folder(folder, dict.fromkeys(first, BAD["test/dog/cut.png"]))
    config = config_of(folder, on_bad="skip", max_bad_share=0.5)
    index = load_index(store, run_shard(store, config))
    assert [shard.num_images for shard in index.shards["train"]] == [0, 4, 1]
    assert index.num_images["train"] == 5


ALONE = """
import json, sys
import numpy as np
from ddpm_core.cluster.pool import _PoolActor
from ddpm_core.config import DataConfig
from ddpm_core.sharding.collection_worker import AheadTask, ScanTask, ShardTask
from ddpm_core.sharding.collection_worker import make_ahead, make_scanner, make_sharder
from ddpm_core.sources.containers.opening import reopen
from ddpm_core.sources.listing import list_images
from ddpm_core.sharding.source import ShardUnit

payload = json.loads(sys.argv[1])
items = list_images(reopen(payload["container"]), num_test_images=1).train[0:4]


def run(make, unit):
    actor = _PoolActor(1)
    actor.begin(make, payload)
    return actor.run(unit)


looked = run(make_scanner, ScanTask("train", np.arange(4), items))
unit = ShardUnit("train", 0, 0, 4)
ahead = run(make_ahead, AheadTask(unit, items, None, True))
assert ahead.scan == looked
work = ShardTask(unit, items, looked.sha256s, looked.problems)
made = run(make_sharder, work)
print(made.shard.num_images, "torch" in sys.modules)
"""


def test_who_makes_shards_does_without_torch(root, folder):
    """Catches the three seconds that torch's import would take each worker, for nothing."""
    payload = {
        "container": {"place": {"kind": "folder", "path": str(folder)}, "source": None},
        "data": config_of(folder).data.model_dump_json(),
        "classes": ["cat", "dog"],
        "store": str(root),
        "folder": "datasets/x",
        "making": "making/x",
    }
    words = [sys.executable, "-c", ALONE, json.dumps(payload)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "4 False\n", done.stderr


def test_files_that_change_under_the_work_are_noticed(store, root, folder, in_process, monkeypatch):
    """Catches a data set whose digest is that of other images than it holds."""
    make = in_process.map_units

    def changing(make_worker, payload, units, compute, *, on_done):
        if "folder" in payload:
            (folder / "train/cat/001.png").write_bytes(image_file(77))
        make(make_worker, payload, units, compute, on_done=on_done)

    monkeypatch.setattr("ddpm_core.cluster.map_units", changing)
    with pytest.raises(DataError, match=r"train/cat/001\.png.*has changed"):
        run_shard(store, config_of(folder))
    assert results.dataset_pointer(store, "images") is None


def test_originals_are_kept_where_they_have_the_size_and_only_there(store, tmp_path, in_process):
    """Catches files that are compressed twice, and files of another size that stay as they are."""
    content = files()
    content["train/cat/a.jpg"] = image_file(50, "JPEG")
    content["train/cat/b.jpg"] = image_file(51, "JPEG", height=16, width=16)
    folder = write_folder(tmp_path / "photos", content)
    index = load_index(store, run_shard(store, config_of(folder, encoding="original")))
    assert index.image.file_bytes is None
    tars = {one.role: index.manifest.read(store, one.role) for one in index.shards["train"]}
    kept = {}
    for role, tar in tars.items():
        parts = [(m.name, tar[m.offset : m.offset + m.size]) for m in members(tar, origin=role)]
        for (name, image), _, (_, about) in zip(*[iter(parts)] * 3, strict=True):
            kept[json.loads(about)["source"]] = (name.rpartition(".")[2], image)
    assert kept["train/cat/a.jpg"] == ("jpg", content["train/cat/a.jpg"])
    assert kept["train/cat/b.jpg"][0] == "png"
    assert kept["train/dog/000.png"] == ("png", content["train/dog/000.png"])
    for one in index.shards["train"]:
        tar = tars[one.role]
        for offset, size in zip(one.offsets, one.sizes, strict=True):
            assert tar[offset : offset + size] in {image for _, image in kept.values()}


@pytest.mark.parametrize("change", [{"grey": True}, {"crop": "none"}, {"background": [0, 0, 0]}])
def test_what_becomes_of_the_images_is_part_of_the_data_set(change, store, folder, in_process):
    """Catches two treatments of the same files that share one folder."""
    assert run_shard(store, config_of(folder)) != run_shard(
        store, config_of(folder, **change).replaced({"name": "other"})
    )
    with pytest.raises(DamagedError, match="is not the one of this run"):
        results.dataset_of(store, config_of(folder, **change))


def test_small_originals_are_left_out_by_their_size_and_are_no_bad_files(
    tmp_path, store, in_process
):
    """Sides as they came, before anything is cut or resized; with on_bad=fail none is an error.
    Catches: a rule by area, one that counts them as bad, and one that is in no fingerprint."""
    content = {f"{n}.png": image_file(n, height=8 + n, width=20 - n) for n in range(8)}
    folder = write_folder(tmp_path / "photos", content)
    changes = {"num_test_images": 1, "on_bad": "fail"}
    config = config_of(folder, min_side=12, **changes)
    index = load_index(store, run_shard(store, config))
    assert [unit.is_wanted for unit in in_process.units] == [True] * 3  # nor while they are made
    kept = [n for n in range(8) if min(8 + n, 20 - n) >= 12]
    sources = [
        about["source"] for s in ("train", "test") for *_, about in images_in(store, index, s)
    ]
    assert sorted(sources) == [f"{n}.png" for n in kept]
    assert {one.reason for one in index.rejected} == {
        f"it is smaller than data.min_side=12: it has {8 + n}x{20 - n} pixels"
        for n in range(8)
        if n not in kept
    }
    whole = config_of(folder, **changes).replaced({"name": "whole"})
    assert load_index(store, run_shard(store, whole)).fingerprint != index.fingerprint
    with pytest.raises(ConfigError, match=r"min_side=12 is a setting of collections"):
        recipe("digits").replaced({"data.min_side": 12})
