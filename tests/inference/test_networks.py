"""From a configuration to its network."""

import pytest
import torch

from ddpm_core.inference.networks import build_network
from tests.training.small import small_config


def test_weights_are_a_function_of_model_and_seed():
    """Catches initial weights from torch's global generator, or from who computes them."""
    network = build_network(small_config())
    torch.rand(3)
    again = build_network(small_config(compute__num_workers=2, name="other", train__num_steps=7))
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    other = build_network(small_config(train__seed=1))
    assert not torch.equal(other.conv_in.weight, network.conv_in.weight)


def test_network_has_the_shape_of_the_data():
    """Catches channels or sections that are mixed up."""
    config = small_config(model__attention_resolutions=[4])
    x_t = torch.zeros(2, 1, 8, 8)
    assert build_network(config)(x_t, torch.tensor([0, 23])).shape == (2, 1, 8, 8)
    names = [name for name, _ in build_network(config).named_modules() if "attention" in name]
    assert any(name.startswith("down.1") for name in names)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_doubles_the_channels(variance):
    """Catches a network without room for the variance, which the chunk would halve."""
    config = small_config(diffusion__variance=variance, train__loss="vlb")
    assert config.out_channels == 2
    assert build_network(config)(torch.zeros(3, 1, 8, 8), torch.tensor([0, 5, 23])).shape[1] == 2
    assert small_config().out_channels == 1
