"""Shards of others, used where they lie: the images that a copy would hold, and nothing copied."""

import hashlib
import io
import json
import os
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from ddpm_core.composing.agree import Given
from ddpm_core.composing.compose import compose, plan
from ddpm_core.config import DataConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.images.decode import Shaping, decode_image
from ddpm_core.loading import loader
from ddpm_core.loading.loader import load_split
from ddpm_core.recipes import recipe
from ddpm_core.runs.run import configure
from ddpm_core.sharding.stage import run_shard
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import SPLITS, load_index
from ddpm_core.sources.download import downloads_folder
from ddpm_core.sources.shard_list import list_shards
from ddpm_core.sources.shard_samples import index_shard
from ddpm_core.store.storage import open_store
from tests.fake_s3 import BUCKET
from tests.images.image_files import write_folder
from tests.sampling.tiny import in_process
from tests.sharding.small import files_below, tar_of

__all__ = ["in_process"]
pytest_plugins = ["tests.s3_fixtures"]
SHAPING = Shaping(8, 12, 3, "center", "box", (255, 255, 255))


@pytest.fixture(autouse=True)
def _own_looks(tmp_path, monkeypatch):
    """What was found in shards is kept for each test by itself."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def picture(number):
    """The file of an image of a size and kind of its own."""
    rng = np.random.default_rng(number)
    shape = (9 + number % 5, 20 - number % 7, 3)
    out = io.BytesIO()
    kind = ("PNG", "JPEG", "WEBP")[number % 3]
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(out, kind)
    return out.getvalue(), kind.lower().replace("jpeg", "jpg")


def shard_of(first, count, *, labels=True, captions=True):
    """The bytes of a shard of this many images."""
    files = {}
    for number in range(first, first + count):
        content, ending = picture(number)
        if captions and number % 2:  # before the image, and not beside each
            files[f"{number:05d}.caption"] = f"image {number}, für alle".encode()
        if labels:
            files[f"{number:05d}.cls"] = b"%d" % (number % 3)
        files[f"{number:05d}.{ending}"] = content
        files[f"{number:05d}.json"] = json.dumps({"class": number % 2}).encode()
    return tar_of(files)


@pytest.fixture
def tars(tmp_path):
    """Four shards of 5 images each, in a folder with a space and letters that no key may have."""
    folder = tmp_path / "wéb data#1"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number:06d}.tar").write_bytes(shard_of(5 * number, 5))
    return folder


def config_of(source, **changes):
    values = {
        "data.source": str(source),
        "data.in_place": True,
        "data.height": 8,
        "data.width": 12,
        "data.num_test_images": 3,
        "model.attention_resolutions": [4],
        "evaluate.num_likelihood_images": 2,
        "compute.num_workers": 1,
    }
    return recipe("images").replaced(
        values | {f"data.{key}": value for key, value in changes.items()}
    )


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def indexed(store, config):
    return load_index(store, run_shard(store, config))


def images_of(store, index):
    """{number in `picture`: (pixels, label, split)} of all images, by their order in the index."""
    found = {}
    for split in SPLITS:
        with closing(load_split(store, index, split)) as images:
            numbers = np.arange(len(images))
            pixels = images.take(numbers).numpy().copy()
            labels = images.member("label", numbers).tolist()
        places = [(one.name, offset) for one in index.shards[split] for offset in one.offsets]
        for place, image, label in zip(places, pixels, labels, strict=True):
            found[place] = (image, label, split)
    return found


def expected():
    """[(pixels, label)] of all images, by `decode_image`."""
    return [
        (decode_image(picture(number)[0], SHAPING, origin="").transpose(2, 0, 1), number % 3)
        for number in range(20)
    ]


@pytest.mark.parametrize("max_decoded", [loader.MAX_DECODED_BYTES, 0], ids=["decoded", "streamed"])
@pytest.mark.parametrize("pin", ["sha256", "listing"])
def test_the_images_are_those_that_a_copy_would_hold(
    max_decoded, pin, store, tars, in_process, monkeypatch, tmp_path
):
    """Catches: another cut than that of copies, labels and captions of other images, a copy."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", max_decoded)
    index = indexed(store, config_of(tars, pin=pin))
    found = images_of(store, index)
    in_order = [found[place] for place in sorted(found)]
    for (pixels, label, _), (wanted, its_label) in zip(in_order, expected(), strict=True):
        np.testing.assert_array_equal(pixels, wanted)
        assert label == its_label
    assert index.num_images == {"train": 17, "test": 3}
    assert index.label.names == ("0", "1", "2")
    counts = np.add(*(index.label.counts[split] for split in SPLITS))
    assert counts.tolist() == [7, 7, 6]
    assert not [name for name in files_below(tmp_path / "root") if name.endswith(".tar")]
    assert problems_of(store, index) == []


def test_captions_are_members_of_their_images(store, tars, in_process):
    """Catches: the caption of the next image, one where there is none, a member that is lost."""
    index = indexed(store, config_of(tars))
    assert index.texts.keys() == {"caption", "about"}
    found = {}
    for split in SPLITS:
        for one in index.shards[split]:
            tar = (tars / one.name).read_bytes()
            for offset, (at, size) in zip(one.offsets, one.beside["caption"], strict=True):
                found[one.name, offset] = tar[at : at + size]
    texts = [found[place] for place in sorted(found)]
    assert index.texts["caption"].decode(texts, str) == [
        (f"image {number}, für alle",) if number % 2 else () for number in range(20)
    ]


def test_the_same_shards_elsewhere_are_the_same_data_set(store, tars, in_process, tmp_path):
    """Catches: a fingerprint that counts places; one that does not count the images, or the pin."""
    first = indexed(store, config_of(tars)).fingerprint
    moved = tmp_path / "moved"
    tars.rename(moved)
    other = open_store(str(tmp_path / "other"))
    config = config_of(moved)
    assert indexed(other, config).fingerprint == first
    path = moved / "000001.tar"
    path.write_bytes(shard_of(5, 5, captions=False))
    assert indexed(other, config.replaced({"name": "b"})).fingerprint != first


def test_a_list_of_wids_and_a_pattern_name_the_same_shards(store, tars, in_process, tmp_path):
    """Catches: urls that are not taken relative to the list, numbers of a pattern without zeros."""
    shards = [
        {
            "url": f"{number:06d}.tar",
            "nsamples": 5,
            "md5sum": hashlib.md5(
                (tars / f"{number:06d}.tar").read_bytes(), usedforsecurity=False
            ).hexdigest(),
        }
        for number in range(4)
    ]
    path = tars / "index.json"
    path.write_text(json.dumps({"wids_version": 1, "shardlist": shards}))
    first = indexed(store, config_of(tars))
    of_list = indexed(store, config_of(path).replaced({"name": "b"}))
    of_pattern = indexed(store, config_of(tars / "{000000..000003}.tar").replaced({"name": "c"}))
    assert first.fingerprint == of_list.fingerprint == of_pattern.fingerprint
    for change, reason in (({"nsamples": 6}, "5 samples"), ({"md5sum": "0" * 32}, "MD5")):
        shards[1] |= change
        path.write_text(json.dumps({"shardlist": shards}))
        with pytest.raises(DataError, match=reason):
            run_shard(store, config_of(path).replaced({"name": "d"}))
        shards[1] |= {"nsamples": 5}


def test_the_lists_of_wids_name_lists_and_hold_parts(tars, tmp_path):
    """Catches: half of a data set that was put together of others; urls taken relative to the
    wrong list; a size that the list says and nobody looks at."""
    size = (tars / "000000.tar").stat().st_size
    (tars / "more").mkdir()
    (tars / "000003.tar").rename(tars / "more" / "000003.tar")
    inner = tars / "more" / "inner.json"
    inner.write_text(json.dumps({"wids_version": 1, "shardlist": [{"url": "000003.tar"}]}))
    whole = {
        "wids_version": 1,
        "shardlist": [{"url": "000000.tar", "nsamples": 5, "filesize": size}],
        "datasets": [
            {"source_url": "more/inner.json"},
            {"shardlist": [{"url": "000001.tar"}]},
            {"base": tars.as_uri(), "shardlist": [{"url": "more/../000002.tar"}]},
        ],
    }
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match=r"inner\.json\" cannot be read: No such file"):
        list_shards(str(path))
    path = tars / "whole.json"
    path.write_text(json.dumps(whole))
    names = [one.file.name for one in list_shards(str(path))]
    assert names == ["000000.tar", "000003.tar", "000001.tar", "000002.tar"]
    del whole["shardlist"]
    path.write_text(json.dumps(whole))
    assert len(list_shards(str(path))) == 3
    path.write_text(json.dumps({"shardlist": [{"url": "000000.tar", "filesize": size + 1}]}))
    with pytest.raises(
        DataError, match=rf"has {size} bytes, and its list says filesize={size + 1}"
    ):
        list_shards(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"shardlist": [{"urls": 1}]}', "KeyError 'url'"),
        ('{"shardlist": [{"url": "https://host/a.tar"}]}', "neither on a disk nor in s3"),
        ('{"shardlist": [{"url": "a.tar", "nsamples": true}]}', "nsamples of 'a.tar' is True"),
        ('{"shardlist": [{"url": "a.tar", "md5sum": "x"}]}', "md5sum of 'a.tar' is 'x'"),
        ('{"shardlist": {"a": 1}}', "TypeError"),
        ('{"wids_version": 2, "shardlist": []}', "wids_version is 2, 1 is known"),
        ('{"datasets": [{}]}', "KeyError 'shardlist'"),
        ("[1]", "TypeError"),
        ("[" * 100_000, "RecursionError"),
        ("{}", "KeyError 'shardlist'"),
    ],
)
def test_what_is_no_list_of_wids_is_refused(content, reason, tars):
    """Catches: a traceback, and a list of which half is read."""
    (tars / "list.json").write_text(content)
    with pytest.raises(DataError, match=rf'list\.json" is no list of shards of wids: .*{reason}'):
        list_shards(str(tars / "list.json"))


def test_a_list_without_shards_is_refused(tars):
    """Catches: an index of nothing."""
    (tars / "list.json").write_text('{"shardlist": []}')
    with pytest.raises(DataError, match="names no shard"):
        list_shards(str(tars / "list.json"))


def other_bytes(path):
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def other_time(path):
    os.utime(path, ns=(1, 1))


def shorter(path):
    path.write_bytes(shard_of(5, 4))


@pytest.mark.parametrize("max_decoded", [loader.MAX_DECODED_BYTES, 0], ids=["decoded", "streamed"])
@pytest.mark.parametrize(
    ("pin", "change"),
    [("sha256", other_bytes), ("listing", other_time), ("sha256", shorter), ("sha256", os.unlink)],
)
def test_a_shard_that_changed_is_refused_by_name(
    max_decoded, pin, change, store, tars, in_process, monkeypatch
):
    """Catches: other pixels under the same fingerprint."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", max_decoded)
    index = indexed(store, config_of(tars, pin=pin, num_test_images=None))
    change(tars / "000002.tar")
    said = "is not there" if change is os.unlink else "is not the shard that was indexed"
    with (
        pytest.raises(DataError, match=rf"000002\.tar {said}"),
        closing(load_split(store, index, "train")) as images,
    ):
        images.take(np.arange(len(images)))
    (line,) = problems_of(store, index)
    assert f"000002.tar {said}" in line


@pytest.mark.parametrize("max_decoded", [loader.MAX_DECODED_BYTES, 0], ids=["decoded", "streamed"])
def test_an_image_of_which_nothing_can_be_made_is_background_for_all(
    max_decoded, store, tars, in_process, monkeypatch, caplog
):
    """Catches: a training that ends at step 10^5, pixels that depend on the rank or on the order,
    an image that is passed over without a word."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", max_decoded)
    content, ending = picture(6)
    path = tars / "000001.tar"
    broken = content[: len(content) // 2]
    path.write_bytes(
        tar_of({"a.cls": b"1", f"a.{ending}": broken, "b.cls": b"2", "b.png": picture(9)[0]})
    )
    index = indexed(store, config_of(tars, pin="listing"))
    found = images_of(store, index)
    place = min(place for place in found if place[0] == "000001.tar")
    assert (found[place][0] == 255).all()
    assert found[place][1] == 1
    assert "the image at byte 1536 cannot be used, and is all background" in caplog.text
    (line,) = problems_of(store, index)
    assert "the image at byte 1536" in line


def test_images_that_are_seen_to_be_broken_are_left_out(store, tars, in_process):
    """Catches: empty and foreign files that become background, where they could be known."""
    (tars / "000001.tar").write_bytes(
        tar_of({"a.cls": b"1", "a.png": b"no image", "b.cls": b"0", "b.png": picture(9)[0]})
    )
    with pytest.raises(DataError, match=r"1 of the 17 images.*\n.*000001.tar/a.png.*no PNG"):
        run_shard(store, config_of(tars))
    index = indexed(store, config_of(tars, max_bad_share=0.1))
    assert [one.key for one in index.rejected] == ["000001.tar/a.png"]
    assert sum(index.num_images.values()) == 16


def test_splits_are_words_of_the_names_of_shards(store, tars, in_process):
    """Catches: images of a held-out shard in the training."""
    (tars / "000003.tar").rename(tars / "val-000003.tar")
    for number in range(3):
        (tars / f"{number:06d}.tar").rename(tars / f"train-{number:06d}.tar")
    index = indexed(store, config_of(tars, num_test_images=None))
    names = {split: [one.name for one in index.shards[split]] for split in SPLITS}
    assert names == {
        "train": [f"train-{number:06d}.tar" for number in range(3)],
        "test": ["val-000003.tar"],
    }


def test_classes_are_taken_from_the_json_of_a_sample_or_there_are_none(store, tars, in_process):
    """Catches: .cls read where another key was named, zeros taken for a class."""
    index = indexed(store, config_of(tars, label_key="class"))
    assert [label for _, (_, label, _) in sorted(images_of(store, index).items())] == [0, 1] * 10
    for number in range(4):
        (tars / f"{number:06d}.tar").write_bytes(shard_of(5 * number, 5, labels=False))
    index = indexed(store, config_of(tars).replaced({"name": "b"}))
    assert index.label.names == ("all",)
    (tars / "000001.tar").write_bytes(shard_of(5, 5))
    with pytest.raises(DataError, match="shards whose images have a class and shards"):
        run_shard(store, config_of(tars).replaced({"name": "c"}))
    with pytest.raises(DataError, match="its 'klass' must be a number"):
        run_shard(store, config_of(tars, label_key="klass").replaced({"name": "d"}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"in_place": False, "pin": "listing"}, "pin=listing is a setting of in_place=True"),
        ({"depth": 16, "grey": True, "resize": "box"}, "depth=16, and in_place=True reads"),
        ({"class_folders": False}, "class_folders=False, and in_place=True reads"),
        ({"source": "default"}, "in_place=True needs source"),
        (
            {"duplicates": "drop"},
            "duplicates=drop goes by the files of shards that were made under",
        ),
        ({"only_keys": "a", "only_keys_sha256": 64 * "0"}, "only_keys goes by the files of shards"),
    ],
)
def test_settings_that_cannot_matter_are_refused(changes, reason, tars):
    """Catches: a key that is read as if it did something."""
    with pytest.raises(ConfigError, match=reason):
        config_of(**({"source": tars} | changes))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nothing here", "cannot be listed"),
        ("{000002..000001}.tar", "must rise"),
        ("{000000..000009}.tar", "is not there"),
        ("https://host/a.tar", "give a folder of tars"),
    ],
)
def test_sources_that_name_no_shards_are_refused(source, reason, store, tars, in_process):
    """Catches: a data set of half of the shards that a pattern names."""
    where = source if ":" in source else str(tars / source)
    with pytest.raises((ConfigError, DataError), match=reason):
        run_shard(store, config_of(where))


@pytest.mark.parametrize(("pin", "max_decoded"), [("sha256", 10**6), ("listing", 0)])
def test_shards_in_a_bucket_are_used_in_place(
    pin, max_decoded, s3_server, store, tars, in_process, monkeypatch, cache_folder
):
    """Catches: bytes of another object, a copy that is damaged in the cache and used, an object
    that is replaced after it was indexed, and ranges that are put together wrongly."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", max_decoded)
    monkeypatch.setattr("ddpm_core.loading.outside._BLOCK_BYTES", 9000)
    monkeypatch.setattr("ddpm_core.sources.shard_samples._RANGE_BYTES", 7000)
    for path in tars.iterdir():
        s3_server.objects[f"some data/{path.name}"] = path.read_bytes()
    index = indexed(store, config_of(f"s3://{BUCKET}/some data", pin=pin))
    found = images_of(store, index)
    for place, (wanted, _) in zip(sorted(found), expected(), strict=True):
        np.testing.assert_array_equal(found[place][0], wanted)
    copies = list(cache_folder.rglob("outside-*"))
    if max_decoded:
        assert not copies
        return
    assert len(copies) == 4
    with closing(load_split(store, index, "train")) as images:
        sound = images.take(np.arange(len(images))).numpy().copy()
    for path in copies:
        path.write_bytes(bytes(path.stat().st_size - 40) + path.read_bytes()[-40:])
    with closing(load_split(store, index, "train")) as images:
        np.testing.assert_array_equal(images.take(np.arange(len(images))), sound)
    for path in copies:
        path.unlink()
    monkeypatch.setenv("DDPM_CACHE_GIB", "1e-6")
    with pytest.raises(ConfigError, match=r"shards of .* open needs"):
        load_split(store, index, "train")
    monkeypatch.delenv("DDPM_CACHE_GIB")
    s3_server.objects["some data/000002.tar"] = shard_of(5, 5)
    with (
        pytest.raises(DataError, match=r"some data/000002\.tar is not the shard that was indexed"),
        closing(load_split(store, index, "train")) as images,
    ):
        images.take(np.arange(len(images)))


def settle(tars):
    """Let the shards be as old as those that nobody writes any more."""
    for path in tars.iterdir():
        os.utime(path, ns=(10**18, 10**18))


def test_no_shard_that_is_as_it_was_is_looked_at_twice(store, tars, in_process, monkeypatch):
    """Catches: a kill after which all is read again; a shard that changed and is not; images of
    before in the index of what is there now; records that were cut, taken for whole."""
    looked = []

    def index(listed, rules):
        looked.append(listed.file.name[:6])
        if len(looked) == 3:
            raise KeyboardInterrupt
        return index_shard(listed, rules)

    monkeypatch.setattr("ddpm_core.sources.shard_list._SETTLED_S", -10)  # written just now
    monkeypatch.setattr("ddpm_core.sharding.in_place.index_shard", index)
    settle(tars)
    with pytest.raises(KeyboardInterrupt):
        run_shard(store, config_of(tars))
    first = indexed(store, config_of(tars))
    assert looked == ["000000", "000001", "000002", "000002", "000003"]
    del looked[:]
    assert indexed(store, config_of(tars).replaced({"name": "b"})).fingerprint == first.fingerprint
    assert not looked
    (tars / "000001.tar").write_bytes(shard_of(40, 4))
    found = indexed(store, config_of(tars).replaced({"name": "c"}))
    assert looked == ["000001"]
    assert sum(found.num_images.values()) == 19
    (path,) = (downloads_folder() / "in-place").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    del looked[:]
    assert indexed(store, config_of(tars).replaced({"name": "d"})).fingerprint == found.fingerprint
    assert looked == ["000001"]


def test_a_shard_that_was_written_just_now_is_looked_at_again(store, tars, in_process):
    """Catches: a change within one tick of a clock, which no time shows."""
    first = indexed(store, config_of(tars))
    (path,) = (downloads_folder() / "in-place").iterdir()
    num_bytes = path.stat().st_size
    assert indexed(store, config_of(tars).replaced({"name": "b"})).fingerprint == first.fingerprint
    assert path.stat().st_size == 2 * num_bytes


@pytest.mark.parametrize("max_decoded", [loader.MAX_DECODED_BYTES, 0], ids=["decoded", "streamed"])
def test_with_a_data_set_of_our_own_they_are_one_and_both_stay_where_they_are(
    store, tars, tmp_path, in_process, monkeypatch, max_decoded
):
    """Catches: our own files decoded by rules for files of any size, or labels by number; a part
    by class that has to read shards of others; rules by content where nothing was read."""
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", max_decoded)
    theirs = indexed(store, config_of(tars))
    files = {f"{name}/{n}.png": picture(3 * n)[0] for n in range(5) for name in ("1", "new")}
    own = {"in_place": False, "num_test_images": 2, "images_per_shard": 3}
    folder = write_folder(tmp_path / "ours", files)
    ours = indexed(store, config_of(folder, **own).replaced({"name": "ours"}))
    both = plan(config_of(tars).data, [Given("theirs", theirs), Given("ours", ours)])
    compose(store, both)
    index = load_index(store, both.pointer.folder, both.pointer.fingerprint)
    assert index.label.names == ("0", "1", "2", "new")
    for split in SPLITS:
        found = [pixels_of(store, one, split) for one in (theirs, ours)]
        pixels, labels = pixels_of(store, index, split)
        assert (pixels == np.concatenate([a for a, _ in found])).all()
        relabelled = [*found[0][1], *(3 if label else 1 for label in found[1][1])]
        assert labels == relabelled
    assert problems_of(store, index) == []
    one = DataConfig(**{**config_of(tars).data.model_dump(), "only_classes": ("2",)})
    of_class = plan(one, [Given("theirs", theirs)])
    compose(store, of_class)
    part = load_index(store, of_class.pointer.folder)
    assert sum(part.num_images.values()) == 6
    with pytest.raises(DataError, match="theirs is used where others put its shards"):
        plan(one.model_copy(update={"duplicates": "drop"}), [Given("theirs", theirs)])


def test_their_names_are_mixed_and_grow_no_more(store, tars, tmp_path, in_process):
    """Catches a section of a set in place, of which no source is on record, that is a traceback."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.tar").write_bytes(shard_of(100, 5))
    for name, source in (("a", tars), ("b", other)):
        run_shard(store, config_of(source, set_name=name).replaced({"name": name}))
    keys = {"model.attention_resolutions": [4], "evaluate.num_likelihood_images": 2}
    mixed = keys | {"data.sets": "a:1,b:2"}
    _, config = configure("images", root=store.uri, run="mixed", changes=mixed)
    index = indexed(store, config)
    assert index.num_images == {"train": 19, "test": 6}
    assert problems_of(store, index) == []
    grow = keys | {"data.append_to": "a", "data.source": str(other)}
    with pytest.raises(ConfigError, match="is used where others put its shards, and does not grow"):
        configure("images", root=store.uri, run="more", changes=grow)


def pixels_of(store, index, split):
    with closing(load_split(store, index, split)) as images:
        numbers = np.arange(len(images))
        return images.take(numbers).numpy().copy(), images.member("label", numbers).tolist()
