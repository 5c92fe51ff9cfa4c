"""Networks that are given a low resolution: exactly the base when they begin."""

import pytest
import torch

from ddpm_core.conditioning import Conditioning, LowRes
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.exchange.networks import write_network
from ddpm_core.inference.networks import build_network
from ddpm_core.models.fit import fit
from ddpm_core.runs.misfits import misfits
from tests.models.adm_oracle import SMALL as SMALL_ADM
from tests.models.adm_oracle import small
from tests.models.diffusers_oracle import perturb
from tests.models.nets import noise, unet
from tests.training.small import small_config

T = torch.tensor([0, 999, 17])
X_T, IMAGE = noise(3, 3, 8, 8), noise(3, 3, 8, 8, seed=1)
LOW = LowRes(IMAGE, torch.tensor([0, 500, 1000]))


def adm(*, num_classes=None, takes_low=False):
    labels = {"model.conditioning": "label", "model.num_classes": 10} if num_classes else {}
    low = {"model.low_size": [4, 4]} if takes_low else {}
    return build_network(small(SMALL_ADM | labels | low)).eval()


@pytest.mark.parametrize(("build", "classes"), [(unet, None), (unet, 4), (adm, None), (adm, 10)])
@torch.no_grad()
def test_it_begins_as_the_very_base_and_can_learn(build, classes):
    """Catches new layers that begin with anything but 0, that shift the drawing of the others of a
    seed, and a level before whose layer of zeros there are zeros too: it would never learn.

    Difference 0.0, not nearly.
    """
    base, grown = build(num_classes=classes), build(num_classes=classes, takes_low=True)
    x_t, low = (X_T, LOW) if build is unet else (X_T[:, :1], LowRes(IMAGE[:, :1], LOW.level))
    own, theirs = base.state_dict(), grown.state_dict()
    assert {name.split(".")[0] for name in theirs.keys() - own.keys()} == {"low"}
    assert all(torch.equal(theirs[name], own[name]) for name in own)
    perturb(base)
    labels = None if classes is None else torch.tensor([0, 4, 2])
    grown.load_state_dict(fit(base.state_dict(), theirs))
    given = Conditioning(label=labels, low=low)
    output = base(x_t, T, Conditioning(label=labels)) if classes else base(x_t, T)
    assert torch.equal(grown(x_t, T, given), output)
    with torch.enable_grad():
        grown(x_t, T, given).square().sum().backward()
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
    for config in (small(SMALL_ADM, model__low_size=[4, 4]), small_config(model__low_size=[4, 4])):
        net = build_network(config)
        assert sum(one.numel() for one in net.parameters()) == config.num_parameters
    with pytest.raises(ConfigError, match="dit has no place for it"):
        small_config(model__low_size=[4, 4]).replaced({"model.kind": "dit"})
    with pytest.raises(ConfigError, match="must be smaller than the images"):
        small_config(model__low_size=[8, 8])
    with pytest.raises(ConfigError, match=r"train\.low_levels=.* is a setting of networks that"):
        small_config(train__low_levels=[0, 0.5])


def test_a_run_may_begin_from_one_that_draws_from_noise_and_not_the_other_way():
    """Catches weights that look at a low resolution and are used without any."""
    plain, low = small_config(), small_config(model__low_size=[4, 4])
    assert misfits(plain, low) == []
    (line,) = misfits(low, plain)
    assert line == "model.low_size: [4, 4] there, null here; set model.low_size=[4, 4]"
    with pytest.raises(ConfigError, match="no UNet2DModel is given a low resolution"):
        write_network(low)
