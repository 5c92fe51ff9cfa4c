"""Data sets made of others, and those with names, where a command is given one by its place."""

import shutil

import pytest

from ddpm_core.errors import DataError
from ddpm_core.evaluation.comparing.sides import side_of
from ddpm_core.runs.dataset_names import NamedSet, enter, give
from ddpm_core.runs.targets import dataset_place
from ddpm_core.store.storage import open_store
from ddpm_core.verifying.verify import verify
from tests.composing.sets import composed, made


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return open_store(str(tmp_path / "a root"))


def test_what_is_made_of_others_is_found_by_its_folder(store, tmp_path):
    """Catches: places of an index that are looked up below `datasets`, and called no index."""
    first = made(store, train=range(10), test=[1])
    both = composed(store, first, made(store, train=range(20, 24), test=[2]))
    folder = store.uri_of(both.manifest.folder)
    assert verify(folder).looked_at == [f"{folder}: 16 images"]
    assert side_of(f"{folder}:train", root=store.uri).num_images == 14
    copied = tmp_path / both.manifest.folder.removeprefix("datasets/")
    shutil.copytree(folder, copied)  # below no root: its images are not where it says
    with pytest.raises(DataError, match=r"train-000000\.tar is missing"):
        verify(str(copied))


def test_compare_knows_a_data_set_by_the_name_that_it_was_given(store):
    """Catches: the folder's name alone; another data set of a name than `--data` would train on."""
    first, grown = (made(store, train=range(n), test=[1, 2, 3]) for n in (10, 12))
    give(store, "faces", first.pointer)
    enter(store, NamedSet("faces", grown.pointer, 2))
    assert side_of("faces", root=store.uri).num_images == 12
    assert side_of(f"faces@{first.fingerprint[:8]}:train", root=store.uri).num_images == 10
    assert side_of("faces:test", root=store.uri).num_images == 3


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("s3://b/r/datasets/a-0123456789abcdef/", ("s3://b/r", "datasets/a-0123456789abcdef")),
        ("s3://datasets/a-0123456789abcdef", ("s3://datasets", "a-0123456789abcdef")),
        ("file:///r/datasets/a-0123456789abcdef", ("file:///r", "datasets/a-0123456789abcdef")),
        ("/datasets/a-0123456789abcdef", ("/", "datasets/a-0123456789abcdef")),
        ("/a-0123456789abcdef", ("/", "a-0123456789abcdef")),
        ("/r/datasets/a", None),
    ],
)
def test_the_root_of_a_data_set(given, place):
    """Catches: a bucket called datasets; a root that is `/` or the empty text."""
    assert dataset_place(given) == place
