"""A batch in pieces, and activations computed twice, through the step that trains."""

import pytest
import torch
from torch import nn

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.inference.build import in_training
from ddpm_core.recipes import recipe
from ddpm_core.text.tokens import encode
from tests.models.adm_oracle import TEXT
from tests.models.diffusers_oracle import perturb
from tests.training.small import (
    copy_of,
    make_learner,
    rank_slice,
    small_config,
    small_images,
    state_of,
)

TEXTS = Conditioning(text=encode([f"a {row}" for row in range(12)], 12))
LABELS = Conditioning(label=torch.arange(12) % 10)
KINDS = {
    "chain": {},
    "weighted": {"train.weighting": "min_snr", "diffusion.prediction": "v"},
    "hybrid": {"train.loss": "hybrid", "diffusion.variance": "learned_range"},
    "labels": {"model.conditioning": "label", "train.label_dropout": 0.5},
    "text": TEXT | {"data.captions": "classes", "train.text_dropout": 0.5},
    "known": {"model.known": True},
    "low": {"model.low_size": [4, 4]},
    "vp": {"diffusion.kind": "vp"},
    "flow": {"diffusion.kind": "flow"},
    "edm": {"diffusion.kind": "edm"},
    "bits": {},
    "dit": {"model.hidden_size": 16, "model.num_layers": 2, "model.num_heads": 2},
}


def config_of(kind, **compute):
    if kind == "bits":
        base = recipe("heartbeat").replaced({"train.global_batch_size": 12})
    elif kind == "dit":
        base = small_config().replaced({"model": {"kind": "dit"}})
    else:
        base = small_config(model__dropout=0.0)
    return base.replaced(KINDS[kind] | {f"compute.{key}": one for key, one in compute.items()})


def gradient(config, dtype):
    """Return the gradient of step 3, and the loss and its quartiles."""
    learner = make_learner(config)
    perturb(learner.network)
    network = learner.network.to(dtype)
    learner._called = in_training(config, lambda x_t, *given: network(x_t.to(dtype), *given))
    seeded = torch.Generator().manual_seed(0)
    images = torch.randint(0, 2, (12, *config.data.shape), generator=seeded).to(torch.uint8) * 255
    given = {"label": LABELS, "text": TEXTS}.get(config.model.conditioning, NOTHING)
    learner._load(3, images, given)
    learner._differentiate()
    learner._parallel.average(learner._params)
    return {name: one.grad for name, one in network.named_parameters()}, learner._counts.point()


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_have_the_gradient_of_the_whole_batch(kind):
    """Catches a mean of means (the last piece is smaller), a gradient of the last piece alone,
    noise, time, label or region of another image, and losses that are not counted.
    """
    for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        expected, curve = gradient(config_of(kind), dtype)
        found, counted = gradient(config_of(kind, micro_batch_size=5), dtype)
        largest = max(float(one.abs().max()) for one in expected.values())
        assert all(one.any() for one in expected.values())
        for name, one in expected.items():
            torch.testing.assert_close(
                found[name], one, rtol=rtol, atol=1e-2 * rtol * largest, msg=name
            )
        assert counted == pytest.approx(curve, rel=1e-5)


def trained(**changes):
    config = small_config(model__dropout=0.3, **changes)
    learner, masks = make_learner(config), []
    for module in learner.network.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _, __, out: masks.append(out.detach() == 0))
    for step in range(3):
        learner.step(step, rank_slice(config, small_images(), step, 0, 1))
    return copy_of(state_of(learner)), masks


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_computed_twice_train_to_the_same_bits(precision):
    """Catches a switch that reaches no network, and masks of one piece that are used for the next
    or drawn anew in the backward pass; pieces that all drop the same; masks that depend on what
    else was drawn.
    """
    pieces = {"compute__micro_batch_size": 5, "train__precision": precision}
    kept, masks = trained(**pieces)
    torch.rand(17)
    found, twice = trained(**pieces, compute__checkpoint_activations=True)
    assert len(twice) == 2 * len(masks)
    torch.testing.assert_close(found, kept, rtol=0, atol=0)
    first, second = masks[0], masks[len(masks) // 9]  # 3 steps of 3 pieces
    assert first.shape == second.shape
    assert not torch.equal(first, second)
