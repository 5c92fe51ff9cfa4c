"""Prompts: which image is of which text, what is written of it, and what guidance leads away from.

The network of texts is the small one of `worded`.
"""

import csv
import io
import json
import tarfile
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.config import SampleConfig
from ddpm_core.errors import ConfigError
from ddpm_core.loading.loader import load_split
from ddpm_core.preflight import require_prompts
from ddpm_core.runs import chosen, layout, results
from ddpm_core.sampling import stage
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.export import export_samples
from ddpm_core.sampling.guided import describe_guidance, guided
from ddpm_core.sampling.loaded import Model
from ddpm_core.sampling.plan import Plan, load_plan, plan_of
from ddpm_core.sampling.units import first_images
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from ddpm_core.text import tokens
from tests.diffusion.chains import normal
from tests.sampling.tiny import cpu
from tests.sampling.worded import (
    TEXT_LENGTH,
    count_calls,
    positions,
    text_of,
    worded_config,
)

pytestmark = pytest.mark.usefixtures("worded")


@pytest.fixture
def model(prompted):
    config = worded_config()
    return Model.load(prompted, config, chosen.require(prompted, config), cpu())


# -- the plan --------------------------------------------------------------------------------------


def test_prompts_come_in_turn_whatever_stands_beside():
    """Catches prompts that begin anew in each batch, and a text cut in what is written of it."""
    long = "a text of more than sixteen bytes"
    plan = plan_of(worded_config(**{"sample.prompts": ["one", long, ""]}), None)
    assert [plan.prompt(index) for index in (0, 4, 5, 299)] == ["one", long, "", ""]
    assert plan.about(7) == {"prompt": long}
    given = plan.conditioning(positions(4, 0, 5))
    assert tokens.decode(given.text) == ["a text of more ", "one", ""]
    assert given.parts == {"text"}
    assert torch.equal(given.text.tokens[2:], tokens.encode([""], TEXT_LENGTH).tokens)


def test_prompts_of_a_data_set_are_those_that_are_given_or_refused():
    """Catches images of nothing where the captions are not known."""
    config = worded_config(**{"sample.prompts": "training"})
    assert plan_of(config, None, ["a", "b"]).prompt(3) == "b"
    for nothing in (None, []):
        with pytest.raises(ConfigError, match=r"prompts=training draws .* there are none; give t"):
            plan_of(config, None, nothing)


@pytest.mark.parametrize("split", ["held_out", "training"])
def test_captions_of_the_data_set_come_in_the_order_of_its_images(split, prompted):
    """Catches the captions of the other split, and the second caption of an image."""
    config = worded_config(**{"data.captions": "classes", "sample.prompts": split})
    pointer = results.dataset_pointer(prompted, config.name)
    index = load_index(prompted, pointer.folder, pointer.fingerprint)
    with closing(load_split(prompted, index, "test" if split == "held_out" else "train")) as images:
        names = [index.label.names[one] for one in images.member("label", np.arange(40)).tolist()]
    plan = load_plan(prompted, config)
    assert [plan.prompt(at) for at in range(40)] == [f"a picture of {name}" for name in names]
    assert len(plan.prompts) == index.num_images["test" if split == "held_out" else "train"]
    with pytest.raises(ConfigError, match="there are none; give texts"):
        load_plan(prompted, config.replaced({"data.captions": "none"}))
    lacks = load_plan(prompted, config.replaced({"data.captions": "none"}), may_lack_prompts=True)
    assert lacks.prompts == ()


def test_captions_that_are_not_there_are_refused_before_anything_starts(prompted):
    """Catches a run that is refused by its sample stage, after the training."""
    lacks = worded_config(**{"sample.prompts": "held_out"})
    with pytest.raises(ConfigError, match=r"prompts=held_out draws .* there are none; give texts"):
        require_prompts(prompted, lacks, ["sample"])
    require_prompts(prompted, lacks, ["evaluate"])
    require_prompts(prompted, lacks, ["shard", "train", "sample"])
    for changes in ({"sample.prompts": ["a"]}, {"data.captions": "classes"}):
        require_prompts(prompted, lacks.replaced(changes), ["sample"])
    with pytest.raises(ConfigError, match="there are none"):
        require_prompts(open_store(f"{prompted.uri}/empty"), lacks, ["sample"])


def test_a_plan_goes_through_json_whole():
    plan = Plan(prompts=("ü", "two"), text_length=9)
    values = json.loads(json.dumps(vars(plan)))
    assert Plan.of_payload(values) == plan
    assert not plan.has_classes
    assert plan.cut is None


def test_what_is_cut_is_said_with_what_is_left():
    """Catches a bound of characters where bytes count, and one that forgets the end."""
    fits, over = "x" * (TEXT_LENGTH - 1), "ü" * 8
    assert Plan(prompts=(fits,), text_length=TEXT_LENGTH).cut is None
    said = Plan(prompts=(fits, over), text_length=TEXT_LENGTH).cut
    assert "1 of 2 prompts are longer than the 15 bytes" in said
    assert said.endswith(f"of prompt 1, with 16, it reads {'ü' * 7!r}")
    cut = tokens.decode(tokens.encode([over], TEXT_LENGTH))
    assert cut == ["ü" * 7], "as the network reads it"


# -- guidance --------------------------------------------------------------------------------------


def test_guidance_leads_away_from_the_empty_text(model):
    """Catches a reference of zeros, one of the other images' text, and a scale of 1 or 0 at twice
    the calls."""
    x_t, t, own = normal(2, 1, 8, 8).float(), torch.tensor([9, 9]), text_of("a red seven")

    def said(**sample):
        denoiser = model.denoiser.given(text_of("another"))
        calls = count_calls(denoiser, len(x_t))
        with torch.inference_mode():
            found = guided(denoiser, own, SampleConfig.model_validate(sample)).predict(x_t, t)
        return found.eps, calls

    with torch.inference_mode():
        given = model.denoiser.given(own).predict(x_t, t).eps
        empty = model.denoiser.given(text_of("")).predict(x_t, t).eps
    eps, calls = said()
    assert torch.equal(eps, given)
    assert calls == [1]
    eps, calls = said(guidance_scale=0.0)
    assert torch.equal(eps, empty)
    assert calls == [1]
    eps, calls = said(guidance_scale=3.0)
    torch.testing.assert_close(eps, empty + 3 * (given - empty), rtol=1e-4, atol=1e-5)
    assert calls == [2]
    assert float((given - empty).abs().max()) > 0.01


# -- the stage -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_the_stage_writes_the_prompt_beside_each_image(
    prompted, tmp_path, capsys, recording_tracker
):
    """Catches: an image of another's text, prompts that begin anew in a unit, and an export and a
    manifest that do not say them."""
    config = worded_config(
        **{"sample.prompts": ["a red seven", "two", "a text that is too long"]},
        **{"sample.num_images": 8, "sample.guidance_scale": 2.0},
    )
    stage.run_sample(prompted, config)
    assert "warning: 1 of 3 prompts are longer than the 15 bytes" in capsys.readouterr().out
    samples = results.samples_of(prompted, config)
    with tarfile.open(fileobj=io.BytesIO(samples.read(prompted, "unit-000001"))) as archive:
        about = {
            name.removesuffix(".json"): json.load(archive.extractfile(name))
            for name in archive.getnames()
            if name.endswith(".json")
        }
    assert about["00000005"] == {"index": 5, "seed": 0, "prompt": "a text that is too long"}
    assert json.loads(recording_tracker.files["prompts.json"]) == list(config.sample.prompts)
    assert samples.body["prompts"] == list(config.sample.prompts)
    assert samples.body["guidance_scale"] == 2.0
    model = Model.load(prompted, config, chosen.require(prompted, config), cpu())
    # As the stage draws it, in its batch of two.
    given, drawn = text_of("two", "a text that is too long"), positions(4, 5)
    with torch.inference_mode():
        x_0 = draw(guided(model.denoiser, given, config.sample), drawn, config.data.shape,
                   sample=config.sample, seed=0)  # fmt: skip
    kept = first_images(prompted, samples, config.sample, config.data.shape, 8)
    assert np.array_equal(kept[4:6], to_u8(x_0).numpy())
    export_samples(prompted, config, tmp_path / "out")
    rows = list(csv.reader((tmp_path / "out" / "prompts.csv").read_text().splitlines()))
    assert rows[:2] + rows[-1:] == [["index", "prompt"], ["0", "a red seven"], ["7", "two"]]
    assert not (tmp_path / "out" / "labels.csv").exists()


@pytest.mark.parametrize(
    ("prompts", "rows"), [(["one", "two"], 2), ([f"number {i}" for i in range(9)], 3)]
)
def test_the_grid_has_a_row_for_a_prompt_or_a_caption_for_an_image(prompts, rows):
    """Catches images below the text of others, and nothing written where each has its own."""
    plan = Plan(prompts=tuple(prompts), text_length=99)
    images = np.full((9, 8, 8, 1), 255, np.uint8)
    images[1] = 0  # of the second prompt
    sheet = stage._grid(images, plan)[..., 0]
    with Image.fromarray(sheet) as picture:
        assert min(picture.size) > 100
    wide = np.flatnonzero((sheet == 0).sum(1) > 50)  # the rows of pixels of the dark image
    second = wide.mean() / len(sheet)
    assert (second > 0.5) if rows == 2 else (second < 0.4)


def test_protocols_say_prompts_and_many_by_their_digest():
    few, many = ["a"], [str(number) for number in range(40)]
    said = describe_guidance(SampleConfig(prompts=tuple(few)), num_classes=None, takes_text=True)
    assert said == {"prompts": few, "guidance_scale": 1.0}
    said = describe_guidance(SampleConfig(prompts=tuple(many)), num_classes=None, takes_text=True)
    assert said["prompts"]["count"] == 40
    assert describe_guidance(SampleConfig(), num_classes=None) == {}


def test_other_prompts_are_another_set_of_samples():
    """Catches samples of one prompt that are taken for those of another; a place never counts."""

    def samples(**changes):
        return layout.sample_set_fingerprint(worded_config(**changes), "0" * 64)

    assert samples() != samples(**{"sample.prompts": ["a red six", "two"]})
    assert samples() != samples(**{"sample.prompts": "held_out"})
    assert samples() == samples(**{"sample.prompts": ["a red seven", "two"]})
