"""Layers that a CPU computes in another way: the same functions, and their gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ddpm_core import seeding
from ddpm_core.models.on_cpu import Dropout, GroupNorm, attend

CPU = torch.device("cpu")


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_gradients(function, *inputs):
    leaves = [one.detach().requires_grad_() for one in inputs]
    output = function(*leaves)
    weights = random(*output.shape, dtype=torch.bfloat16).to(output.dtype)
    gradients = torch.autograd.grad(output, leaves, weights)
    return [output.detach(), *gradients]


def worst(found, exact):
    """The largest error, as a share of the largest value."""
    return max(
        float((one.double() - other).abs().max() / other.abs().max())
        for one, other in zip(found, exact, strict=True)
    )


@pytest.mark.parametrize("channels", [8, 32])
def test_group_norm_in_bfloat16_is_that_of_float64_but_for_one_rounding(channels):
    """Catches a norm that rounds on its way, another epsilon, groups of other channels."""
    norm = GroupNorm(2, channels, eps=1e-2)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x = random(3, channels, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last)

    def exact(x):
        return functional.group_norm(x, 2, norm.weight.double(), norm.bias.double(), 1e-2)

    found = with_gradients(norm, x)
    assert found[0].dtype == torch.bfloat16
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert worst(found, with_gradients(exact, x.double())) < 2**-8


def test_group_norm_takes_weights_of_bfloat16():
    """Catches float32 numbers beside them, which torch refuses."""
    x = random(1, 8, 4, 4, dtype=torch.bfloat16)
    found = [kind(2, 8).to(torch.bfloat16)(x) for kind in (GroupNorm, nn.GroupNorm)]
    assert torch.equal(*found)


@pytest.mark.parametrize("tokens", [6, 1025])
def test_attention_in_bfloat16_is_that_of_float64_but_for_roundings(tokens):
    """Catches a scale by the tokens, a softmax over the queries, a key that is not transposed."""
    queries = [random(2, 1, tokens, 8, dtype=torch.bfloat16, seed=seed) for seed in range(3)]
    exact = with_gradients(
        lambda q, k, v: (q @ k.mT / 8**0.5).softmax(-1) @ v, *(one.double() for one in queries)
    )
    assert worst(with_gradients(attend, *queries), exact) < 0.03


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_each_number_with_p_and_keeps_the_mean(layout):
    """Catches p and 1 - p exchanged, no scale, whole channels, and numbers of 63 bits: then every
    fourth would never be dropped, or twice as often."""
    seeding.seed_dropout(0, 0, 0, CPU)
    x = torch.ones(8, 16, 32, 32).to(memory_format=layout)
    output, gradient = with_gradients(Dropout(0.1), x)
    dropped = output == 0
    assert output.stride() == x.stride()
    assert torch.allclose(output[~dropped], torch.tensor(1 / 0.9), rtol=1e-4)
    assert torch.equal(gradient == 0, dropped | (random(*x.shape, dtype=torch.bfloat16) == 0))
    as_drawn = dropped.permute(0, 2, 3, 1) if layout == torch.channels_last else dropped
    for place in range(4):
        share = as_drawn.flatten()[place::4].float().mean()
        assert abs(share - 0.1) < 5 * (0.09 / (x.numel() / 4)) ** 0.5
    rows, channels = as_drawn.flatten(0, 2).float(), as_drawn.flatten(0, 2).float().mean(0)
    assert float(rows.mean(1).std()) > 0
    assert 0 < float(channels.std()) < 0.1


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 5, 1)])
def test_dropout_takes_any_number_of_numbers(shape):
    """Catches words of which the last is not used up, and a number that has none."""
    layer, x = Dropout(0.5), torch.ones(shape)
    seeding.seed_dropout(0, 0, 0, CPU)
    first = layer(x)
    seeding.seed_dropout(0, 0, 0, CPU)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)
    assert set(torch.cat([layer(x).flatten() for _ in range(20)]).tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(x), x)


def test_dropout_is_that_of_torch_where_it_is_compiled(monkeypatch):
    """Catches numbers drawn in place, which the compiler cannot trace: no network with dropout
    would be compiled on a CPU.
    """
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x, found = torch.ones(64), []
    for layer in (Dropout(0.25), nn.Dropout(0.25)):
        seeding.seed_dropout(0, 0, 0, CPU)
        found.append(layer(x))
    assert torch.equal(*found)


@pytest.mark.parametrize("p", [2**-18, 1 - 2**-18])
def test_dropout_of_almost_none_or_all_is_torch_s(p):
    """Catches p rounded to 0, which drops nothing and says so nowhere, and a division by 1 - 1."""
    x, found = torch.ones(2**19), []
    for layer in (Dropout(p), nn.Dropout(p)):
        seeding.seed_dropout(0, 0, 0, CPU)
        found.append(layer(x))
    assert torch.equal(*found)
    assert 0 < int((found[0] == 0).sum()) < len(x)
