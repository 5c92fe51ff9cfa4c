"""The classifier of noised images against the U-Net that it is the first half of."""

import pytest
import torch
from torch.nn.functional import group_norm, silu

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import ClassifierConfig, UNetConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.inference.networks import build_network
from ddpm_core.recipes import recipe
from tests.diffusion.chains import normal

SMALL = {
    "base_channels": 8,
    "channel_mults": [1, 2, 2],
    "num_res_blocks": 2,
    "attention_resolutions": [4],
    "num_groups": 4,
}


def both(**changes):
    """Return a U-Net and a classifier of the same settings, with the U-Net's weights."""
    base = recipe("digits")
    nets = [
        build_network(base.replaced({"model": {"kind": kind, **SMALL, **changes}})).eval()
        for kind in ("unet", "classifier")
    ]
    with torch.no_grad():
        for param in nets[0].parameters():
            param.add_(0.1 * torch.randn(param.shape, generator=torch.Generator().manual_seed(1)))
    of_unet = nets[0].state_dict()
    shared = {name: of_unet[name] for name in nets[1].state_dict() if name in of_unet}
    own = {name: one for name, one in nets[1].state_dict().items() if name not in of_unet}
    shared = {name: one for name, one in shared.items() if not name.startswith("norm_out")}
    own |= {name: one for name, one in nets[1].state_dict().items() if name.startswith("norm_out")}
    own["classes.weight"] = torch.randn(10, 16, generator=torch.Generator().manual_seed(2))
    nets[1].load_state_dict({**shared, **own})
    return nets


def test_it_is_the_half_of_the_u_net_and_the_mean_over_the_pixels():
    """Catches: attention that is not where the U-Net has it, a block or a halving too few, a time
    that does not arrive, a sum or a maximum for the mean, classes in another order."""
    unet, classifier = both()
    seen = []
    unet.middle.register_forward_hook(lambda _module, _given, out: seen.append(out))
    x_t, t = normal(3, 1, 8, 8).float(), torch.tensor([0, 7, 150])
    with torch.no_grad():
        unet(x_t, t)
        (h,) = seen
        normed = group_norm(h, 4, eps=1e-6)
        wanted = silu(normed).mean(dim=(2, 3)) @ classifier.classes.weight.T
        torch.testing.assert_close(classifier(x_t, t), wanted)
        assert not torch.equal(classifier(x_t, t), classifier(x_t, t + 20))


@pytest.mark.parametrize("name", ["digits-classifier", "mnist-classifier", "cifar10-classifier"])
def test_its_parameters_are_counted(name):
    """Catches: a number in the dry run, and a bound on it, of another network."""
    config = recipe(name)
    with torch.device("meta"):
        network = build_network(config)
    assert sum(param.numel() for param in network.parameters()) == config.num_parameters
    whole = recipe(name.removesuffix("-classifier"))
    assert set(ClassifierConfig.model_fields) | {"time_embedding"} == set(UNetConfig.model_fields)
    assert config.flat() | {"model.kind": "unet"} | whole.flat() == whole.flat()


def test_its_logits_are_float32_and_it_takes_nothing_beside_the_image():
    """Catches: classes rounded to bfloat16, and a label that it is to say given to it."""
    _, classifier = both()
    x_t, t = normal(2, 1, 8, 8).float(), torch.tensor([0, 7])
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier(x_t, t).dtype == torch.float32
    with pytest.raises(DataError, match="this classifier takes no conditioning"):
        classifier(x_t, t, Conditioning(label=torch.tensor([1, 2])))
    with pytest.raises(ConfigError, match="cannot be halved 2 times"):
        classifier(x_t[..., :6], t)
