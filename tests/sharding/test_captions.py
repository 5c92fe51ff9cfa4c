"""Captions in data sets: made, checked, composed, grown and used in place; the toy set of them."""

import dataclasses
import io
import tarfile
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_core.composing.agree import Given
from ddpm_core.composing.compose import compose, plan
from ddpm_core.config import DataConfig
from ddpm_core.datasets.table import show_dataset
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.loading import loader
from ddpm_core.loading.loader import load_split
from ddpm_core.recipes import recipe
from ddpm_core.reporting.report import _captions
from ddpm_core.runs.dataset_names import lineage
from ddpm_core.runs.run import configure
from ddpm_core.sharding import dataset, verify
from ddpm_core.sharding.stage import run_shard
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.index import SPLITS, load_index
from ddpm_core.store.storage import open_store
from tests.images.image_files import image_file, write_folder, write_zip
from tests.own_cache import cache_folder
from tests.sampling.tiny import in_process
from tests.sharding.small import files_below, tar_of

__all__ = ["cache_folder", "in_process"]

KEYS = {
    "data.height": 8,
    "data.width": 8,
    "data.images_per_shard": 4,
    "data.num_test_images": 3,
    "data.captions": "beside",
    "model.attention_resolutions": [4],
    "evaluate.num_likelihood_images": 2,
    "compute.num_workers": 1,
}
WORDS = {f"{label}/{number}": f"{label} {number}\n\u00e9" for label in "ab" for number in range(6)}
del WORDS["b/3"]


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "a root"))


def photos(words=WORDS, *, extra=0):
    """Files of images of two classes, six of each and more, and their captions."""
    names = [f"{label}/{number}" for label in "ab" for number in range(6 + extra)]
    seeds = {name: sum(map(ord, name)) + 50 * (name[0] == "b") for name in names}
    files = {f"{name}.png": image_file(seed) for name, seed in seeds.items()}
    return files | {f"{name}.txt": text.encode() for name, text in words.items()}


def sharded(store, source, run="first", **changes):
    keys = {**KEYS, "data.source": str(source), **changes}
    config = configure("images", root=store.uri, run=run, changes=keys)[1]
    return load_index(store, run_shard(store, config))


def captions_of(store, index, split=None):
    """{name at the source: captions} by the number of each image, read in both ways."""
    found = {}
    for one in SPLITS if split is None else (split,):
        names = sources_of(store, index, one)
        with closing(load_split(store, index, one)) as images:
            captions = images.captions(np.arange(len(images)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loader, "MAX_DECODED_BYTES", 0)
            with closing(load_split(store, index, one)) as images:
                assert images.captions(np.arange(len(images))) == captions
        assert len(names) == len(captions)
        found |= dict(zip(names, captions, strict=True))
    return found


def sources_of(store, index, split):
    """What the shards themselves say of each image's name, in the order of its number."""
    names = []
    for number in range(len(index.counts(split))):
        shard, file = index.shards[split][number], index.located_at(split, number)
        with tarfile.open(fileobj=io.BytesIO(file.read(store))) as tar:
            members = tar.getmembers()
            at = {one.offset_data: place for place, one in enumerate(members)}
            for offset in shard.offsets:
                about = tar.extractfile(members[at[offset] + 2]).read().decode()
                names.append(about.partition('"source":"')[2].partition('"')[0])
    return names


def expected(words=WORDS, *, extra=0):
    names = [f"{label}/{number}" for label in "ab" for number in range(6 + extra)]
    return {f"{name}.png": tuple(words.get(name, "").split("\n")) for name in names} | {
        f"{name}.png": () for name in names if name not in words
    }


def test_a_folder_with_texts_becomes_shards_with_texts(store, tmp_path, in_process, capsys):
    """Catches: a caption of a neighbour, bytes that depend on how shards are made, lost counts."""
    index = sharded(store, write_folder(tmp_path / "photos", photos()))
    for _ in ("made", "there already"):
        *_, train, test = capsys.readouterr().out.splitlines()
        assert f"captions of train: {index.captions.counts['train']}" in train
        assert f"captions of test: {index.captions.counts['test']}" in test
        sharded(store, tmp_path / "photos")
    assert captions_of(store, index) == expected()
    assert problems_of(store, index) == []
    counts = index.captions.counts
    both = Counter()
    for split in SPLITS:
        both.update(counts[split].images)
        assert counts[split].images.total() == index.num_images[split]
    assert both == {0: 1, 2: 11}
    with tarfile.open(
        fileobj=io.BytesIO(index.located(index.shards["train"][0]).read(store))
    ) as tar:
        names = tar.getnames()
        assert [name.partition(".")[2] for name in names[:4]] == ["png", "cls", "json", "txt"]
        name = sources_of(store, index, "train")[0]
        assert tar.extractfile(names[3]).read().decode() == WORDS[name.removesuffix(".png")]


def test_the_same_captions_in_a_table_are_the_same_bytes(store, tmp_path, in_process):
    """Catches shards whose bytes depend on where their captions were found."""
    first = sharded(store, write_folder(tmp_path / "photos", photos()))
    rows = "".join(f'{name}.png,"{text}"\r\n' for name, text in WORDS.items())
    (table := tmp_path / "words.csv").write_text(f"file_name,text\r\n{rows}")
    other = open_store(str(tmp_path / "other"))
    source = write_zip(tmp_path / "photos.zip", photos({}))
    changes = {"data.captions": "table", "data.caption_table": str(table)}
    second = sharded(other, source, **changes)
    for split in SPLITS:
        for one, two in zip(first.shards[split], second.shards[split], strict=True):
            assert first.located(one).sha256 == second.located(two).sha256
    # Archives are not opened again, unless the table has changed, which lies elsewhere.
    assert sharded(other, source, "b", **changes).fingerprint == second.fingerprint
    table.write_text(table.read_text().replace("a 0", "A 0"))
    assert sharded(other, source, "c", **changes).fingerprint != second.fingerprint


def test_captions_are_part_of_what_a_data_set_is(store, tmp_path, in_process):
    """Catches: captions that change under a fingerprint; a fingerprint of before that changes."""
    source = write_folder(tmp_path / "photos", photos())
    plain = sharded(store, source, "plain", **{"data.captions": "none"})
    assert plain.captions is None
    bare = write_folder(tmp_path / "bare", photos({}))
    assert (
        sharded(store, bare, "bare", **{"data.captions": "none"}).fingerprint == plain.fingerprint
    )
    of_classes = {"data.captions": "classes", "data.caption_templates": ["{name}"]}
    assert sharded(store, source, "classes", **of_classes).fingerprint == plain.fingerprint
    first = sharded(store, source).fingerprint
    (source / "a/0.txt").write_text("another")
    second = sharded(store, source, "b")
    assert len({plain.fingerprint, first, second.fingerprint}) == 3
    assert captions_of(store, second)["a/0.png"] == ("another",)


def test_tables_and_reports_say_what_captions_there_are(store, tmp_path, in_process):
    """Catches a data card that says nothing of them, or of the other split's in its place."""
    source = write_folder(tmp_path / "photos", photos())
    index = sharded(store, source, **{"data.set_name": "faces"})
    lines = show_dataset(store, "faces").splitlines()
    for split in SPLITS:
        assert f"captions   of {split}: {index.captions.counts[split]}" in lines
    config = recipe("images").replaced({"data.captions": "beside"})
    rows = list(_captions(SimpleNamespace(config=config, index=index)))
    assert rows == [(f"captions of {one}", str(index.captions.counts[one])) for one in SPLITS]
    made = config.replaced({"data.captions": "classes"})
    ((_, said),) = _captions(SimpleNamespace(config=made, index=index))
    assert said.endswith("a picture of {name}; an image of {name}; {name}")


def test_what_an_index_counts_wrongly_is_found(store, tmp_path, in_process):
    """Catches a check that reads no caption, or compares none with the index."""
    index = sharded(store, write_folder(tmp_path / "photos", photos()))
    wrong = CaptionCounts()
    wrong.take(index.captions.counts["train"])
    wrong.add(("one more",))
    member = dataclasses.replace(index.captions, counts={**index.captions.counts, "train": wrong})
    assert problems_of(store, dataclasses.replace(index, texts={"caption": member})) == [
        "train: the captions are not those that the index counts"
    ]
    shard = index.shards["train"][0]
    places = (*shard.beside["caption"][1:], shard.beside["caption"][0])
    moved = dataclasses.replace(shard, beside={"caption": places})
    others = {**index.shards, "train": (moved, *index.shards["train"][1:])}
    (line, *_) = problems_of(store, dataclasses.replace(index, shards=others))
    assert line.endswith(".txt is not where the index says")


def test_an_index_in_parts_and_checks_in_other_processes_know_captions(
    store, tmp_path, in_process, monkeypatch
):
    """Catches: places of captions that a part of an index lacks, counts that no process sends."""
    whole = sharded(store, write_folder(tmp_path / "photos", photos()))
    monkeypatch.setattr(dataset, "MAX_WHOLE", 0)
    other = open_store(str(tmp_path / "other"))
    parts = sharded(other, tmp_path / "photos")
    assert parts.is_in_parts
    assert parts.fingerprint == whole.fingerprint
    assert captions_of(other, parts) == expected()
    monkeypatch.setattr(verify, "_FEW_S", 0)
    assert problems_of(other, parts, num_at_once=2) == []


def composed(store, *indexes, **data):
    given = [Given(f"set {at}", index) for at, index in enumerate(indexes)]
    config = DataConfig(name="images", num_test_images=3, captions="beside", **data)
    own = plan(config, given)
    compose(store, own)
    return load_index(store, own.pointer.folder, own.pointer.fingerprint)


def test_parts_and_unions_keep_the_captions_of_their_images(store, tmp_path, in_process):
    """Catches: places of all in a part, captions that end with a set that has none, old counts."""
    index = sharded(store, write_folder(tmp_path / "photos", photos()))
    words = expected()
    part = composed(store, index, only_classes=("b",))
    assert captions_of(store, part) == {key: words[key] for key in words if key[0] == "b"}
    without = sharded(
        store,
        write_folder(
            tmp_path / "more", {f"c/{one}.png": image_file(900 + one) for one in range(9)}
        ),
        "without",
        **{"data.captions": "none"},
    )
    for sets in ((index, without), (without, index), (part, without)):
        union = composed(store, *sets)
        own = {f"{one}.png": () for one in range(9)}
        own |= captions_of(store, part if part in sets else index)
        assert captions_of(store, union) == own
        assert problems_of(store, union) == []
        assert union.captions.counts["train"].images.total() == union.num_images["train"]


def test_an_append_adds_captions_and_changes_none(store, tmp_path, in_process):
    """Catches: new images without their captions, a caption that was changed and is lost."""
    source = write_folder(tmp_path / "photos", photos())
    sharded(store, source, **{"data.set_name": "faces"})
    more = WORDS | {"a/6": "new", "b/7": "newer\nnewest"}
    write_folder(source, photos(more, extra=2))
    own = {key: KEYS[key] for key in KEYS if not key.startswith("data.")}
    keys = {**own, "data.append_to": "faces", "data.source": str(source)}

    def grown(run):
        return run_shard(store, configure("images", root=store.uri, run=run, changes=keys)[1])

    index = load_index(store, grown("second"))
    assert lineage(store, "faces")[-1].pointer.fingerprint == index.fingerprint
    assert captions_of(store, index) == expected(more, extra=2)
    assert problems_of(store, index) == []
    (source / "a/0.txt").write_text("changed")
    with pytest.raises(DataError, match=r'have other captions than the data set .*"a/0.png"'):
        grown("third")


@pytest.mark.parametrize("pin", ["sha256", "listing"])
def test_captions_of_shards_in_place_are_read_and_counted(store, tmp_path, in_process, pin):
    """Catches: captions that are left as they are in the file, counts of the other split."""
    wanted = {}
    for at in range(4):
        files = {}
        for number in range(5 * at, 5 * at + 5):
            files[f"{number:03d}.png"] = image_file(number)
            if number % 2:
                files[f"{number:03d}.txt"] = f" image {number} \r\n\r\n\u00e9".encode()
            wanted[number] = (f"image {number}", "\u00e9") if number % 2 else ()
        write_folder(tmp_path / "tars", {f"{at:06d}.tar": tar_of(files)})
    place = {"data.in_place": True, "data.pin": pin, "data.images_per_shard": 1000}
    index = sharded(store, tmp_path / "tars", **place)
    found = []
    for split in ("train", "test"):
        with closing(load_split(store, index, split)) as images:
            captions = images.captions(np.arange(len(images)))
        assert index.captions.counts[split].images == Counter(map(len, captions))
        offsets = [(one.name, at) for one in index.shards[split] for at in one.offsets]
        found += zip(offsets, captions, strict=True)
    assert [captions for _, captions in sorted(found)] == list(wanted.values())
    assert problems_of(store, index) == []
    union = composed(
        store, index, sharded(store, tmp_path / "tars", "b", **place, **{"data.captions": "none"})
    )
    assert union.captions.counts["train"].num_with == index.captions.counts["train"].num_with
    assert union.captions.counts["train"].num_without > 17
    with closing(load_split(store, union, "train")) as images:
        captions = images.captions(np.arange(len(images)))
    assert union.captions.counts["train"].images == Counter(map(len, captions))
    of_json = {f"{number:03d}.png": image_file(number) for number in range(4)}
    of_json |= {f"{number:03d}.json": b'{"words": ["a", "b"]}' for number in range(4)}
    write_folder(tmp_path / "json", {"000000.tar": tar_of(dict(sorted(of_json.items())))})
    key = {"data.caption_key": "words", "data.num_test_images": 1}
    second = sharded(store, tmp_path / "json", "d", **place, **key)
    with closing(load_split(store, second, "train")) as images:
        assert images.captions(np.arange(3)) == 3 * [("a", "b")]
    assert problems_of(store, second) == []
    with pytest.raises(DataError, match="set 0 and set 1 have captions in files of different kind"):
        composed(store, index, second)
    files["016.txt"] = b"caf\xe9"
    write_folder(tmp_path / "bad", {"000000.tar": tar_of(dict(sorted(files.items())))})
    with pytest.raises(DataError, match=r'"016.txt" in .*000000.tar is no text in UTF-8: byte 3'):
        sharded(store, tmp_path / "bad", "c", **place)


def test_what_is_of_no_use_is_refused_with_its_key():
    made = {"name": "images"}
    for keys, message in (
        ({"caption_table": "a.csv"}, "caption_table='a.csv' is a setting of captions=table"),
        ({"caption_key": "k", "captions": "table"}, "a setting of captions=beside"),
        ({"caption_templates": ("a {name}",)}, "is a setting of captions=classes"),
        ({"captions": "classes", "caption_templates": ("a",)}, "with {name} in it once"),
        ({"captions": "classes", "caption_templates": ("{name} {name}",)}, "{name} in it once"),
        ({"captions": "classes", "caption_templates": ()}, "has 0 templates"),
        ({"captions": "classes", "caption_templates": ("{name}", "{name}")}, "each once"),
        ({"captions": "classes", "caption_templates": "a {name}"}, "must be a list of texts"),
        ({"captions": "table", "in_place": True, "source": "/a"}, "give captions=beside"),
        ({"captions": "beside", "name": "digits", "num_test_images": 9}, "come without any"),
        (
            {"captions": "beside", "name": "coloured_digits", "caption_key": "k"},
            "coloured_digits has none",
        ),
    ):
        with pytest.raises((ValueError, ConfigError), match=message):
            DataConfig(**{**made, **keys})


def test_captions_do_not_leave_files(store, tmp_path, in_process):
    """Catches a cache of captions below the root, which nobody would delete."""
    sharded(store, write_folder(tmp_path / "photos", photos()))
    endings = {name.rpartition(".")[2] for name in files_below(tmp_path / "a root")}
    assert endings <= {"tar", "json", "png", "files"}
