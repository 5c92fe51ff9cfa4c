"""Settings that are taken and can hardly be meant."""

import pytest
import torch

from ddpm_core.config.doubts import doubts, first_weights_kept
from ddpm_core.models.ema import EMA
from ddpm_core.recipes import RECIPES, ablation_runs, digits, mnist, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_is_doubted(name):
    """Catches: a warning that is always there, which nobody reads."""
    assert doubts(recipe(name)) == []


@pytest.mark.parametrize("config", [*ablation_runs(digits()).values()], ids=lambda one: one.name)
def test_no_ablation_is_doubted(config):
    """Catches: a rule for the length of a training that ablations, which are shorter, break."""
    assert doubts(config) == []


@pytest.mark.parametrize(("num_steps", "decay"), [(1, 0.9), (2, 0.9), (30, 0.9), (5, 0.0)])
def test_the_share_of_the_first_weights_is_that_of_the_average(num_steps, decay):
    """Catches: one step too many, as if the first update did not copy."""
    config = digits().replaced({"train.num_steps": num_steps, "train.ema_decay": decay})
    weights = torch.zeros(1)
    average = EMA({"w": weights})
    for step in range(num_steps):
        weights.fill_(1.0 if step == 0 else 0.0)
        average.update({"w": weights}, decay, first=step == 0)
    kept = average.state_dict()["w"].item()
    assert first_weights_kept(config) == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.num_steps": 300}, ["still holds 22 %", "little but noise", "ema_decay=0.985"]),
        ({"train.num_steps": 500}, ["still holds 8 %", "samples show them"]),
        ({"train.ema_decay": 0.99999}, ["still holds 99 %", "ema_decay=0.994"]),
        ({"train.warmup_steps": 1600}, ["warmup_steps=1600 is longer", "ends at 0.001"]),
        ({"data.num_test_images": 40}, ["num_likelihood_images=64, but 40 images are held out"]),
    ],
)
def test_what_can_hardly_be_meant_is_said_with_its_numbers(changes, said):
    """Catches: grey samples, and a learning rate that is never reached, without a word."""
    (line,) = doubts(digits().replaced(changes))
    for part in said:
        assert part in line


def test_an_arithmetic_that_cuts_16_bits_is_doubted():
    """Catches: full depth that is kept up to the network, and rounded away at its door."""
    deep = {"data.depth": 16, "data.grey": True, "data.source": "/images", "train.warmup_steps": 0}
    config = recipe("images").replaced(deep)
    for precision in ("auto", "bfloat16"):
        lines = doubts(config.replaced({"train.precision": precision}))
        assert any("8 significant bits" in line for line in lines)
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
        assert first_weights_kept(advised) > 1e-4


def test_the_held_out_images_that_are_there_count():
    """Catches: a collection whose held-out images are known only after a look."""
    config = mnist()
    assert doubts(config, num_test=63)
    assert not doubts(config, num_test=64)
