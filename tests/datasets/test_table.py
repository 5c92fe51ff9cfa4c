"""Data sets are listed, shown and deleted, with the runs that use them."""

import shutil
from fractions import Fraction

import pytest

from ddpm_core.__main__ import main
from ddpm_core.composing.agree import Given
from ddpm_core.composing.compose import compose, plan
from ddpm_core.datasets.deletion import delete_dataset
from ddpm_core.datasets.table import list_datasets, show_dataset
from ddpm_core.errors import ConfigError, RunConflictError
from ddpm_core.recipes import digits
from ddpm_core.runs import layout
from ddpm_core.runs.dataset_names import NamedSet, enter, give, lineage
from ddpm_core.runs.run import open_run
from ddpm_core.runs.table import show_run
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from tests.datasets.made import made
from tests.sharding.small import data_config


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "a root"))


def used_by(store, run, pointer, **changes):
    keys = {f"data.{key}": value for key, value in changes.items()}
    open_run(store, digits().replaced({"name": run, **keys}))
    if pointer is not None:
        store.create(layout.dataset_pointer_key(run), pointer.to_json())


def test_a_line_for_each_data_set_named_or_not(store):
    """Catches: a set that is left out, one that cannot be read and hides the others, wrong sums."""
    assert list_datasets(store) == f"no data sets below {store.uri}"
    faces, damaged = made(store, "faces"), made(store, "damaged", num_train=11)
    other = made(store, num_train=12)
    store.write(f"{damaged.folder}/{layout.DATASET_INDEX}", b"{}")
    used_by(store, "a", faces)
    used_by(store, "b", None, sets=f"faces@{faces.fingerprint[:8]}")  # begun, and not sharded yet
    head, bad, first, last = list_datasets(store).splitlines()
    assert head.split()[2:] == ["fingerprint", "images", "shape", "classes", "bytes", "runs"]
    assert bad.startswith("damaged  ")
    assert "cannot be read: " in bad
    sizes = sum(path.stat().st_size for path in store.local_path(faces.folder).glob("t*[rg]"))
    row = ["faces", faces.fingerprint[:16], "16", "1x8x8", "10", f"{sizes / 1000:.0f}", "kB", "2"]
    assert first.split() == row
    assert last.split()[:3] == [
        other.folder.removeprefix("datasets/"),
        other.fingerprint[:16],
        "18",
    ]


def test_a_data_set_is_shown_with_all_that_is_known_of_it(store):
    """Catches: a fact of another set of the lineage; a place where nothing lies."""
    first, grown = made(store, "faces", licence="CC0"), made(store, num_train=11)
    enter(store, NamedSet("faces", grown, 2, "s3://b/more", "CC BY 4.0"))
    used_by(store, "a", first)
    lines = dict(line.split(maxsplit=1) for line in show_dataset(store, "faces").splitlines()[1:])
    assert lines["images"] == "11 to train on, 6 held out"
    assert lines["shape"] == "1x8x8, uint8"
    assert lines["source"] == "s3://b/more"
    assert lines["licence"] == "CC BY 4.0"
    assert lines["before"] == f"faces@{first.fingerprint[:16]}"
    assert lines["runs"] == "none"
    assert lines["classes"].startswith("0 (")
    assert store.exists(lines["grid"].removeprefix(f"{store.uri}/"))
    old = show_dataset(store, f"faces@{first.fingerprint[:8]}")
    assert "runs       a\n" in old
    assert "10 to train on" in old
    with pytest.raises(ConfigError, match="names several data sets"):
        show_dataset(store, "faces,flowers")


def test_only_what_no_run_uses_is_deleted(store):
    """Catches: a data set that is taken from a run, by its folder's name or an older entry too."""
    first, grown = made(store, "faces"), made(store, num_train=11)
    enter(store, NamedSet("faces", grown, 2))
    used_by(store, "a", first)
    before = sorted(store.local_path("").rglob("*"))
    with pytest.raises(RunConflictError, match=r"'faces' is used by a; .*runs delete a"):
        delete_dataset(store, "faces", confirmed=True)
    store.delete(layout.dataset_pointer_key("a"))
    with pytest.raises(ConfigError, match=rf"deletes .*{first.folder}, .*{grown.folder} .*--yes"):
        delete_dataset(store, "faces", confirmed=False)
    store.create(layout.dataset_pointer_key("a"), first.to_json())
    assert sorted(store.local_path("").rglob("*")) == before


def test_a_data_set_is_deleted_with_its_name_and_nothing_else(store):
    """Catches: a name that means nothing; a folder that another name means; one of no name left."""
    faces, shared, bare = made(store, "faces"), made(store, num_train=11), made(store, num_train=12)
    enter(store, NamedSet("faces", shared, 2))
    give(store, "same", shared)
    said = delete_dataset(store, "faces", confirmed=True)
    assert said == (
        f"deleted {store.uri}/{faces.folder} and the name faces; another name means "
        f"faces@{shared.fingerprint[:16]}, which stays"
    )
    assert lineage(store, "faces") == []
    left = [one.removeprefix("datasets/") for one in sorted([bare.folder, shared.folder])]
    assert store.names("datasets") == [*left, "names"]
    folder = bare.folder.removeprefix("datasets/")
    store.write(f"{bare.folder}/{layout.DATASET_INDEX}", b"{}")  # damaged: it can go all the same
    delete_dataset(store, folder, confirmed=True)
    assert not store.local_path(bare.folder).exists()
    with pytest.raises(ConfigError, match=f"no data set '{folder}'"):
        delete_dataset(store, folder, confirmed=True)


def test_a_deletion_that_was_killed_leaves_no_bytes_behind_the_same_command(store, monkeypatch):
    """Killed once the folder is hidden, and once the name's is. Catches gigabytes under a hidden
    name that nothing ever deletes."""
    made(store, "faces")
    for survived in (0, 1):
        left = iter([shutil.rmtree] * survived)
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", lambda folder, left=left: next(left)(folder))
            with pytest.raises(StopIteration):
                delete_dataset(store, "faces", confirmed=True)
    with pytest.raises(ConfigError, match="no data set 'faces'"):
        delete_dataset(store, "faces", confirmed=True)
    assert not [one for one in store.local_path("").rglob("*") if one.is_file()]


def test_a_bucket_loses_the_name_last(store, monkeypatch):
    """Catches: a set that is half deleted and cannot be named any more."""
    faces, deleted, delete = made(store, "faces"), [], type(store).delete
    monkeypatch.setattr(type(store), "local_path", lambda self, key: None)
    monkeypatch.setattr(
        type(store), "delete", lambda self, key: (deleted.append(key), delete(self, key))
    )
    delete_dataset(store, "faces", confirmed=True)
    index, entry = deleted[-2:]
    assert index == f"{faces.folder}/{layout.DATASET_INDEX}"
    assert entry == "datasets/names/faces/000001.json"
    assert not any(store.exists(key) for key in (index, entry))


def test_a_root_counts_before_the_action_too_and_without_one_there_is_a_list(store, capsys):
    """Catches: data sets of another root that are shown, or deleted, since an action has a default
    root; and a command that lists nothing without a word for it."""
    made(store, "faces")
    for words in (["datasets"], ["datasets", "list"], ["runs"]):
        assert main([words[0], "--root", store.uri, *words[1:]]) == 0
    assert main(["datasets", "--root", store.uri, "show", "faces"]) == 0
    assert capsys.readouterr().out.count("faces") >= 3


def test_the_commands_speak_of_data_sets_and_of_a_run_that_has_one(store, capsys):
    """Catches: an action that does that of `runs`; --data that is no key of the configuration."""
    faces = made(store, "faces")
    assert main(["datasets", "list", "--root", store.uri]) == 0
    assert main(["datasets", "show", "faces", "--root", store.uri]) == 0
    assert main(["shard", "digits", "--data", "faces", "--root", store.uri, "--dry-run"]) == 0
    found = capsys.readouterr()
    assert found.out.startswith("data set")
    pinned = f"faces@{faces.fingerprint[:16]}"
    assert f'"sets": "{pinned}"' in found.out
    assert f"data set: {pinned}" in found.err
    used_by(store, "a", faces, sets=pinned)
    assert f"data       digits, 1x8x8, {pinned}" in show_run(store, "a")
    assert main(["datasets", "delete", "faces", "--yes", "--root", store.uri]) == 2
    assert "is used by a" in capsys.readouterr().err


def test_what_is_made_of_others_says_so_and_keeps_them_from_deletion(store):
    """Catches: a data set that loses its images with one that no run uses."""
    parts = [made(store, "noise"), made(store, "more", num_train=11)]
    given = [
        Given(name, load_index(store, one.folder, one.fingerprint), Fraction(weight))
        for name, one, weight in zip(("noise", "more"), parts, (7, 3), strict=True)
    ]
    own = plan(data_config(duplicates="drop"), given)
    compose(store, own)
    folder = own.pointer.folder.removeprefix("datasets/")
    shown = show_dataset(store, folder)
    assert f"made of    noise@{parts[0].fingerprint[:16]}, weight 7" in shown
    assert "left out   of train: 10 equal to another" in shown
    with pytest.raises(RunConflictError, match=f"made of data set 'noise'.*delete {folder}"):
        delete_dataset(store, "noise", confirmed=True)
    delete_dataset(store, folder, confirmed=True)
    delete_dataset(store, "noise", confirmed=True)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_folder_that_has_a_name_is_deleted_by_that(store, is_damaged):
    """Catches: "deleted" of what stays; a damaged one that is taken from the name that means it."""
    faces = made(store, "faces")
    if is_damaged:
        store.write(f"{faces.folder}/{layout.DATASET_INDEX}", b"{}")
    with pytest.raises(ConfigError, match=r"has a name, faces, .*datasets delete faces"):
        delete_dataset(store, faces.folder.removeprefix("datasets/"), confirmed=True)
    assert store.exists(f"{faces.folder}/{layout.DATASET_INDEX}")
    delete_dataset(store, "faces", confirmed=True)
    assert store.names("datasets") in ([], ["names"])


def test_what_grew_of_a_data_set_is_called_by_its_name_where_that_is_to_go_first(store):
    """Catches: a command that refuses what it was said to delete."""
    first, second = made(store, "faces"), made(store, "more", num_train=11)
    given = [
        Given(name, load_index(store, one.folder, one.fingerprint), None)
        for name, one in (("faces", first), ("more", second))
    ]
    own = plan(data_config(), given)
    compose(store, own)
    give(store, "both", own.pointer)
    with pytest.raises(RunConflictError, match=r"delete it first: ddpm datasets delete both$"):
        delete_dataset(store, "faces", confirmed=True)
