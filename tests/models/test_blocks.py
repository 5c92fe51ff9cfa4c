"""The embedding of the timestep, and how the weights begin."""

import math

import pytest
import torch
from torch import nn

from ddpm_core.diffusion.objective import loss_simple
from ddpm_core.models.blocks import (
    Attention,
    Conv,
    Linear,
    ResBlock,
    fourier_features,
    timestep_embedding,
)
from tests.models.nets import noise, outputs, unet


def test_timestep_embedding_is_sines_then_cosines_of_the_raw_index():
    """Catches [cos, sin], division by half instead of half - 1, and t scaled by 1/T."""
    embedding = timestep_embedding(torch.tensor([0, 1, 999]), 8)
    frequencies = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3), 1e-4]
    expected = [
        [math.sin(t * f) for f in frequencies] + [math.cos(t * f) for f in frequencies]
        for t in (0, 1, 999)
    ]
    assert embedding.dtype == torch.float32
    # Angles up to 999 in float32 are off by up to 3e-5, and the frequencies' rounding as much.
    torch.testing.assert_close(embedding, torch.tensor(expected), rtol=0, atol=1e-4)


def test_timestep_embedding_stays_float32_under_autocast():
    """Catches angles rounded to bfloat16: 999 and 998 would be the same time."""
    t = torch.tensor([998, 999])
    with torch.autocast("cpu", torch.bfloat16):
        embedding = timestep_embedding(t, 32)
    assert torch.equal(embedding, timestep_embedding(t, 32))


def test_weights_begin_uniform_with_the_average_fan():
    """Catches another fan, a normal distribution, biases that are not 0, and q, k, v as one."""
    net = unet(base_channels=64, num_groups=32)
    layers = [m for m in net.modules() if isinstance(m, Conv | Linear)]
    last = {net.conv_out}
    last |= {m.conv_2 for m in net.modules() if isinstance(m, ResBlock)}
    last |= {m.proj_out for m in net.modules() if isinstance(m, Attention)}
    assert len(last) == 1 + 12 + 6
    for layer in layers:
        out, inside, *kernel = layer.weight.shape
        bound = math.sqrt(6 / ((out + inside) * math.prod(kernel)))
        bound *= 1e-5 if layer in last else 1
        weight, bias = layer.weight.detach(), layer.bias.detach()
        largest = float(weight.abs().max())
        assert 0.99 * bound < largest <= bound * (1 + 1e-6)  # rounded to float32
        # Uniform: std = bound/sqrt(3), estimated within 5 standard errors.
        spread = float(weight.std()) / (bound / math.sqrt(3))
        assert abs(spread - 1) < 5 * math.sqrt(0.2 / weight.numel())
        assert float(bias.abs().max()) == 0
    for norm in (m for m in net.modules() if isinstance(m, nn.GroupNorm)):
        assert bool((norm.weight == 1).all())
        assert bool((norm.bias == 0).all())


def test_network_begins_as_almost_0_and_its_loss_as_1():
    """Catches layers at the end of a block that do not begin near zero."""
    net, x_t = unet(), noise(64, 3, 8, 8)
    eps_hat = outputs(net, x_t, [3] * 64)
    assert 0 < float(eps_hat.abs().max()) < 1e-3
    assert float(loss_simple(eps_hat, x_t).mean()) == pytest.approx(1, abs=0.02)


def test_weights_are_a_function_of_the_generator_alone():
    """Catches draws from torch's global state, and weights that differ from run to run."""
    before = torch.get_rng_state()
    first, again, other = unet(), unet(), unet(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)


def test_fourier_features_are_of_scale_16_and_tell_near_noise_levels_apart():
    """Catches a missing 2 pi, a scale that is a variance, sines alone; Song et al. 2021, app. H.

    Of frequencies of N(0, 16**2) the mean cosine is exp(-(2 pi 16 t)**2 / 2).
    """
    t = torch.tensor([0.0, 0.01, 0.02])
    features = fourier_features(t, 2000)
    assert features.shape == (3, 4000)
    assert features.dtype == torch.float32
    assert torch.equal(features[0], torch.cat([torch.zeros(2000), torch.ones(2000)]))
    expected = (-0.5 * (2 * math.pi * 16 * t).square()).exp()
    torch.testing.assert_close(features[:, 2000:].mean(1), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(features[:, :2000].square() + features[:, 2000:].square(),
                               torch.ones(3, 2000))  # fmt: skip
    # Each says something of its own: w and -w would say the same twice.
    of_many = fourier_features(torch.linspace(-3, 3, 2000), 8)
    assert int(torch.linalg.matrix_rank(of_many, rtol=1e-3)) == 16
    # A network is not at the mercy of the last digit: of log sigma 4 it is 2e-4 of a turn.
    near = fourier_features(torch.tensor([4.0, 4.0 + 1e-6]), 128)
    assert float((near[0] - near[1]).abs().max()) < 1e-3
