"""Captions before anything starts: what there are, what a network cuts of them, what is refused."""

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.preflight import preflight
from ddpm_core.recipes import digits, recipe
from ddpm_core.shards.caption_words import caption_lines
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.store.storage import open_store
from tests.images.image_files import files, write_folder

TEXT = {"kind": "clip", "hidden_size": 32, "num_heads": 2, "patch_size": 4}
"""a network that reads captions"""


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    monkeypatch.setattr("ddpm_core.preflight.rehearsed", lambda _config: [])


def look(store, config):
    stages = ["shard", "train"]
    found = preflight(store, config, stages, command=lambda stage: stage, here=True)
    return [line for line in found.lines(config) if line.startswith("captions")]


def reading(length, **data):
    return digits().replaced({"model": {**TEXT, "text_length": length}, **data})


def test_a_dry_run_says_how_many_captions_a_network_cuts(store):
    """Catches: a bound that forgets the end of a text, captions that are counted once an image."""
    toy = {"data": {"name": "coloured_digits", "captions": "beside"}}
    lines = look(store, reading(27, **toy))
    assert lines[0].startswith("captions of train: 7500 images with 4 each; half have up to 15")
    assert lines[1].startswith("captions of test: 1782 images with 4 each")
    assert lines[2] == "captions: model.text_length=27 cuts none; the longest needs 27"
    (line,) = look(store, reading(26, **toy))[2:]
    number = int(line.removeprefix("captions: model.text_length=26 cuts ").partition(" ")[0])
    # "the digit three in magenta", and what else has 26 bytes.
    assert number == _num_longest() > 0
    assert "of 37128, which keep their first 25 bytes; the longest needs 27" in line


def _num_longest():
    from pathlib import Path

    from ddpm_core.config import DataConfig
    from ddpm_core.sources.splits import load_splits

    splits = load_splits(DataConfig(name="coloured_digits", captions="beside"), cache=Path("/a"))
    captions = [*splits.train.captions, *splits.test.captions]
    return sum(len(one) > 25 for several in captions for one in several)


def test_captions_of_classes_are_shown_as_they_will_be(store, tmp_path):
    source = write_folder(tmp_path / "photos", files())
    data = {"data.source": str(source), "data.captions": "classes", "data.height": 8}
    network = {**TEXT, "text_length": 9}
    images = recipe("images").replaced({**data, "data.width": 8, "model": network})
    first, cut = look(store, images)
    assert first.endswith("by 3 templates, e.g. 'a picture of cat'")
    # Of cat and dog alone, by "{name}", 3 bytes and an end are left whole.
    assert cut.startswith("captions: model.text_length=9 cuts 4 of 6, which keep their first 8")


def test_missing_captions_are_said(store, tmp_path):
    made = {**files(), "train/cat/001.txt": b"a cat"}
    source = write_folder(tmp_path / "photos", made)
    data = {"data.source": str(source), "data.captions": "beside", "data.height": 8}
    images = recipe("images").replaced({**data, "data.width": 8, "model": {**TEXT}})
    train, test, _ = look(store, images)
    assert train.startswith("captions of train: 1 images with 1 each, 8 without; half have up to 5")
    assert test == "captions of test: none of 5 images"


def test_a_network_of_texts_needs_captions_and_captions_of_classes_such_a_network(store):
    """Catches a training that is refused once all images are sharded, or by its first batch."""
    with pytest.raises(ConfigError, match="the data set has none; set"):
        look(store, reading(9))
    with pytest.raises(ConfigError, match=r"makes captions for a network that reads them"):
        look(store, digits().replaced({"data.captions": "classes"}))
    # Captions that come with images may be for another run of the data set.
    toy = {"name": "coloured_digits", "captions": "beside"}
    assert look(store, digits().replaced({"data": toy}))


def test_a_class_whose_name_is_no_text_makes_no_caption():
    config = reading(9, **{"data.captions": "classes"})
    with pytest.raises(ConfigError, match=r"'caf\\udce9' has a name that is no text in UTF-8"):
        caption_lines(config, None, ("a", "caf\udce9"))
    assert caption_lines(config, None, None) == []
    assert caption_lines(reading(9), {"train": CaptionCounts()}, None)[0].endswith("of 0 images")
