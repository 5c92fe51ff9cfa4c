"""What counts in a fingerprint, and what becomes of it when keys, defaults and versions come."""

import json
from pathlib import Path

import pytest
from pydantic import create_model

from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig, identity
from ddpm_core.config.identity import ADDED, COUNTED_BEFORE, FORMAT_1, OF_KIND, PRESENT, Rule
from ddpm_core.config.kinds import kinds_of
from ddpm_core.config.section import HOUSEKEEPING, PLACE
from ddpm_core.config.train import TrainConfig
from ddpm_core.recipes import PAPER_TABLE_2, RECIPES, digits, recipe
from ddpm_core.runs import layout
from ddpm_core.shards.index import dataset_fingerprint
from tests.config.grown import KEY, SECTIONS, as_grown, grown

CHAINS = [
    base
    for base in RECIPES
    if recipe(base).diffusion.kind == "chain" and recipe(base).role == "denoiser"
]
NAMES = [*RECIPES, *(f"{base}:{row}" for base in CHAINS for row in PAPER_TABLE_2)]
GOLDEN = json.loads(Path(__file__).with_name("fingerprints.json").read_text())
"""recipe -> what -> first 16 digits; a pair where versions before had another: [before, now]"""


def fingerprints(config: RunConfig, rule: Rule = PRESENT) -> dict[str, str]:
    """Return all that need no bytes; of weights, data set and images that there are not."""
    weights, data = "e" * 64, "d" * 64
    return {
        "experiment": layout.experiment_fingerprint(config, rule),
        "dataset": dataset_fingerprint(config.data, "0" * 64),
        "sample_set": layout.sample_set_fingerprint(config, weights),
        "samples": layout.sample_fingerprint(config, weights, rule),
        "evaluation": layout.evaluation_fingerprint(config, weights, data, rule),
        "study": layout.study_fingerprint(config, weights, data, rule),
        "ablations": layout.ablations_fingerprint(config, rule),
    }


def test_the_table_has_every_recipe():
    """Catches: a recipe whose fingerprint nobody holds."""
    assert sorted(GOLDEN) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_the_fingerprints_that_it_had(name):
    """Catches: a key, a default or a rule that makes all runs of a recipe others.

    What is changed on purpose in a recipe is written here; what is not, is never changed here.
    On purpose: digits-classes, mnist-classes and cifar10-classes measure what they make of labels
    (evaluate.num_classified_images, label_worth), so that their evaluations, studies and ablations
    are others than before; weights and samples are the same. The chain of digits-flow has its steps
    where its training has its times (diffusion.chain_times). Runs go by their run.json.
    """
    config, golden = recipe(name), GOLDEN[name]
    now = {what: found[-1] if isinstance(found, list) else found for what, found in golden.items()}
    then = {what: found[0] if isinstance(found, list) else found for what, found in golden.items()}
    assert {what: found[:16] for what, found in fingerprints(config).items()} == now
    before = fingerprints(config, Rule(housekeeping=config))
    assert {what: found[:16] for what, found in before.items()} == then


def test_every_key_says_whether_it_counts_and_from_which_value_on():
    """Catches: a key without an entry, whose first default is lost when the default changes."""
    for name in SECTIONS:
        for kind, section in kinds_of(RunConfig.model_fields[name].annotation).items():
            counting = set(section.model_fields) - set(section.uncounted())
            if name == "compute":
                assert not counting
                continue
            first = OF_KIND.get(kind, FORMAT_1[name])
            added = set(ADDED.get(name, {})) | set(ADDED.get(f"{name}.{kind}", {}))
            added &= set(section.model_fields) - OF_KIND.get(kind, set())
            assert counting == first | added, (name, kind)
            assert not FORMAT_1[name] & set(ADDED.get(name, {}))


def test_what_is_housekeeping_and_what_is_a_place():
    """Catches: a key that was marked, or unmarked, by the way."""
    marks = RunConfig.uncounted_keys()
    said = {f"{name}.{key}" for name, keys in COUNTED_BEFORE.items() for key in keys}
    said |= {"train.num_snapshots", "train.preview_every"}
    assert {key for key, mark in marks.items() if mark is HOUSEKEEPING} == said
    places = {key for key, mark in marks.items() if mark is PLACE}
    assert {key for key in places if not key.startswith("compute.")} == {
        "data.source",
        "data.source_sha256",
        "data.sets",
        "data.append_to",
        "data.caption_table",
        "data.set_name",
        "data.licence",
        "data.on_bad",
        "data.max_bad_share",
        "data.max_megapixels",
        "data.recheck",
        "data.only_keys",
        "sample.low_from",
        "sample.guidance_by",
        "sample.model",
    }
    assert set(digits().housekeeping()) == said


@pytest.mark.parametrize(
    "change",
    [
        {"train.log_every": 7},
        {"train.checkpoint_every": 7},
        {"train.keep_checkpoints": 7},
        {"sample.num_grid_images": 7},
        {"sample.num_strip_images": 7},
        {"compute.num_workers": 4},
    ],
)
def test_what_changes_no_result_is_in_no_fingerprint(change):
    """Catches: another grid or another number of checkpoints that is another experiment."""
    assert fingerprints(digits().replaced(change)) == fingerprints(digits())
    assert digits().differences(digits().replaced(change)) == []


def test_the_number_of_images_is_in_what_was_measured_of_them_and_not_in_the_images():
    """Catches: 10,000 images that are drawn again for 50,000, and two distances in one folder."""
    ours, more = fingerprints(digits()), fingerprints(digits().replaced({"sample.num_images": 257}))
    same = {what for what in ours if ours[what] == more[what]}
    assert same == {"experiment", "dataset", "sample_set"}
    other = fingerprints(digits().replaced({"sample.batch_size": 32}))
    assert other["sample_set"] != ours["sample_set"], "rounding depends on it"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("rule", ["now", "before"])
def test_a_new_key_with_a_default_leaves_every_fingerprint_as_it_was(name, rule):
    """Catches: a section that is dumped whole, so that the next key makes all runs others."""
    config = recipe(name)
    more = as_grown(config)
    assert all(getattr(getattr(more, section), KEY) == 7 for section in SECTIONS)
    rules = [PRESENT if rule == "now" else Rule(housekeeping=one) for one in (config, more)]
    assert fingerprints(more, rules[1]) == fingerprints(config, rules[0])
    assert config.differences(more) == []


@pytest.mark.parametrize(
    ("section", "whose"),
    [
        ("data", {"experiment", "dataset", "ablations"}),
        ("model", {"experiment", "sample_set", "samples", "evaluation", "study", "ablations"}),
        ("diffusion", {"experiment", "sample_set", "samples", "evaluation", "study", "ablations"}),
        ("train", {"experiment", "ablations"}),
        ("sample", {"sample_set", "samples", "evaluation", "study", "ablations"}),
        ("evaluate", {"evaluation", "study", "ablations"}),
        ("study", {"study"}),
    ],
)
def test_a_new_key_with_another_value_counts_where_its_section_does(section, whose):
    """Catches: a new key that is in no fingerprint, and two results in one folder."""
    before = as_grown(digits())
    after = before.replaced({f"{section}.{KEY}": 8})
    ours, theirs = fingerprints(before), fingerprints(after)
    assert {what for what in ours if ours[what] != theirs[what]} == whose
    assert before.differences(after) == [f"{section}.{KEY}: 7 -> 8"]


def test_a_default_that_changes_moves_no_value_that_was_given(monkeypatch):
    """Catches: what is at its default today, left out, and meaning another value tomorrow."""
    # Of a key of format 1: the value counts, not whether it is the default.
    other = create_model("Other", __base__=TrainConfig, ema_decay=(float, 0.5))
    given = digits().train.model_dump()
    assert identity.counted("train", other(**given)) == identity.counted("train", digits().train)
    del given["ema_decay"]
    assert other(**given).ema_decay == 0.5
    assert identity.counted("train", other(**given))["ema_decay"] == 0.5
    # Of a newer one: its first default, as it is in the table.
    monkeypatch.setattr(identity, "ADDED", {"train": {KEY: 7}})
    first, later = grown(7), grown(9)
    text = digits().to_json()
    with_7 = later.from_json(text).replaced({f"train.{KEY}": 7})
    assert with_7.train.new_key == 7
    assert fingerprints(with_7) == fingerprints(first.from_json(text)) == fingerprints(digits())
    with_9 = later.from_json(text)
    assert with_9.train.new_key == 9
    asked_for = first.from_json(text).replaced({f"train.{KEY}": 9})
    assert fingerprints(with_9)["experiment"] == fingerprints(asked_for)["experiment"]
    assert fingerprints(with_9)["experiment"] != fingerprints(with_7)["experiment"]


def test_a_new_key_with_a_value_of_several_is_compared_as_it_is():
    """Catches: a default tuple that differs from the list it is in JSON."""
    more = grown((1, 2), tuple[int, ...]).from_json(digits().to_json())
    assert fingerprints(more) == fingerprints(digits())


def test_the_versions_before_counted_the_housekeeping_that_was_in_force():
    """Catches: an earlier fingerprint with the housekeeping of now, which nothing lies under."""
    begun = digits()
    now = begun.replaced({"train.log_every": 7, "sample.num_grid_images": 9})
    assert fingerprints(now, Rule(begun)) == fingerprints(begun, Rule(begun))
    assert fingerprints(now, Rule(now)) != fingerprints(begun, Rule(begun))
    assert fingerprint(identity.samples(now, Rule(now))) != fingerprint(identity.samples(now))
