"""Settings that are taken and can hardly be meant."""

import pytest

from ddpm_core.config.averages import first_share
from ddpm_core.config.doubts import doubts
from ddpm_core.config.model_ref import sigma_rel_in
from ddpm_core.recipes import RECIPES, ablation_runs, digits, mnist, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_is_doubted(name):
    """Catches: a warning that is always there, which nobody reads."""
    assert doubts(recipe(name)) == []


@pytest.mark.parametrize("config", [*ablation_runs(digits()).values()], ids=lambda one: one.name)
def test_no_ablation_is_doubted(config):
    """Catches: a rule for the length of a training that ablations, which are shorter, break."""
    assert doubts(config) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.num_steps": 300}, ["still holds 22 %", "little but noise", "ema_decay=0.985"]),
        ({"train.num_steps": 500}, ["still holds 8 %", "samples show them"]),
        ({"train.ema_decay": 0.99999}, ["still holds 99 %", "ema_decay=0.994"]),
        ({"sample.model": "@200", "train.checkpoint_every": 50}, ["200 steps it still holds 37 %"]),
        ({"train.ema_decays": [0.9999], "sample.model": ":ema_9999"}, ["holds 92 %", "ema_9999"]),
        (
            {"train.power_averages": [0.1]},
            ["leaves 4 snapshots", "every=25 there are 32"],
        ),
        ({"train.warmup_steps": 1600}, ["warmup_steps=1600 is longer", "ends at 0.001"]),
        ({"data.num_test_images": 40}, ["num_likelihood_images=64, but 40 images are held out"]),
        ({"sample.threshold_percentile": 0.995}, ["=0.995 is in per cent", "it is 99.5"]),
    ],
)
def test_what_can_hardly_be_meant_is_said_with_its_numbers(changes, said):
    """Catches: grey samples, and a learning rate that is never reached, without a word."""
    (line,) = doubts(digits().replaced(changes))
    for part in said:
        assert part in line


@pytest.mark.parametrize(
    ("changes", "is_imported"),
    [
        ({"train.ema_decay": 0.9999, "train.ema_warmup": True}, False),
        ({"train.ema_decays": [0.9999]}, False),
        ({"train.ema_decay": 0.9999, "sample.model": ":raw"}, False),
        ({"train.ema_decay": 0.9999, "sample.model": "other@3"}, False),
        ({"train.num_steps": 1, "train.warmup_steps": 500}, True),
        ({"train.power_averages": [0.1], "train.num_snapshots": 0}, False),
        ({"train.power_averages": [0.1], "train.num_snapshots": 3}, False),
    ],
)
def test_what_is_not_used_or_was_not_trained_is_not_doubted(changes, is_imported):
    """Catches: a warning of the average ema where another is sampled, and of weights that another
    program trained.
    """
    assert doubts(digits().replaced(changes), is_imported=is_imported) == []


def test_an_arithmetic_that_cuts_16_bits_is_doubted():
    """Catches: full depth that is kept up to the network, and rounded away at its door."""
    deep = {"data.depth": 16, "data.grey": True, "data.source": "/images", "train.warmup_steps": 0}
    config = recipe("images").replaced(deep)
    for precision, bits in (("auto", 8), ("bfloat16", 8), ("float16", 11)):
        lines = doubts(config.replaced({"train.precision": precision}))
        assert any(f"shown {bits} significant bits" in line for line in lines)
        assert any(line.endswith("it is 11 on a GPU and 24 on a CPU") for line in lines)
    # What cuts a convolution to TF32 leaves a transformer's matrices whole.
    lines = doubts(config.replaced({"model.kind": "dit"}))
    assert any(line.endswith("it is 24") for line in lines)
    without = {"train.precision": "float32"}, {"data.depth": 8}, {"compute.use_gpu": False}
    for changes in without:
        assert not any("significant" in line for line in doubts(config.replaced(changes)))


def test_the_average_that_is_advised_is_doubted_no_more():
    """Catches: a remedy that is rounded to what was there before, or to 1."""
    for num_steps in (2, 5, 300, 10_000, 10**6):
        short = digits().replaced({"train.num_steps": num_steps, "train.warmup_steps": 0})
        (line,) = doubts(short.replaced({"train.ema_decay": 1 - 1e-9}))
        decay = float(line.rpartition("train.ema_decay=")[2].partition(",")[0])
        advised = short.replaced({"train.ema_decay": decay})
        assert doubts(advised) == []
        assert first_share(advised.train, "ema", num_steps) > 1e-4


@pytest.mark.parametrize("average", ["power_0", "power_99", "power_050", "power_000001"])
def test_a_name_that_no_width_has_is_no_power_function(average):
    """Catches: a division by 0, 8331 % of the first weights, and a command that makes another."""
    assert first_share(digits().train, average, 800) is None
    assert doubts(digits().replaced({"sample.model": f":{average}"})) == []
    assert sigma_rel_in("power_05") == 0.05


def test_the_held_out_images_that_are_there_count():
    """Catches: a collection whose held-out images are known only after a look."""
    config = mnist()
    assert doubts(config, num_test=63)
    assert not doubts(config, num_test=64)


def test_captions_of_mirrored_images_are_doubted():
    """Catches captions of left and right that are of the other side in half of the steps, by a
    default."""
    mirrored = recipe("glide-small").replaced({"train.random_flip": True})
    (line,) = doubts(mirrored)
    assert "left or right" in line
    assert "train.random_flip=false" in line
    assert doubts(mirrored, is_imported=True) == []
