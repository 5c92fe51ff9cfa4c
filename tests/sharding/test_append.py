"""A named data set that grows: what was there stays, and its name moves last."""

import json
import time
from contextlib import closing

import pytest

from ddpm_core.composing import compose
from ddpm_core.datasets.deletion import delete_dataset
from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.loading.loader import load_split
from ddpm_core.preflight import preflight
from ddpm_core.runs import grown_data, layout, results
from ddpm_core.runs.dataset_names import NamedSet, enter, lineage
from ddpm_core.runs.deletion import delete_run
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.run import check_run, configure
from ddpm_core.sharding import of_source
from ddpm_core.sharding.collection_worker import CompareTask
from ddpm_core.sharding.stage import run_shard
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import load_index
from ddpm_core.shards.lineage import made_of
from ddpm_core.sources import ledger
from ddpm_core.sources.containers import marks
from ddpm_core.store.storage import open_store
from tests.images.image_files import image_file, write_folder, write_zip
from tests.own_cache import cache_folder
from tests.sampling.tiny import in_process
from tests.sharding.small import files_below

__all__ = ["cache_folder", "in_process"]

KEYS = {
    "data.height": 8,
    "data.width": 8,
    "data.images_per_shard": 4,
    "data.num_test_images": 2,
    "model.attention_resolutions": [4],
    "evaluate.num_likelihood_images": 2,
    "compute.num_workers": 1,
}


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "a root"))


@pytest.fixture
def photos(tmp_path):
    return write_folder(tmp_path / "my photos", images("cat", range(6)) | images("owl", range(4)))


@pytest.fixture
def faces(store, photos, in_process):
    """The data set before it grows."""
    keys = {**KEYS, "data.source": str(photos), "data.set_name": "faces"}
    run_shard(store, configure("images", root=store.uri, run="first", changes=keys)[1])
    return lineage(store, "faces")[0]


def images(label, numbers, *, seed=0):
    """Files of a class; another seed is another picture under the same name."""
    first = 1000 * seed + sum(map(ord, label))
    return {f"{label}/{one:03d}.png": image_file(first + one) for one in numbers}


def appending(store, source, run, **changes):
    keys = {"data.append_to": "faces", "data.source": str(source), "compute.num_workers": 1}
    own = {key: KEYS[key] for key in KEYS if not key.startswith("data.")}
    return configure("images", root=store.uri, run=run, changes={**own, **keys, **changes})[1]


def index_of(store, pointer):
    return load_index(store, pointer.folder, pointer.fingerprint)


def sources_in(store, index):
    """The names at the source of the images of both splits, as other readers see the shards."""
    found = []
    for split in ("train", "test"):
        for number in range(len(index.counts(split))):
            shard, file = index.shards[split][number], index.located_at(split, number)
            tar = file.read(store)
            for offset in shard.offsets:
                about = tar[offset:].partition(b'{"class"')[2].partition(b"}")[0]
                found.append(json.loads(b'{"class"' + about + b"}")["source"])
    return sorted(found)


def test_a_folder_that_grew_adds_what_is_new_and_copies_nothing(store, photos, faces, tmp_path):
    """Catches: shards that are made again; labels that shift by a new class; an older data set
    that is touched; and a name that means the older one still."""
    root = tmp_path / "a root"
    before = files_below(root)
    write_folder(photos, images("bee", range(3)) | images("cat", range(6, 11)))
    config = appending(store, photos, "more")
    run_shard(store, config)
    old, new = lineage(store, "faces")
    assert old == faces
    index = index_of(store, new.pointer)
    assert index.label.names == ("cat", "owl", "bee")
    assert sum(index.num_images.values()) == 18
    assert len(set(sources_in(store, index))) == 18
    assert problems_of(store, index) == []
    assert made_of(index.manifest)[0].fingerprint == old.pointer.fingerprint
    after = files_below(root)
    assert {name: after[name] for name in before} == before
    made = {name for name in after.keys() - before.keys() if name.endswith(".tar")}
    assert sum(after[name].count(b'"source"') for name in made) == 8
    assert results.dataset_pointer(store, "more") == new.pointer
    assert problems_of(store, index_of(store, old.pointer)) == []


def test_another_source_adds_what_it_has_of_other_content(store, faces, tmp_path):
    """Equal names are other images there; catches: an image that is left out for its name alone,
    and one that is added twice since another folder calls it otherwise."""
    same = images("cat", range(6)) | images("owl", range(4))
    same = {name.replace("/", "/other-"): content for name, content in same.items()}
    new = images("cat", range(3), seed=9) | images("owl", range(1), seed=9)
    other = write_folder(tmp_path / "other", new | same)
    run_shard(store, appending(store, other, "more", **{"data.on_bad": "fail"}))
    index = index_of(store, lineage(store, "faces")[-1].pointer)
    assert sum(index.num_images.values()) == 14
    assert sum(one["duplicates"] for one in index.manifest.body["left_out"].values()) == 10
    with closing(load_split(store, index, "train")) as train:
        assert len(train) == index.num_images["train"]


def test_nothing_new_leaves_the_data_set_as_it_is(store, photos, faces, tmp_path):
    """Of the same place, and of a copy elsewhere, which is the same data set."""
    run_shard(store, appending(store, photos, "again"))
    photos.rename(tmp_path / "moved")
    run_shard(store, appending(store, tmp_path / "moved", "and-again"))
    assert lineage(store, "faces") == [faces]
    assert results.dataset_pointer(store, "again") == faces.pointer


def test_files_that_were_left_out_before_are_no_news(store, tmp_path, in_process):
    """Catches: known bad files, counted against the few new ones, that end every append; images too
    small that are all that is new; and one that was mended and stays out."""
    small = {f"cat/small-{one}.png": image_file(900 + one, height=4, width=4) for one in range(6)}
    bad = {"cat/bad.png": b"bad", "cat/cut.png": b"cut"}
    photos = write_folder(tmp_path / "photos", images("cat", range(20)) | small | bad)
    few = {"data.max_bad_share": 0.1}
    own = {"data.source": str(photos), "data.set_name": "faces", "data.min_side": 8}
    keys = {**KEYS, **few, **own, "data.num_test_images": 14}
    run_shard(store, configure("images", root=store.uri, run="first", changes=keys)[1])
    run_shard(store, appending(store, photos, "nothing", **few))
    assert len(lineage(store, "faces")) == 1
    write_folder(photos, images("cat", range(20, 24)) | {"cat/cut.png": image_file(7)})
    for run in ("more", "nothing more"):
        run_shard(store, appending(store, photos, run.replace(" ", "-"), **few))
        grown = index_of(store, lineage(store, "faces")[-1].pointer)
        assert sum(grown.num_images.values()) == 25
    assert len(lineage(store, "faces")) == 2


def test_an_append_keeps_what_the_ledger_knows_and_sees_its_archive_change(
    store, tmp_path, in_process, monkeypatch, capfd
):
    """Catches a ledger that knows the new files alone; files that are read though it knows them;
    and a data set of two states of an archive, since a listing in part has no record."""
    monkeypatch.setattr(marks, "now_ns", lambda: time.time_ns() + 60 * 10**9)
    photos = write_zip(tmp_path / "photos.zip", images("cat", range(6)) | images("owl", range(4)))
    other = write_folder(tmp_path / "photos", images("cat", range(6)))
    for name, source in (("faces", photos), ("flowers", other)):
        keys = {**KEYS, "data.source": str(source), "data.set_name": name}
        config = configure("images", root=store.uri, run=name, changes=keys)[1]
        run_shard(store, config)
    write_folder(other, images("cat", range(6, 8)))
    run_shard(store, appending(store, other, "all", **{"data.append_to": "flowers"}))
    assert len(ledger.load(store, config.data)) == 8
    said = capfd.readouterr().out
    assert "6 files of known names have not changed, and are not read" in said
    assert "nothing shows" not in said
    write_zip(photos, images("cat", range(8)))
    whole = in_process.map_units

    def changing(*arguments, **words):
        whole(*arguments, **words)
        write_zip(photos, images("cat", range(9)))

    monkeypatch.setattr("ddpm_core.cluster.map_units", changing)
    with pytest.raises(DataError, match="has changed while it was read"):
        run_shard(store, appending(store, photos, "more"))
    assert len(lineage(store, "faces")) == 1


def test_a_known_name_with_other_content_is_refused_and_one_that_was_touched_is_no_news(
    store, photos, faces, in_process, monkeypatch, tmp_path
):
    """Catches an image that has changed and is passed over for its name; one that is added beside
    what it was; and files that are read by each append, since a copy gave them another time."""
    monkeypatch.setattr(marks, "now_ns", lambda: time.time_ns() + 60 * 10**9)
    root, true = tmp_path / "a root", (photos / "cat/003.png").read_bytes()
    write_folder(photos, images("cat", range(6, 9)) | {"cat/003.png": image_file(77)})
    before = {name for name in files_below(root) if not name.startswith("ledgers")}
    with pytest.raises(DataError, match=r'1 files of .*have other content .* "cat/003\.png"; an'):
        run_shard(store, appending(store, photos, "more"))
    assert {name for name in files_below(root) if not name.startswith("ledgers")} == before
    (photos / "cat/003.png").write_bytes(b"cut short")
    with pytest.raises(DataError, match=r'have other content .* "cat/003\.png"'):
        run_shard(store, appending(store, photos, "more"))
    (photos / "cat/003.png").write_bytes(true)
    compared = []
    for run in ("more", "again"):
        in_process.units.clear()
        run_shard(store, appending(store, photos, run))
        compared.append(sum(len(one.items) for one in in_process.units if is_compared(one)))
        grown = index_of(store, lineage(store, "faces")[-1].pointer)
        assert sources_in(store, grown) == sorted(images("cat", range(9)) | images("owl", range(4)))
    assert compared == [10, 0]


def is_compared(unit):
    return isinstance(unit, CompareTask)


def test_what_another_data_set_of_the_source_has_by_now_says_nothing_of_this_one(
    store, photos, faces, in_process, monkeypatch
):
    """Catches a changed image that is passed over, since a data set of its own of all, as the
    error says to make, has let the ledger know it; and data.recheck that an append does not hear.
    """
    monkeypatch.setattr(marks, "now_ns", lambda: time.time_ns() + 60 * 10**9)
    true = (photos / "cat/003.png").read_bytes()
    run_shard(store, appending(store, photos, "nothing"))
    write_folder(photos, images("cat", range(6, 9)) | {"cat/003.png": image_file(77)})
    keys = {**KEYS, "data.source": str(photos), "data.set_name": "all"}
    run_shard(store, configure("images", root=store.uri, run="all", changes=keys)[1])
    with pytest.raises(DataError, match=r'have other content .* "cat/003\.png"'):
        run_shard(store, appending(store, photos, "more"))
    (photos / "cat/003.png").write_bytes(true)
    compared = []
    for run, recheck in (("more", False), ("again", False), ("all-read", True)):
        in_process.units.clear()
        run_shard(store, appending(store, photos, run, **{"data.recheck": recheck}))
        compared.append(sum(len(one.items) for one in in_process.units if is_compared(one)))
    assert compared == [1, 0, 13]


def test_a_file_that_was_mended_without_a_change_of_its_length_is_added(
    store, tmp_path, in_process
):
    """Catches a file that was damaged once and is left out for ever, by its name and length."""
    good = image_file(7)
    bad = good[:40] + bytes([good[40] ^ 1]) + good[41:]
    photos = write_folder(tmp_path / "photos", images("cat", range(20)) | {"cat/bad.png": bad})
    few = {"data.max_bad_share": 0.1}
    keys = {**KEYS, **few, "data.source": str(photos), "data.set_name": "faces"}
    run_shard(store, configure("images", root=store.uri, run="first", changes=keys)[1])
    run_shard(store, appending(store, photos, "nothing", **few))
    assert len(lineage(store, "faces")) == 1
    (photos / "cat/bad.png").write_bytes(good)
    run_shard(store, appending(store, photos, "mended", **few))
    grown = index_of(store, lineage(store, "faces")[-1].pointer)
    assert "bad.png" in sources_in(store, grown)
    assert sum(grown.num_images.values()) == 21


def test_an_append_to_a_name_that_moved_meanwhile_ends_in_a_sentence(
    store, photos, faces, monkeypatch
):
    """Both when it is configured before, and when another comes first while it works; the same
    command then goes on from what the name means."""
    write_folder(photos, images("cat", range(6, 9)))
    config, other = (
        appending(store, photos, "more"),
        DatasetPointer("datasets/a-" + 16 * "0", 64 * "0"),
    )
    true_grow = grown_data.grow

    def slower(*arguments):
        enter(store, NamedSet("faces", other, 2))
        return true_grow(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(grown_data, "grow", slower)
        with pytest.raises(RunConflictError, match="'faces' has grown meanwhile: it is faces@0000"):
            run_shard(store, config)
    assert results.dataset_pointer(store, "more") is None
    assert not store.exists(layout.run_json_key("more"))
    with pytest.raises(RunConflictError, match="run the same command again"):
        run_shard(store, config)


def test_killed_once_the_name_has_moved_the_run_goes_on_with_what_it_made(
    store, photos, faces, monkeypatch
):
    """Between run.json and dataset.json; catches a run that is refused for ever, since its own
    append has moved the name; also where its source has grown again meanwhile."""
    write_folder(photos, images("cat", range(6, 9)))

    def killed(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DatasetPointer, "to_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run_shard(store, appending(store, photos, "more"))
    assert store.exists(layout.run_json_key("more"))
    pinned = appending(store, photos, "more", **{"data.append_to": faces.pinned})
    assert run_shard(store, pinned) == lineage(store, "faces")[-1].pointer.folder
    store.delete(layout.dataset_pointer_key("more"))
    write_folder(photos, images("cat", range(9, 11)))
    run_shard(store, appending(store, photos, "more"))
    assert len(lineage(store, "faces")) == 3
    newest = index_of(store, lineage(store, "faces")[-1].pointer)
    assert sum(newest.num_images.values()) == 15
    assert results.dataset_pointer(store, "more") == newest.pointer


def test_what_grew_is_deleted_with_what_its_appends_made(store, photos, faces):
    """Catches shards of no name that stay; and those of a part that a run still uses."""
    write_folder(photos, images("cat", range(6, 9)))
    run_shard(store, appending(store, photos, "more"))
    grown = index_of(store, lineage(store, "faces")[-1].pointer)
    fresh = made_of(grown.manifest)[1]
    keys = {"data.sets": fresh.folder.removeprefix("datasets/"), "compute.num_workers": 1}
    own = {key: KEYS[key] for key in KEYS if not key.startswith("data.")}
    run_shard(store, configure("images", root=store.uri, run="x", changes={**own, **keys})[1])
    for run in ("first", "more"):
        delete_run(store, run, confirmed=True)
    with pytest.raises(ConfigError, match="say --yes") as said:
        delete_dataset(store, "faces", confirmed=False)
    assert fresh.folder not in str(said.value)
    delete_run(store, "x", confirmed=True)
    delete_dataset(store, "faces", confirmed=True)
    assert files_below(store.local_path("datasets")) == {}


def test_what_an_append_made_is_made_again_by_the_same_command(store, photos, faces):
    """Catches a lost shard that nothing can mend, since the name of the data set has moved."""
    write_folder(photos, images("cat", range(6, 12)))
    run_shard(store, appending(store, photos, "more"))
    grown = index_of(store, lineage(store, "faces")[-1].pointer)
    lost = grown.located_at("train", len(grown.counts("train")) - 1)
    store.delete(lost.key)
    run_shard(store, appending(store, photos, "more"))
    assert problems_of(store, grown) == []
    assert len(lineage(store, "faces")) == 2


@pytest.mark.parametrize("where", ["while shards are made", "before the index", "before the name"])
def test_killed_anywhere_nothing_is_half_committed_and_the_same_command_goes_on(
    where, store, photos, faces, monkeypatch
):
    """Until its last step the name means the older data set, which stays whole."""
    write_folder(photos, images("cat", range(6, 12)))
    target = {
        "while shards are made": (of_source, "make_dataset"),
        "before the index": (compose, "commit_in_parts"),
        "before the name": (grown_data, "enter"),
    }[where]

    def killed(*_arguments, **_words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*target, killed)
        with pytest.raises(KeyboardInterrupt):
            run_shard(store, appending(store, photos, "more"))
    assert lineage(store, "faces") == [faces]
    assert results.dataset_pointer(store, "more") is None
    assert problems_of(store, index_of(store, faces.pointer)) == []
    run_shard(store, appending(store, photos, "more"))
    grown = index_of(store, lineage(store, "faces")[-1].pointer)
    assert sum(grown.num_images.values()) == 16
    assert problems_of(store, grown) == []


def test_what_cannot_grow_or_is_contradicted_is_refused_before_anything_is_read(store, faces):
    with pytest.raises(ConfigError, match=r"data\.height=16, and the data set faces@"):
        appending(store, "/nowhere", "more", **{"data.height": 16})
    with pytest.raises(ConfigError, match="no data set 'facse'"):
        appending(store, "/nowhere", "more", **{"data.append_to": "facse"})
    with pytest.raises(ConfigError, match="lets that data set grow under its own name"):
        appending(store, "/nowhere", "more", **{"data.set_name": "more"})


def test_a_network_of_the_older_classes_is_refused_before_anything_is_made(store, photos, faces):
    write_folder(photos, images("bee", range(3)))
    labelled = {"model.conditioning": "label", "model.num_classes": 2}
    config = appending(store, photos, "more", **labelled)
    with pytest.raises(ConfigError, match=r"model\.num_classes=2, but the images have 3 classes"):
        preflight(store, config, ("shard",), command=str, here=True)


def test_an_append_holds_out_a_number_of_its_own(store, faces, tmp_path):
    """Catches: few images that cannot be added to a data set that holds out many; a data set that
    says of itself what its newest append held out; a run that is then not on its data set; and a
    record that another number passes over."""
    few = write_folder(tmp_path / "few", images("cat", range(2), seed=5))
    with pytest.raises(DataError, match=r"data\.num_test_images=2, but .* give at most 1"):
        run_shard(store, appending(store, few, "more"))
    own = {"data.num_test_images": 1}
    config = appending(store, few, "more", **own)
    run_shard(store, config)
    grown = lineage(store, "faces")[-1]
    index = index_of(store, grown.pointer)
    assert index.num_images == {"train": 9, "test": 3}
    assert index.manifest.body["data"] == index_of(store, faces.pointer).manifest.body["data"]
    assert results.dataset_of(store, config) == index.manifest
    assert check_run(store, appending(store, few, "more"))  # what is on record holds out 1
    with pytest.raises(RunConflictError, match=r"num_test_images"):
        check_run(store, appending(store, few, "more", **{"data.num_test_images": None}))
    nothing = appending(store, few, "nothing", **own)
    assert run_shard(store, nothing) == grown.pointer.folder
    assert results.dataset_of(store, nothing) == index.manifest


def test_without_a_number_of_its_own_an_append_is_what_it_was(store, faces, tmp_path):
    """Catches: a fingerprint that moves, so that a run of an earlier version has no data set."""
    other = write_folder(tmp_path / "other", images("cat", range(6), seed=3))
    config = appending(store, other, "more")
    run_shard(store, config)
    assert config.data.num_test_images == 2
    assert lineage(store, "faces")[-1].pointer.fingerprint[:16] == "646395f485f976d9"
