"""The network of dense layers, and its readout, against what they stand for."""

import math

import pytest
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.inference.networks import build_network
from ddpm_core.models.mlp import MLP, BumpReadout
from ddpm_core.recipes import digits, recipe


def network(**changes):
    values = {"shape": (2, 3, 4), "out_channels": 4, "hidden_size": 8, "num_layers": 2}
    values |= {"num_bumps": 5, "num_timesteps": 11, **changes}
    return MLP(**values, generator=torch.Generator().manual_seed(0))


def test_the_bumps_are_those_of_2015():
    """Catches a width of the whole distance, centres within the ends, bumps without their sum: by
    `generate_temporal_basis` of the original, written out."""
    readout, t = BumpReadout(10, 40), torch.arange(40)
    for step in range(40):
        x = -1 + 2 * step / 39
        centres = [-1 + 2 * number / 9 for number in range(10)]
        width = (centres[1] - centres[0]) / 2
        bumps = [math.exp(-((x - centre) ** 2) / (2 * width**2)) for centre in centres]
        expected = torch.tensor([bump / sum(bumps) for bump in bumps])
        torch.testing.assert_close(readout.weights(t)[step], expected, atol=1e-6, rtol=1e-5)
    values = torch.randn(40, 3, 10, generator=torch.Generator().manual_seed(1))
    found = readout(values, t)
    torch.testing.assert_close(found, torch.einsum("bkn,bn->bk", values, readout.weights(t)))


def test_the_output_is_read_out_in_the_order_of_the_pixels():
    """Catches a last layer whose pixels, channels and bumps are mixed: with one value of it set, at
    the centre of its bump, one value of the output is that."""
    net, x_t, t = network(), torch.randn(1, 2, 3, 4), torch.tensor([10])
    assert not net(x_t, t).any()
    channel, row, column, bump = 3, 1, 2, 4  # the last bump is at the last timestep
    with torch.no_grad():
        net.layer_out.bias[((channel * 3 + row) * 4 + column) * 5 + bump] = 1.0
    said = net(x_t, t).detach()
    assert float(said[0, channel, row, column]) == pytest.approx(1 / (1 + math.exp(-2)), abs=2e-3)
    assert float(said.sum()) == float(said[0, channel, row, column])
    assert float(net(x_t, torch.tensor([0])).detach().max()) < 1e-6


@pytest.mark.parametrize("labelled", [False, True])
def test_the_configuration_knows_the_number_of_parameters(labelled):
    """Catches: a memory estimate of another network, for want of the width or the classes."""
    changes = {"model.conditioning": "label"} if labelled else {}
    for config in (
        recipe("heartbeat").replaced(changes),
        digits().replaced({"model.kind": "mlp", "diffusion.variance": "fixed_small", **changes}),
    ):
        built = build_network(config)
        assert sum(one.numel() for one in built.parameters()) == config.num_parameters


def test_labels_move_the_first_layer_and_images_of_another_shape_are_refused():
    """Catches labels without effect, and a matrix product that torch refuses in its own words."""
    net = network(num_classes=3)
    with torch.no_grad():
        net.layer_out.weight.normal_(generator=torch.Generator().manual_seed(2))
    x_t, t = torch.randn(2, 2, 3, 4), torch.tensor([0, 10])
    first, second = (net(x_t, t, Conditioning(label=torch.tensor([0, c]))) for c in (1, 2))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    with pytest.raises(DataError, match="this network"):
        net(x_t, t)
    with pytest.raises(ConfigError, match=r"images shaped \(2, 4, 3\) were given to a network"):
        network()(x_t.transpose(2, 3), t)
