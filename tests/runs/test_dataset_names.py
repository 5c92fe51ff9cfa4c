"""Names of data sets: given once, to one set of images, and never taken away by another."""

import pytest

from ddpm_core.config.data_ref import DataSets
from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.runs import dataset_names, layout
from ddpm_core.runs.dataset_names import NamedSet, enter, find, give, lineage, names_of, unnamed
from ddpm_core.store.commit import commit
from ddpm_core.store.storage import open_store
from tests.datasets.made import made


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "a root"))


def ref(text):
    return DataSets.parse(text).refs[0]


def test_a_name_is_of_one_set_of_images(store):
    """Catches: a name that moves to other images, and a second entry for the same ones."""
    first, other = made(store, "faces"), made(store, num_train=11)
    assert give(store, "faces", first) == lineage(store, "faces")[0]
    before = store.names(layout.dataset_name_folder("faces"))
    with pytest.raises(RunConflictError, match=r"'faces' is that of a data set of other images"):
        give(store, "faces", other)
    assert store.names(layout.dataset_name_folder("faces")) == before == ["000001.json"]
    assert find(store, ref("faces")).pointer == first


def test_of_two_that_give_a_name_at_once_one_wins(store, monkeypatch):
    """Catches: looking first and writing then, by which the second overwrites the first."""
    first, other = made(store), made(store, num_train=11)
    monkeypatch.setattr(dataset_names, "require_free", lambda *_: None)  # both looked before
    give(store, "faces", first)
    monkeypatch.undo()
    with pytest.raises(RunConflictError, match="other images"):
        enter(store, NamedSet("faces", other, 1))
    assert find(store, ref("faces")).pointer == first
    # The same images from another place are no conflict: the first entry stands.
    assert enter(store, NamedSet("faces", first, 1, source="/elsewhere")).source is None


def test_a_set_that_grew_stays_what_its_fingerprint_means(store):
    """Catches: a pinned reference that follows the name, and a name that means the oldest."""
    first, grown = made(store, "faces"), made(store, num_train=11)
    enter(store, NamedSet("faces", grown, 2))
    assert find(store, ref("faces")).pointer == grown
    assert find(store, ref(f"faces@{first.fingerprint[:8]}")).pointer == first
    assert give(store, "faces", first).number == 1
    assert [one.number for one in names_of(store, grown.fingerprint)] == [2]
    with pytest.raises(ConfigError, match=r"means no data set .* give one of faces@.*, faces@"):
        find(store, ref("faces@00000000"))


def test_another_note_on_the_licence_is_a_further_entry(store):
    """Catches: a note that is lost, and one that is dropped when none is given again."""
    pointer = made(store, "faces", licence="CC0")
    give(store, "faces", pointer)
    assert find(store, ref("faces")).licence == "CC0"
    give(store, "faces", pointer, licence="CC BY 4.0")
    assert find(store, ref("faces")).licence == "CC BY 4.0"
    assert find(store, ref("faces")).source == "/gone"


def test_a_note_on_what_a_name_meant_before_does_not_make_it_that_again(store):
    """Catches: a note by which every later run is trained on the set as it was before it grew."""
    first, grown = made(store, "faces"), made(store, num_train=11)
    enter(store, NamedSet("faces", grown, 2))
    with pytest.raises(RunConflictError, match=rf"is faces@{grown.fingerprint[:16]} by now"):
        give(store, "faces", first, licence="CC0")
    assert find(store, ref("faces")).pointer == grown
    give(store, "faces", grown, licence="CC0")
    assert (find(store, ref("faces")).pointer, find(store, ref("faces")).licence) == (grown, "CC0")


def test_a_set_without_a_name_is_found_by_its_folder(store):
    """Catches: data sets of earlier versions that cannot be used, or are listed twice."""
    made(store, "faces")
    pointer = made(store, num_train=11)
    folder = pointer.folder.removeprefix("datasets/")
    assert unnamed(store) == [folder]
    assert find(store, ref(folder)).pointer == pointer
    store.delete(f"{pointer.folder}/{layout.DATASET_INDEX}")
    assert unnamed(store) == []
    with pytest.raises(ConfigError, match=rf"no data set '{folder}' .* there are faces$"):
        find(store, ref(folder))


def test_a_name_that_is_not_there_lists_those_that_are(store):
    """Catches: a refusal that leaves one to look for the name oneself."""
    with pytest.raises(ConfigError, match="nor any other"):
        find(store, ref("faces"))
    made(store, "faces")
    with pytest.raises(ConfigError, match=r"did you mean 'faces'\? there are faces$"):
        find(store, ref("facse"))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"body": {}}'])
def test_a_damaged_entry_is_said_and_not_taken_for_a_free_name(store, content):
    """Catches: a traceback, and a name that is given anew because its entry cannot be read."""
    pointer = made(store, "faces")
    store.write(f"{layout.dataset_name_folder('faces')}/000001.json", content)
    for call in (lambda: find(store, ref("faces")), lambda: give(store, "faces", pointer)):
        with pytest.raises(DataError, match=r"000001\.json.*delete the file, and give the name"):
            call()


@pytest.mark.parametrize("change", [{"dataset": "../elsewhere"}, {"fingerprint": "0" * 64}])
def test_an_entry_that_names_no_data_set_is_damaged(store, change):
    """Catches: a place outside of the root, or of another data set, that is read for this one."""
    pointer = made(store)
    body = {"name": "faces", "dataset": pointer.folder, "fingerprint": pointer.fingerprint}
    commit(store, layout.dataset_name_folder("faces"), {}, body | change, name="000001.json")
    with pytest.raises(DataError, match=r"000001\.json names no data set; delete the file"):
        find(store, ref("faces"))


def test_a_damaged_entry_hides_no_other_name(store):
    """Catches: one damaged file below a shared root by which no data set there can be named."""
    made(store, "faces")
    other = made(store, "flowers", num_train=11)
    store.write(f"{layout.dataset_name_folder('faces')}/000001.json", b"{")
    assert [one.name for one in names_of(store, other.fingerprint)] == ["flowers"]
