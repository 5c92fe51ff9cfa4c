"""Prompts in the configuration: what is a text, what is refused, and what a network reads of it."""

import json

import pytest

from ddpm_core.canonical import fingerprint
from ddpm_core.config import UNetConfig, identity
from ddpm_core.config.doubts import doubts
from ddpm_core.config.prompts import cut_text, prompts_of_lines
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits
from ddpm_core.text.tokens import num_tokens


@pytest.fixture
def read(monkeypatch):
    """Let there be a U-Net that is given captions."""
    monkeypatch.setattr(UNetConfig, "reads_text", True)


def prompted(prompts, **changes):
    return digits().replaced({"model.conditioning": "text", "sample.prompts": prompts, **changes})


@pytest.mark.usefixtures("read")
def test_a_text_by_itself_is_one_and_words_mean_the_data_set():
    """Catches a text of which each letter is a prompt, and no way to mean the word itself."""
    assert prompted("a red seven").sample.prompts == ("a red seven",)
    assert prompted("training").sample.prompts == "training"
    assert prompted(["training"]).sample.prompts == ("training",)
    config = prompted(["", "七つ\n"])
    assert config.from_json(config.to_json()) == config


@pytest.mark.usefixtures("read")
@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([], "a list of 1 to 4096 texts"),
        ([1], "a list of 1 to 4096 texts"),
        (7, "a list of 1 to 4096 texts"),
        (["a"] * 4097, "a list of 1 to 4096 texts"),
        ("@prompts.txt", "names a file, which is read where a command or a flow begins"),
        (["x" * 2**16], "65540 bytes as JSON, and at most 65536 go into a run.json"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_sentence(prompts, match):
    with pytest.raises(ConfigError, match=match) as refused:
        prompted(prompts)
    assert len(str(refused.value)) < 500


def test_a_network_without_text_refuses_prompts():
    """Catches a prompt that silently changes nothing."""
    match = "is a setting of model.conditioning=text, or of .* the network is given no text; leave"
    with pytest.raises(ConfigError, match=match):
        digits().replaced({"sample.prompts": ["a red seven"]})


@pytest.mark.usefixtures("read")
def test_prompts_count_in_the_fingerprint_and_the_default_does_not():
    """Catches samples of another text in the same folder, and every old run as another."""

    def of(config):
        return fingerprint(identity.sample_set(config))

    assert "prompts" not in identity.counted("sample", digits().sample)
    assert of(prompted(["a"])) != of(prompted(["b"])) != of(prompted("training"))


@pytest.mark.usefixtures("read")
def test_a_dry_run_says_what_is_cut():
    (line,) = doubts(prompted(["short", "much longer"], **{"model.text_length": 8}))
    assert "1 of 2 prompts" in line
    assert doubts(prompted(["short"], **{"model.text_length": 8})) == []
    assert doubts(prompted("held_out", **{"model.text_length": 8})) == []


@pytest.mark.parametrize("text", ["", "abc", "äb", "七つ", "七つの", "x" * 7, "x" * 8])
def test_a_prompt_is_cut_where_its_tokens_have_no_place(text):
    """Catches characters counted for bytes, and an end that is not counted."""
    assert (cut_text([text], 8) is not None) == (num_tokens(text) > 8)


def test_a_file_has_a_prompt_in_each_line():
    """Catches lines that end as on Windows, a mark at the beginning as a letter of the first text,
    and an empty text that is left out between two."""
    content = "\ufeffa red seven\r\n\r\nzwei\n\n".encode()
    assert prompts_of_lines(content, origin="FILE") == ["a red seven", "", "zwei"]
    for nothing in (b"", b"\n \n"[:1]):
        with pytest.raises(ConfigError, match="FILE holds no prompt"):
            prompts_of_lines(nothing, origin="FILE")
    with pytest.raises(ConfigError, match="FILE, line 2, is no text in UTF-8"):
        prompts_of_lines(b"good\nb\xe4d", origin="FILE")
    assert json.dumps(prompts_of_lines(b"a\n", origin="FILE")) == '["a"]'
