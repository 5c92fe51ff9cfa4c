"""Networks that are given a low resolution: exactly the base when they begin."""

import pytest
import torch

from ddpm_core.conditioning import Conditioning, LowRes
from ddpm_core.config import UNetConfig
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.models.fit import fit
from tests.models.diffusers_oracle import perturb
from tests.models.nets import SMALL, noise, unet

T = torch.tensor([0, 999, 17])
X_T, IMAGE = noise(3, 3, 8, 8), noise(3, 3, 8, 8, seed=1)
LOW = LowRes(IMAGE, torch.tensor([0, 500, 1000]))


@pytest.mark.parametrize("classes", [None, 4])
@torch.no_grad()
def test_it_begins_as_the_very_base_and_can_learn(classes):
    """Catches new layers that begin with anything but 0, that shift the drawing of the others of a
    seed, and a level before whose layer of zeros there are zeros too: it would never learn.

    Difference 0.0, not nearly.
    """
    base, grown = unet(num_classes=classes), unet(num_classes=classes, takes_low=True)
    own, theirs = base.state_dict(), grown.state_dict()
    assert {name.split(".")[0] for name in theirs.keys() - own.keys()} == {"low"}
    assert all(torch.equal(theirs[name], own[name]) for name in own)
    perturb(base)
    labels = None if classes is None else torch.tensor([0, 4, 2])
    grown.load_state_dict(fit(base.state_dict(), theirs))
    given = Conditioning(label=labels, low=LOW)
    output = base(X_T, T, Conditioning(label=labels)) if classes else base(X_T, T)
    assert torch.equal(grown(X_T, T, given), output)
    with torch.enable_grad():
        grown(X_T, T, given).square().sum().backward()
    for layer in (grown.low.conv, grown.low.linear_2):
        assert layer.weight.grad.abs().max() > 0
    moments = fit(base.state_dict(), theirs, are_moments=True)
    assert not any(one.any() for name, one in moments.items() if name.startswith("low."))


@torch.no_grad()
def test_it_sees_the_image_and_its_level():
    """Catches a part that is forgotten, and a level that is taken for the time."""
    net = unet(takes_low=True)
    perturb(net)
    assert net.accepts == {"low"}
    output = net(X_T, T, Conditioning(low=LOW))
    for other in (LowRes(IMAGE + 0.1, LOW.level), LowRes(IMAGE, LOW.level + 1)):
        assert not torch.allclose(net(X_T, T, Conditioning(low=other)), output)
    rows = [net(X_T[[i]], T[[i]], Conditioning(low=LOW).rows(torch.tensor([i]))) for i in range(3)]
    assert torch.allclose(torch.cat(rows), output, rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="takes low and was called with no conditioning"):
        net(X_T, T)
    with pytest.raises(ConfigError, match="give one level for each"):
        LowRes(IMAGE, torch.tensor([0]))


def test_the_configuration_counts_its_parameters():
    """Catches an estimate of memory and of disk that leaves the new layers out."""
    keys = ("base_channels", "channel_mults", "num_res_blocks", "attention_resolutions", "dropout",
            "num_groups")  # fmt: skip
    model = UNetConfig(**{key: SMALL[key] for key in keys}, low_size=(4, 4))
    sizes = {"in_channels": 3, "out_channels": 3, "height": 8, "width": 8}
    net = unet(takes_low=True)
    assert sum(one.numel() for one in net.parameters()) == model.num_parameters(**sizes)
