"""Files of prompts: read once, and known by their texts from then on."""

import pytest

from ddpm_core.config import UNetConfig
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits
from ddpm_core.runs import prompt_file
from ddpm_core.runs.run import configure
from tests.fake_s3 import BUCKET

pytest_plugins = ["tests.s3_fixtures"]

TEXT = {"model.conditioning": "text"}


@pytest.fixture(autouse=True)
def _read(monkeypatch):
    monkeypatch.setattr(UNetConfig, "reads_text", True)


def config_of(place, **changes):
    given = {**TEXT, "sample.prompts": place, **changes}
    return configure("digits", root="/nowhere", run=None, changes=given)[1]


def test_a_file_becomes_its_texts(tmp_path):
    """Catches a run.json that names a place, and a fingerprint of the path."""
    file, other = tmp_path / "my prompts.txt", tmp_path / "other.txt"
    for one in (file, other):
        one.write_text("a red seven\ntwo\n")
    config = config_of(f"@{file}")
    assert config.sample.prompts == ("a red seven", "two")
    assert config == config_of(f"@{other}")
    assert str(tmp_path) not in config.to_json()
    whole = digits().sample.model_dump(mode="json") | {"prompts": f"@{file}"}
    found = configure("digits", root="/nowhere", run=None, changes={**TEXT, "sample": whole})[1]
    assert found.sample.prompts == ("a red seven", "two")


def test_all_stages_of_a_flow_read_the_same_texts(tmp_path):
    """Catches a file that is read again by each stage, on a machine that may not have it."""
    file = tmp_path / "prompts.txt"
    file.write_text("one\n")
    given = {**TEXT, "sample.prompts": f"@{file}"}
    config = config_of(f"@{file}")
    file.unlink()
    pinned = prompt_file.pinned(config, given)
    assert pinned["sample.prompts"] == ["one"]
    assert configure("digits", root="/nowhere", run=None, changes=pinned)[1] == config
    assert prompt_file.pinned(digits(), {"sample.seed": 1}) == {"sample.seed": 1}
    assert prompt_file.pinned(digits(), None) is None


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("nowhere.txt", "there is no such file; give another, or the texts"),
        ("", "is no regular file"),
        (".", "is no regular file"),
        ("s3://bucket", "an object of a bucket is s3://bucket/key"),
        ("a\0b", "cannot be read"),
        ("~nobody-of-this-name/x", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(place, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=match):
        config_of(f"@{place}")


def test_a_file_that_is_too_long_is_refused(tmp_path):
    (tmp_path / "long").write_bytes(b"a" * (2**20 + 1))
    with pytest.raises(ConfigError, match="is longer than the 1048576 bytes"):
        config_of(f"@{tmp_path / 'long'}")


def test_a_file_may_lie_in_a_bucket(s3_server):
    """Catches an URI that is taken for a path of this machine, and a missing object without a
    word."""
    s3_server.objects["mine/prompts.txt"] = "ein roter Siebener\nzwölf\n".encode()
    config = config_of(f"@s3://{BUCKET}/mine/prompts.txt")
    assert config.sample.prompts == ("ein roter Siebener", "zwölf")
    with pytest.raises(ConfigError, match="there is no such file"):
        config_of(f"@s3://{BUCKET}/mine/other.txt")
