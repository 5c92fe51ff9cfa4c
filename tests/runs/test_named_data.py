"""Runs on data sets by their names: what a configuration becomes, and what is refused."""

import pytest

from ddpm_core.__main__ import main
from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.recipes import digits, recipe
from ddpm_core.runs import layout, named_data
from ddpm_core.runs.dataset_names import NamedSet, enter, give, names_of
from ddpm_core.runs.run import configure, open_run
from ddpm_core.store.commit import commit
from ddpm_core.store.storage import open_store
from tests.datasets.made import made


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "a root"))


def configured(store, target="digits", run=None, **changes):
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return configure(target, root=store.uri, run=run, changes=keys)[1]


def begun(store, config, pointer):
    """The run is on record, with this data set."""
    open_run(store, config)
    store.create(layout.dataset_pointer_key(config.name), pointer.to_json())


def test_the_section_is_what_the_data_set_says_of_itself(store):
    """Catches: keys of the recipe that are not the set's, a name without its fingerprint, and a
    run on a named set that is another experiment than one on the source.
    """
    pointer = made(store, "faces")
    config = configured(store, data__sets="faces", train__num_steps=7)
    assert config.data.sets == f"faces@{pointer.fingerprint[:16]}"
    assert (config.data.num_test_images, config.data.images_per_shard) == (6, 4)
    assert config.train.num_steps == 7
    source = digits().replaced(
        {"data.num_test_images": 6, "data.images_per_shard": 4, "train.num_steps": 7}
    )
    assert layout.experiment_fingerprint(config) == layout.experiment_fingerprint(source)
    assert source.differences(config) == []


@pytest.mark.parametrize("name", ["swiss-roll", "cifar10", "images", "celebahq", "heartbeat"])
def test_every_kind_of_data_set_is_read_back_from_what_its_index_says(store, name):
    """Catches: a key that the index leaves out, such as the depth of the swiss roll."""
    config = recipe(name)
    body = {"fingerprint": "d" * 64, "data": named_data.identity.data(config.data)}
    folder = layout.dataset_folder(config.data.name, "d" * 64)
    commit(store, folder, {}, body, name=layout.DATASET_INDEX)
    found = configured(store, name, data__sets=folder.removeprefix("datasets/"))
    unpinned = found.data.model_copy(update={"sets": None})
    assert named_data.identity.data(unpinned) == named_data.identity.data(config.data)
    assert layout.experiment_fingerprint(found) == layout.experiment_fingerprint(config)


def test_the_set_comes_before_the_rules_of_the_recipe(store):
    """Catches: the shape of the recipe's own images held against keys that fit those of the set."""
    size = {"data.height": 64, "data.width": 64, "model.attention_resolutions": [64]}
    images = recipe("images").replaced(size)
    body = {"fingerprint": "d" * 64, "data": named_data.identity.data(images.data)}
    folder = layout.dataset_folder("images", "d" * 64)
    commit(store, folder, {}, body, name=layout.DATASET_INDEX)
    name = folder.removeprefix("datasets/")
    config = configured(
        store, "images", data__sets=name, model__attention_resolutions=[64], data__height=64
    )
    assert config.data.shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__height": 16}, r"data\.height=16, and the data set faces@.* has data\.height=8;"),
        ({"data__name": "mnist"}, r'data\.name="mnist", and .* has data\.name="digits"'),
        ({"data__source": "/x"}, r'data\.source="/x" says how a data set is made, and data\.sets'),
        ({"data__licence": "CC0"}, r"data\.licence=.* leave one of the two out"),
        ({"data__hieght": 8}, "did you mean 'height'"),
        ({"data__sets": "facse"}, r"no data set 'facse' .*did you mean 'faces'\?"),
        ({"data__sets": "faces,flowers"}, r"no data set 'flowers'"),
        ({"data__sets": "faces:-1"}, "weight must be a number above 0"),
        ({"data__sets": 7}, r"data\.sets=7"),
    ],
)
def test_what_contradicts_the_set_is_refused_with_what_it_has(store, changes, words):
    """Catches: a key beside --data that is dropped without a word."""
    made(store, "faces")
    with pytest.raises(ConfigError, match=words):
        configured(store, **{"data__sets": "faces", **changes})
    agreeing = configured(store, data__sets="faces", data__height=8, data__source="default")
    assert agreeing.data.height == 8


def test_a_run_goes_on_with_its_own_set_when_the_name_means_another(store):
    """Catches: a run whose images change when a set grows; one that needs the name for good."""
    first, grown = made(store, "faces"), made(store, num_train=11)
    config = configured(store, data__sets="faces")
    begun(store, config, first)
    enter(store, NamedSet("faces", grown, 2))
    assert configured(store, data__sets="faces") == config
    assert configured(store, run="new", data__sets="faces").data.sets.endswith(
        grown.fingerprint[:16]
    )
    # One that was begun from the source has the older set too.
    source = digits().replaced({"name": "b", "data.num_test_images": 6, "data.images_per_shard": 4})
    begun(store, source, first)
    assert configured(store, run="b", data__sets="faces").data == config.data
    with pytest.raises(RunConflictError, match=r"run 'b' uses the data set faces@.*--run NAME"):
        configured(store, run="b", data__sets=f"faces@{grown.fingerprint[:16]}")
    for key in [f"{layout.dataset_name_folder('faces')}/00000{n}.json" for n in (1, 2)]:
        store.delete(key)
    run_json = store.uri_of(layout.run_json_key("digits"))
    assert configure(run_json, root=None, run=None, changes={})[1] == config
    assert named_data.named_sets(store, config)[0].pointer == first


def test_the_source_is_taken_again_by_saying_so(store):
    """Catches: a run that can never be given back its source."""
    made(store, "faces")
    config = configured(store, data__sets="faces")
    open_run(store, config)
    again = configured(store, "digits", data__sets=None, data__num_test_images=6,
                       data__images_per_shard=4)  # fmt: skip
    assert again.data.sets is None
    assert config.differences(again) == []


def test_one_set_by_two_names_is_no_mixture(store):
    """Catches: each image twice, in training and in what is held out, where two sets are meant."""
    pointer = made(store, "faces")
    give(store, "people", pointer)
    with pytest.raises(ConfigError, match=r"one data set twice, as faces@.* and as people@"):
        configured(store, data__sets="faces:0.5,people:0.5")


def test_a_set_that_is_gone_or_damaged_is_said(store):
    """Catches: a name of nothing that becomes a traceback, or the recipe's own images."""
    pointer = made(store, "faces")
    key = f"{pointer.folder}/{layout.DATASET_INDEX}"
    index = store.read(key)
    store.write(key, index.replace(b"num_test_images", b"num_tset_images"))
    with pytest.raises(DataError, match=r"index\.json.*ddpm datasets delete"):
        configured(store, data__sets="faces")
    store.delete(key)
    with pytest.raises(DataError, match=r"index\.json is gone.*ddpm datasets delete"):
        configured(store, data__sets="faces")


def test_a_name_is_given_once_and_by_default_to_what_has_none(store):
    """Catches: a second name for each run of the same images; a default that refuses a run."""
    pointer, other = made(store), made(store, num_train=11)
    config = digits().replaced({"data.num_test_images": 6})
    named_data.name_set(store, config, pointer)
    named_data.name_set(store, config.replaced({"name": "b"}), pointer)
    assert named_data.called(store, pointer) == f"digits@{pointer.fingerprint[:16]}"
    named_data.name_set(store, config, other)  # its name is taken: it keeps its folder's
    assert named_data.called(store, other) == other.folder.removeprefix("datasets/")
    with pytest.raises(ConfigError, match=r"data\.licence is kept beside the name"):
        named_data.name_set(store, config.replaced({"data.licence": "CC0"}), other)
    store.write(f"{layout.dataset_name_folder('digits')}/000001.json", b"{")  # nor a refusal
    named_data.name_set(store, config, other)
    photos = recipe("images").replaced({"name": "photos"})
    third = made(store, num_train=12)
    for config in (photos, photos.replaced({"name": "again"})):  # the second run of the images
        named_data.name_set(store, config, third)
    assert [one.name for one in names_of(store, third.fingerprint)] == ["photos"]
    assert named_data.default_name(recipe("images").replaced({"name": "photos"})) == "photos"


def test_a_name_of_a_set_that_is_made_otherwise_is_refused_before_the_source_is_read(store):
    """Catches: a refusal after hours of reading; one of a set that is made alike."""
    made(store, "faces")
    alike = digits().replaced(
        {"data.num_test_images": 6, "data.images_per_shard": 4, "data.set_name": "faces"}
    )
    named_data.require_name(store, alike)
    begun(store, alike.replaced({"name": "other"}), made(store, num_train=11))
    taken = ["shard", "digits", "--run", "other", "--root", store.uri, "--dry-run", "--name"]
    keys = ["--set", "data.num_test_images=6", "--set", "data.images_per_shard=4"]
    assert main([*taken, "faces", *keys]) == 2  # also where the data set is there, of other images
    assert main([*taken, "others", *keys]) == 0
    with pytest.raises(RunConflictError, match=r"made otherwise .*test_images: 6 there, 7 here"):
        named_data.require_name(store, alike.replaced({"data.num_test_images": 7}))


def test_captions_of_classes_are_the_run_s_and_those_of_the_images_the_data_set_s(store):
    """Catches: classes that cannot be named for a set that is there; captions that are replaced."""
    made(store, "faces")
    words = {"data__captions": "classes", "data__caption_templates": ["a {name}"]}
    config = configured(store, data__sets="faces", **words)
    assert (config.data.captions, config.data.caption_templates) == ("classes", ("a {name}",))
    plain = configured(store, data__sets="faces")
    assert named_data.identity.data(config.data) == named_data.identity.data(plain.data)
    others = {**words, "data__caption_templates": ["the {name}"]}
    three = (config, plain, configured(store, data__sets="faces", **others))
    assert len({layout.experiment_fingerprint(one) for one in three}) == 3
    with pytest.raises(ConfigError, match=r'has data.captions="none"; leave data.captions out'):
        configured(store, data__sets="faces", data__captions="beside")
