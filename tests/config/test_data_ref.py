"""References to data sets: what is read, what is refused, and how they stand in a configuration."""

import re

import pytest

from ddpm_core.config import DataConfig
from ddpm_core.config.data_ref import SETS_PATTERN, DataRef, DataSets, is_folder_name
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits
from ddpm_core.runs import layout

FINGERPRINT = "3f2a90c1d2e4b6a8"


@pytest.mark.parametrize(
    ("text", "refs"),
    [
        ("faces", [DataRef(name="faces")]),
        (f"faces@{FINGERPRINT}", [DataRef(name="faces", fingerprint=FINGERPRINT)]),
        (f"digits-{FINGERPRINT}", [DataRef(name=f"digits-{FINGERPRINT}")]),
        (
            f"faces@{FINGERPRINT}:0.7, flowers:3e-1",
            [
                DataRef(name="faces", fingerprint=FINGERPRINT, weight=0.7),
                DataRef(name="flowers", weight=0.3),
            ],
        ),
        ("a:2,b:1", [DataRef(name="a", weight=2), DataRef(name="b", weight=1)]),
    ],
)
def test_references_are_read_and_written_back(text, refs):
    """Catches: a part of a reference that is lost on the way through run.json."""
    found = DataSets.parse(text)
    assert found.refs == tuple(refs)
    assert DataSets.parse(str(found)) == found
    assert re.search(SETS_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty item"),
        ("faces,", "empty item"),
        ("Faces", "names no data set"),
        ("../faces", "names no data set"),
        ("faces@3f2a", "at least 8 digits"),
        ("faces@3F2A90C1", "names no data set"),
        ("faces:0", "above 0"),
        ("faces:-1", "above 0"),
        ("faces:nan", "above 0"),
        ("faces:1e999", "above 0"),
        ("faces:1_0", "above 0"),
        ("faces:", "above 0"),
        ("faces:1:2", "above 0"),
        ("faces:0.5,faces:0.5", "names 'faces' twice"),
        (f"faces,faces@{FINGERPRINT}", "names 'faces' twice"),
        ("faces:0.5,flowers", "gives flowers no weight"),
    ],
)
def test_what_names_no_data_sets_is_refused_in_one_sentence(text, words):
    """Catches: a slip that is taken for a set or a weight, and pydantic's many lines."""
    with pytest.raises(ConfigError) as error:
        digits().replaced({"data.sets": text})
    _head, *lines = str(error.value).splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert lines[0].lstrip().startswith("data.sets: sets=")


def test_sets_are_places_and_exclude_how_a_set_is_made():
    """Catches: a pinned name that makes another experiment; a source beside it, never read."""
    source = digits()
    named = source.replaced({"data.sets": f"faces@{FINGERPRINT}"})
    assert layout.experiment_fingerprint(named) == layout.experiment_fingerprint(source)
    assert source.differences(named) == []
    for key, value in (("licence", "CC0"), ("set_name", "faces"), ("source_sha256", "0" * 64)):
        with pytest.raises(ConfigError, match=f"{key}=.* leave out one of the two"):
            named.replaced({f"data.{key}": value})


def test_a_name_to_be_given_is_no_folder_of_a_data_set():
    """Catches: a name that would hide a data set without one."""
    assert is_folder_name(f"faces-{FINGERPRINT}")
    for name in (f"faces-{FINGERPRINT}", "faces.", "fa..ces"):
        with pytest.raises(ValueError, match="set_name="):
            DataConfig(num_test_images=297, set_name=name)


def test_a_pinned_reference_meets_what_it_was_pinned_from():
    """Catches: a run that goes on with the sets of a reference of other weights, or of others."""
    pinned = DataSets.parse(f"faces@{FINGERPRINT}:2,flowers@{FINGERPRINT[::-1]}:1")
    assert DataSets.parse("faces:2,flowers:1").is_met_by(pinned)
    assert DataSets.parse(f"faces@{FINGERPRINT[:8]}:2,flowers:1").is_met_by(pinned)
    for other in ("faces:1,flowers:1", "faces:2", "faces@00000000:2,flowers:1", "faces,flowers"):
        assert not DataSets.parse(other).is_met_by(pinned)
    assert pinned.is_pinned
    assert not DataSets.parse("faces").is_pinned
