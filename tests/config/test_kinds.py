"""Several kinds of one section: told apart by `kind`, and never taken for each other."""

import json
import re

import pytest

from ddpm_core.canonical import fingerprint
from ddpm_core.cli import describe_keys, parse_overrides
from ddpm_core.config import ChainConfig, DiTConfig, RunConfig, UNetConfig, identity
from ddpm_core.config.section import HOUSEKEEPING
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits, recipe
from ddpm_core.runs import begun
from ddpm_core.runs.run import configure, open_run
from ddpm_core.store.storage import open_store
from flows import plan

SMALL = {
    "model.kind": "dit",
    "model.hidden_size": 64,
    "model.num_layers": 2,
    "model.num_heads": 4,
}


def small() -> RunConfig:
    return digits().replaced(SMALL)


def test_a_file_without_a_kind_is_of_the_first_kind():
    """Catches: a run.json of before that is no configuration any more, or another experiment."""
    before = json.loads(digits().to_json())
    assert before["model"].pop("kind") == "unet"
    found = RunConfig.from_json(json.dumps(before))
    assert found == digits()
    assert "kind" not in identity.experiment(found)["model"]


def test_another_kind_begins_with_its_own_defaults():
    """Catches: keys of the recipe's kind that are carried over, or refused though nobody gave them;
    a value of the user's that is lost; a kind that is read again as another."""
    found = small()
    assert found.model == DiTConfig(hidden_size=64, num_layers=2, num_heads=4)
    assert found.train == digits().train
    assert RunConfig.from_json(found.to_json()) == found
    assert found.replaced({"model.kind": "dit"}) == found
    assert found.replaced({"model.patch_size": 4}).model.hidden_size == 64
    back = found.replaced({"model.kind": "unet", "model.attention_resolutions": [8]})
    assert back.model == UNetConfig(attention_resolutions=(8,))
    # The order in which they are given says nothing.
    assert digits().replaced(dict(reversed(SMALL.items()))) == found


UNMEASURED = {"evaluate.num_classified_images": 0, "evaluate.label_worth": False}
"""what the recipes of labels measure of them"""


def test_another_kind_keeps_the_labels():
    """Catches: a recipe of labels that trains without them, and says nothing."""
    found = recipe("digits-classes").replaced(SMALL)
    assert (found.model.conditioning, found.num_classes) == ("label", 10)
    back = found.replaced({"model.kind": "unet", "model.attention_resolutions": [8]})
    assert back.model.conditioning == "label"
    with pytest.raises(ConfigError, match=r"evaluate\.num_classified_images=100 is a setting of"):
        recipe("digits-classes").replaced(SMALL | {"model.conditioning": "none"})
    bare = UNMEASURED | {"model.conditioning": "none"}
    without = recipe("digits-classes").replaced(SMALL | bare)
    assert without.model == small().model


def test_a_section_given_whole_keeps_the_labels(tmp_path, caplog):
    """Catches: labels that `--set 'model={"kind":"dit"}'` loses without a word; a key of the given
    section that does not count; a section of the caller's that is written to."""
    labels = recipe("digits-classes").replaced({"model.num_classes": 10})
    of_labels = {"conditioning": "label", "num_classes": 10}
    given = {"kind": "dit"}
    found = labels.replaced({"model": given, "model.patch_size": 4}).model
    assert found == DiTConfig(**of_labels, patch_size=4)
    assert given == {"kind": "dit"}
    same = labels.replaced({"model": {"attention_resolutions": [8]}}).model
    assert same == UNetConfig(**of_labels, attention_resolutions=(8,))
    without = {"kind": "dit", "conditioning": "none", "num_classes": None}
    assert labels.replaced(UNMEASURED | {"model": without}).model == DiTConfig()
    _, config = configure("digits-classes", root=str(tmp_path), run=None, changes={"model": given})
    assert config.model == DiTConfig(conditioning="label")
    (line,) = caplog.messages
    listed = re.findall(r"(model\.\w+)=", line.partition(": not given")[2].partition(";")[0])
    # What the line does not list is given or kept.
    assert {key.removeprefix("model.") for key in listed} == (
        DiTConfig.model_fields.keys()
        - {"kind", "conditioning", "num_classes", "known", "text_length", "low_size"}
    )


def test_a_whole_section_and_single_keys_of_it_go_together():
    """Catches: a key that is refused as one of another kind, and as one of this kind; what is lost
    by the order in which they are given."""
    changes = {"model.patch_size": 4, "model": {"kind": "dit"}}
    assert digits().replaced(changes).model == DiTConfig(patch_size=4)
    assert digits().replaced(dict(reversed(changes.items()))).model == DiTConfig(patch_size=4)
    whole = {"model": {"attention_resolutions": [8]}, "model.dropout": 0.5}
    assert digits().replaced(whole).model == UNetConfig(attention_resolutions=(8,), dropout=0.5)


def test_a_key_of_one_kind_may_be_housekeeping(monkeypatch):
    """Catches: a KeyError for every run of another kind."""
    marks = RunConfig.uncounted_keys() | {"model.patch_size": HOUSEKEEPING}
    monkeypatch.setattr(RunConfig, "uncounted_keys", lambda *_: marks)
    assert "model.patch_size" not in digits().housekeeping()
    assert small().housekeeping()["model.patch_size"] == 2


def test_a_key_is_added_to_one_kind(monkeypatch):
    """Catches: one first default for the keys of two kinds that are called the same."""
    monkeypatch.setitem(identity.OF_KIND, "dit", identity.OF_KIND["dit"] - {"patch_size"})
    monkeypatch.setitem(identity.ADDED, "model.dit", {"patch_size": 4})
    monkeypatch.setitem(identity.ADDED, "model.unet", {"patch_size": 2})
    of_four = small().replaced({"model.patch_size": 4}).model
    assert "patch_size" not in identity.counted("model", of_four)
    assert identity.counted("model", small().model)["patch_size"] == 2


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model.kind": "dti"}, ['model.kind="dti": no such kind', "did you mean 'dit'?"]),
        ({"model.kind": "vit"}, ["no such kind", "'dit'"]),
        ({"model.kind": "mlp-mixer"}, ["no such kind; known: unet, dit"]),
        ({"model": {"kind": ["dit"]}, "model.patch_size": 2}, ["model.patch_size is a key of"]),
        ({"model.kind": ["dit"]}, ['model.kind=["dit"]: no such kind']),
        (
            {"model.kind": "dit", "model.base_channels": 64},
            ["a key of model.kind=unet and model.kind=adm and model.kind=classifier, and this is"],
        ),
        (
            {"model.patch_size": 2},
            [
                "model.patch_size is a key of model.kind=dit and model.kind=clip, and this is",
                "or set model.kind=dit",
            ],
        ),
        (
            {"model.kind": "dit", "model": {"kind": "unet"}},
            ['model.kind="dit", and model={"kind": "unet"} is of another kind; give one of them'],
        ),
        (
            {"model.conditioning": "label", "model.num_classes": 2},
            ["model.num_classes=2, but digits has 10 classes; set model.num_classes=null"],
        ),
        (
            {"model.kind": "classifier", "model.known": True, "model.attention_resolutions": [8]},
            ["known=true is for networks that are given something", "set model.known=false"],
        ),
        (
            {"model.conditioning": "text"},
            ["captions, and kind=unet reads none; set model.kind=adm, or"],
        ),
        ({"model.text_length": 64}, ["text_length=64 is a setting of conditioning=text"]),
        (
            {
                "model.kind": "classifier",
                "model.attention_resolutions": [8],
                "model.text_length": 64,
            },
            [
                "text_length=64 is for networks that are given something",
                "set model.text_length=128",
            ],
        ),
        ({"model.kind": "dit", "model.patch_sise": 2}, ["did you mean 'patch_size'?"]),
        ({"model.kind": "dit", "model.depth": 2}, ["did you mean 'model.num_layers'?"]),
        ({"model.depth": 2}, ["did you mean 'model.num_res_blocks'?"]),
        (
            {"model.kind": "dit", "model.num_layers": 0},
            ["model.num_layers=0", "(blocks, N; e.g. 12"],
        ),
        ({"model.kind": "dit", "model.num_heads": 5}, ["model: hidden_size=384", "num_heads=5"]),
        (
            {"model.kind": "dit", "model.patch_size": 3},
            ["data.height=8 is not a multiple of model"],
        ),
        (
            {"model.kind": "dit", "data.height": 1024, "data.width": 1024},
            ["262144 patches", "at most 65536", "raise model.patch_size"],
        ),
        (
            {"model.kind": "dit", "model.hidden_size": 65532, "model.num_layers": 1000},
            ["over 2e+10", "lower model.hidden_size or model.num_layers"],
        ),
    ],
)
def test_what_is_wrong_with_a_kind_or_its_keys_is_said_in_its_words(changes, parts):
    """Catches: pydantic's own message about a tag, a kind's name as if it were a key, a suggestion
    of a key that the kind does not have."""
    with pytest.raises(ConfigError) as caught:
        digits().replaced(changes)
    for part in parts:
        assert part in str(caught.value)
    assert "model.dit." not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ({"kind": "dti"}, """model.kind="dti": no such kind; did you mean 'dit'?"""),
        (
            {"kind": "dit", "dropout": 0.1},
            "a key of model.kind=unet and model.kind=adm and model.k",
        ),
        (
            {"patch_size": 2},
            "model.patch_size is a key of model.kind=dit and model.kind=clip, and this is",
        ),
        (
            {"kind": "dit", "num_layers": "2"},
            'model.num_layers="2": Input should be a valid integer',
        ),
        ({"base_chanels": 2}, "model.base_chanels: no such key; did you mean 'base_channels'?"),
        (5, "model=5: Input should be an object (a section; give one of its keys, as model.KEY="),
    ],
)
def test_a_file_is_refused_in_the_same_words(model, part):
    """Catches: `model.unet.base_chanels`, which is no key of the file."""
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({"model": model})
    assert part in str(caught.value)


def test_every_key_of_a_kind_counts_and_that_fingerprint_stays():
    """Catches: two transformers in one folder, and one that a later version does not find again."""
    experiment = identity.experiment(small())
    assert set(experiment["model"]) == set(DiTConfig.model_fields) - {
        "conditioning",
        "num_classes",
        "known",
        "text_length",
        "low_size",
    }
    assert fingerprint(experiment)[:16] == "6dc876207148bb74"
    assert fingerprint(identity.samples(small(), identity.PRESENT)) != fingerprint(
        identity.samples(digits(), identity.PRESENT)
    )


def test_differences_of_two_kinds_are_said_as_one():
    """Catches: a KeyError, and a line for each key that only one of two kinds has."""
    assert digits().differences(small()) == ['model.kind: "unet" -> "dit"']
    assert small().differences(digits()) == ['model.kind: "dit" -> "unet"']


def test_every_key_is_known_to_help_and_form():
    """Catches: a kind whose keys only the source shows."""
    for config in (digits(), small()):
        assert set(config.flat()) <= set(RunConfig.keys())
    text = describe_keys()
    assert 'model.kind ("unet"): which network' in text
    assert "[unet, dit, mlp, multiscale, adm, classifier, clip, text]" in " ".join(text.split())
    of_dit = text[text.index("of model.kind=dit:") : text.index("of model.kind=mlp:")]
    assert "    model.patch_size (2): pixels on a side" in of_dit
    assert "base_channels" not in of_dit


def test_a_flow_and_a_job_are_given_the_same_network(tmp_path, caplog):
    """Catches: parameters that resolve to the recipe's kind, and keys at their default that are
    left out because the recipe does not have them."""
    store, config = plan.resolve("digits", root=str(tmp_path), run="r", overrides=SMALL)
    assert [record.getMessage() for record in caplog.records] == [
        "model.kind=dit: not given, and so as by default, are "
        "model.patch_size=2; model.base_channels, model.channel_mults, model.num_res_blocks, "
        "model.attention_resolutions, model.dropout, model.num_groups, model.time_embedding "
        "are keys of model.kind=unet and fall away"
    ]
    caplog.clear()
    whole = {"model": {"kind": "dit", "patch_size": 4}}
    plan.resolve("digits", root=str(tmp_path), run="r", overrides=whole)
    assert "patch_size=" not in caplog.messages[0]
    assert "model.num_layers=12" in caplog.messages[0]
    caplog.clear()
    given = plan.parameters_of(config, store, "digits")
    assert given["recipe"] == "digits"
    assert given["overrides"].keys() == {f"model.{key}" for key in DiTConfig.model_fields}
    words = plan.job_command(store, config, "train", python="python")
    target, *options = words[4:]
    assert configure_again(target, options, tmp_path) == config.to_json()
    open_run(store, config)
    words = plan.job_command(store, config, "train", python="python")
    assert configure_again(words[4], words[5:], tmp_path) == config.to_json()
    assert not caplog.records


def test_a_kind_whose_keys_the_other_has_too_takes_none_away(tmp_path, caplog):
    """Catches: "are keys of diffusion.kind=flow and fall away" of no key."""
    changes = {"diffusion.kind": "ve", "diffusion.chain_times": "equal"}
    configure("digits-flow", root=str(tmp_path), run="r", changes=changes)
    (line,) = caplog.messages
    assert line.startswith("diffusion.kind=ve: not given, and so as by default, are diffusion.num")
    assert "fall away" not in line


def configure_again(target, options, root) -> str:
    changes = [
        word for flag, word in zip(options[::2], options[1::2], strict=True) if flag == "--set"
    ]
    run = None if target.endswith("run.json") else "r"
    _, config = configure(target, root=str(root), run=run, changes=parse_overrides(changes))
    return config.to_json()


def test_a_kind_that_was_changed_in_the_file_is_noticed(tmp_path):
    """Catches: a run.json of another network that is said to have new defaults only."""
    store = open_store(str(tmp_path))
    open_run(store, digits())
    file = tmp_path / "runs/digits/run.json"
    file.write_text(small().replaced({"name": "digits"}).to_json())
    line = begun.changes_of(store, "digits")
    assert 'model.kind: "unet" -> "dit"' in line
    assert "model.base_channels: 24 -> null" in line


def test_the_process_has_kinds_too():
    """Catches: a run.json of before, or a fingerprint, that the key `kind` made another; a process
    that help does not name; keys of the chain that another process would be given."""
    before = json.loads(digits().to_json())
    assert before["diffusion"].pop("kind") == "chain"
    assert RunConfig.from_json(json.dumps(before)) == digits()
    assert "kind" not in identity.experiment(digits())["diffusion"]
    assert digits().replaced({"diffusion.kind": "chain"}) == digits()
    # A section given whole is all of it: T is the default, not that of the recipe.
    assert digits().replaced({"diffusion": {"prediction": "v"}}).diffusion == ChainConfig(
        prediction="v"
    )
    assert "of diffusion.kind=chain:" in describe_keys()
    with pytest.raises(ConfigError, match=r'diffusion\.kind="chian": no such kind; did you mean'):
        digits().replaced({"diffusion.kind": "chian"})
