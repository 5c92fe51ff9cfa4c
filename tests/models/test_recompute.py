"""Activations that are computed twice: what is kept, and that the gradient is the same."""

import pytest
import torch
from torch import nn

from ddpm_core import seeding
from ddpm_core.models.blocks import Conv
from ddpm_core.models.dit import Block, DiT
from ddpm_core.models.recompute import recompute_activations
from tests.models.diffusers_oracle import perturb
from tests.models.nets import noise, unet


def transformer():
    return DiT(
        in_channels=3,
        out_channels=3,
        image_size=(8, 8),
        patch_size=2,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        generator=seeding.generator(0, "init"),
    )


def gradients(network, dtype):
    """Return the gradients of a loss, and how often each block and convolution was computed."""
    perturb(network)
    counts = dict.fromkeys(network.modules(), 0)

    def count(module, _):
        counts[module] += 1

    for module in network.modules():
        module.register_forward_pre_hook(count)
    seeding.seed_dropout(5, 0, 0, torch.device("cpu"))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = network.train()(noise(4, 3, 8, 8), torch.tensor([0, 999, 17, 500]))
    torch.rand(7)  # from the generator of the dropout, as other work between the passes may
    (output - noise(4, 3, 8, 8, seed=1)).square().mean().backward()
    return {name: one.grad for name, one in network.named_parameters()}, counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [lambda: unet(dropout=0.3), transformer])
def test_a_network_computed_twice_has_the_gradient_of_one_that_keeps_all(make, dtype):
    """Catches dropout masks that are drawn anew, blocks computed again in another dtype, and blocks
    that are not computed again: nothing would be saved.
    """
    expected, once = gradients(make(), dtype)
    network = make()
    recompute_activations(network)
    found, twice = gradients(network, dtype)
    assert all(found[name].abs().sum() > 0 for name in found)
    for name, one in expected.items():
        assert torch.equal(found[name], one), name
    assert set(once.values()) <= {0, 1}  # of a ModuleList 0
    inner = [m for m in twice if isinstance(m, Block | nn.Dropout | nn.GroupNorm | Conv)]
    outside = {getattr(network, name, None) for name in ("conv_in", "norm_out", "conv_out")}
    assert {twice[m] for m in inner if m not in outside} == {2}


def test_without_gradients_nothing_is_kept_for_a_second_time(monkeypatch):
    """Catches a preview that pays for a backward pass that does not come."""
    monkeypatch.setattr("ddpm_core.models.recompute.checkpoint", None)
    network, given = unet(), (noise(2, 3, 8, 8), torch.tensor([1, 2]))
    recompute_activations(network)
    with torch.no_grad():
        assert torch.equal(network(*given), unet()(*given))
    with pytest.raises(TypeError, match="NoneType"):
        network(*given)
