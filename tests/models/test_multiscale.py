"""The convolutional network of 2015 against what its paper and its code say of it."""

import math

import pytest
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import MultiScaleConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.exchange.networks import write_network
from ddpm_core.inference.build import build_denoiser, build_schedule
from ddpm_core.inference.networks import build_network
from ddpm_core.models.multiscale import MultiScale, MultiScaleConv
from ddpm_core.recipes import digits, recipe


def network(**changes):
    values = {"shape": (2, 4, 8), "out_channels": 4, "conv_channels": 3, "num_conv_layers": 2}
    values |= {"num_scales": 3, "dense_size": 7, "num_dense_layers": 3, "dense_channels": 2}
    values |= {"upper_channels": 5, "num_upper_layers": 2, "num_bumps": 6, "num_timesteps": 11}
    return MultiScale(**values | changes, generator=torch.Generator().manual_seed(0))


def shaken(net):
    """Give every weight, the biases and the last layer included, a value that is seen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in net.parameters():
            one.copy_(0.5 * torch.randn(one.shape, generator=generator))
    return net


def test_a_layer_is_the_mean_of_convolutions_at_each_scale():
    """Catches: sums for means, pixels that are picked or interpolated, scales exchanged, an image
    made smaller twice: pixel by pixel, with loops.

    Source: Sohl-Dickstein et al. 2015, appendix D.2.1; `regression.py`, MultiScaleConvolution.
    """
    layer = shaken(MultiScaleConv(2, 3, 3)).double()
    x = torch.randn(1, 2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(3, 4, 8, dtype=torch.float64)
    for scale, conv in enumerate(layer.scales):
        size = 2**scale
        small = torch.zeros(2, 4 // size, 8 // size, dtype=torch.float64)
        for row in range(4 // size):
            for column in range(8 // size):
                block = x[0, :, row * size :, column * size :][:, :size, :size]
                small[:, row, column] = block.sum((1, 2)) / size**2
        padded = torch.nn.functional.pad(small, (1, 1, 1, 1))
        for row in range(4):
            for column in range(8):
                around = padded[:, row // size :, column // size :][:, :3, :3]
                here = (conv.weight * around).sum((1, 2, 3)) + conv.bias
                expected[:, row, column] += here / 3
    torch.testing.assert_close(layer(x)[0], expected)


def test_the_network_is_that_of_the_code():
    """Catches: dense layers above the convolutions and not beside them, parts of unequal weight, a
    layer without its nonlinearity or the last one with it, pixels and bumps mixed.

    Source: `regression.py`, MLP_conv_dense.apply; `model.py`, temporal_readout.
    """
    net = shaken(network())
    x_t, t = (
        torch.randn(2, 2, 4, 8, generator=torch.Generator().manual_seed(3)),
        torch.tensor([0, 7]),
    )

    def leaky(value):
        return torch.where(value > 0, value, 0.05 * value)

    y = x_t
    for conv in net.convs:
        y = leaky(conv(y))
    beside = x_t.reshape(2, -1)
    for layer in net.dense:
        beside = leaky(beside @ layer.weight.T + layer.bias)
    assert [tuple(layer.weight.shape) for layer in net.dense] == [(7, 64), (7, 7), (64, 7)]
    both = torch.cat([y / math.sqrt(3), beside.reshape(2, 2, 4, 8) / math.sqrt(2)], dim=1)
    pixels = both.movedim(1, -1)
    for layer in net.upper:
        pixels = leaky(pixels @ layer.weight[:, :, 0, 0].T + layer.bias)
    values = pixels @ net.layer_out.weight[:, :, 0, 0].T + net.layer_out.bias
    weights = net.readout.weights(t)
    expected = torch.einsum("bhwkn,bn->bkhw", values.reshape(2, 4, 8, 4, 6), weights)
    torch.testing.assert_close(net(x_t, t), expected)


def test_without_dense_layers_there_are_convolutions_alone():
    """Catches: a pixel that is moved by another far away."""
    net = shaken(network(num_dense_layers=0, num_scales=1, conv_channels=3))
    x_t, t = torch.zeros(1, 2, 4, 8), torch.tensor([5])
    before = net(x_t, t)
    x_t[0, 0, 0, 0] = 1.0
    moved = (net(x_t, t) != before).any(1)[0].nonzero()
    assert {tuple(pixel) for pixel in moved.tolist()} == {
        (r, c) for r in range(3) for c in range(3)
    }


def test_it_begins_as_the_forward_process_turned_around():
    """Catches: a first step that is no drift of 0 and no variance of beta, with which the bound of
    noise alone would not be that of noise ("objective is 0 for isotropic Gaussian", `model.py`).
    """
    config = recipe("digits-2015")
    net, chain = build_network(config), build_schedule(config)
    assert any(one.abs().max() > 0.01 for one in net.convs.parameters())
    x_t, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4)), [1, 50, 199]
    step = build_denoiser(config, net).predict(x_t, torch.tensor(t)).reverse(clip_x_0=False)
    betas = chain.betas[t].float()[:, None, None, None]
    torch.testing.assert_close(step.mean, (1 - betas).sqrt() * x_t)
    torch.testing.assert_close(step.log_variance, betas.log().expand_as(x_t))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # 784 pixels: convolutions 200 + 3 * 3620, dense 392500 + 2 * 250500 + 785568, upper 460,
        # and 20 * 20 + 20 numbers of 10 bumps for mean and variance.
        ("mnist-2015", 200 + 3 * 3620 + 392_500 + 2 * 250_500 + 785_568 + 460 + 420),
        # 1024 pixels in 3 colours: 2800 + 5 * 90100; 3073000 + 4 * 1001000 + 5125120; upper 10600
        # + 2 * 10100, and 60 numbers of 100.
        (
            "cifar10-2015",
            2800 + 5 * 90_100 + 3_073_000 + 4 * 1_001_000 + 5_125_120 + 10_600 + 20_200 + 6060,
        ),
    ],
)
def test_the_networks_of_full_size_are_those_of_the_code(name, count):
    """Catches: a layer too few (num_upper_layers leaves the last one out), another width.

    Source: `model.py`, the defaults of DiffusionModel, and README.md, the command for CIFAR-10.
    """
    assert recipe(name).num_parameters == count


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.conditioning": "label", "model.num_upper_layers": 3},
        {"model.num_scales": 3, "model.num_conv_layers": 1, "model.num_dense_layers": 1},
        {"model.num_dense_layers": 0, "diffusion.variance": "fixed_small"},
    ],
)
def test_the_configuration_knows_the_number_of_parameters(changes):
    """Catches: a memory estimate of another network."""
    config = digits().replaced({"model.kind": "multiscale", **changes})
    built = build_network(config)
    assert sum(one.numel() for one in built.parameters()) == config.num_parameters


def test_labels_move_it_and_images_that_do_not_fit_are_refused():
    """Catches labels without effect, and errors of torch about shapes."""
    net = shaken(network(num_classes=3))
    x_t, t = torch.randn(2, 2, 4, 8), torch.tensor([0, 10])
    first, second = (net(x_t, t, Conditioning(label=torch.tensor([0, c]))) for c in (1, 2))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    with pytest.raises(DataError, match="this network"):
        net(x_t, t)
    with pytest.raises(ConfigError, match=r"images shaped \(2, 8, 4\) were given to a network"):
        network()(x_t.transpose(2, 3), t)
    with pytest.raises(ValueError, match=r"data.height=6 and data.width=8 .* multiples of 4, by"):
        MultiScaleConfig(num_scales=3).require_images(height=6, width=8)
    for changes, said in (
        ({"model.known": True}, "model.kind=multiscale takes no mask"),
        ({"diffusion.kind": "vp"}, "model.kind=multiscale is read out by bumps"),
        ({"data.height": 10, "model.num_scales": 3}, "model.num_scales=3"),
    ):
        with pytest.raises(ConfigError, match=said):
            digits().replaced({"model.kind": "multiscale", **changes})


def test_it_is_not_written_for_diffusers():
    """Catches: a folder that names a network of diffusers, which has none like it."""
    with pytest.raises(ConfigError, match="no network that is read out by bumps"):
        write_network(recipe("mnist-2015"))
