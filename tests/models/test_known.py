"""Networks that are given what is known of an image: exactly the base when they begin."""

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning, Known
from ddpm_core.config import DiTConfig
from ddpm_core.errors import DataError
from ddpm_core.models.dit import DiT
from ddpm_core.models.fit import fit
from tests.models.diffusers_oracle import perturb
from tests.models.nets import noise, unet

T = torch.tensor([0, 999, 17])
X_T, VALUES = noise(3, 3, 8, 8), noise(3, 3, 8, 8, seed=1)
RIGHT = torch.arange(8) >= 4
KNOWN = Conditioning(known=Known(VALUES, (~RIGHT).expand(3, 1, 8, 8)))


def transformer(**changes) -> DiT:
    return DiT(
        in_channels=3,
        out_channels=3,
        image_size=(8, 8),
        patch_size=2,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        generator=seeding.generator(0, "init"),
        **changes,
    ).eval()


@pytest.mark.parametrize("build", [unet, transformer])
@torch.no_grad()
def test_it_begins_as_the_very_base(build):
    """Catches new channels that begin with anything but 0, drawn or fitted, that change how sums
    over the others are rounded, and that shift the drawing of the other weights of a seed.

    Difference 0.0, not nearly (Nichol et al. 2021, section 3.2; family.md measured 0.0).
    """
    base, grown = build(num_classes=4), build(num_classes=4, takes_known=True)
    own, theirs = base.state_dict(), grown.state_dict()
    (new,) = theirs.keys() - own.keys()
    assert all(torch.equal(theirs[name], own[name]) for name in own)
    perturb(base)
    fitted = fit(base.state_dict(), theirs)
    assert not fitted[new].any()
    grown.load_state_dict(fitted)
    labels = Conditioning(label=torch.tensor([0, 4, 2]))
    given = Conditioning(label=labels.label, known=KNOWN.known)
    assert torch.equal(grown(X_T, T, given), base(X_T, T, labels))


@pytest.mark.parametrize("build", [unet, transformer])
@torch.no_grad()
def test_it_sees_the_known_part_and_the_mask_and_nothing_else(build):
    """Catches values that reach the network where they are not known, a mask that does not, and a
    part that is forgotten."""
    net = build(takes_known=True)
    perturb(net)
    assert net.accepts == {"known"}
    output = net(X_T, T, KNOWN)
    hidden = Known(torch.where(RIGHT, torch.nan, VALUES), KNOWN.known.mask)
    assert torch.equal(net(X_T, T, Conditioning(known=hidden)), output)
    for others in (Known(VALUES + 0.1, KNOWN.known.mask), Known(0 * VALUES, KNOWN.known.mask)):
        assert not torch.allclose(net(X_T, T, Conditioning(known=others)), output)
    black = Known(0 * VALUES, KNOWN.known.mask), Known(0 * VALUES, ~KNOWN.known.mask)
    one, other = (net(X_T, T, Conditioning(known=known)) for known in black)
    assert not torch.allclose(one, other)
    with pytest.raises(DataError, match="takes known and was called with no conditioning"):
        net(X_T, T)


@torch.no_grad()
def test_the_null_is_that_nothing_is_known_of_images_of_any_size():
    """Catches a null that is an image, and one of a single size."""
    net = unet(takes_known=True)
    perturb(net)
    x_t = noise(2, 3, 16, 12)
    unknown = Known(noise(2, 3, 16, 12, seed=3), torch.zeros(2, 1, 16, 12, dtype=torch.bool))
    said = net(x_t, T[:2], net.null.repeated(2))
    assert torch.equal(said, net(x_t, T[:2], Conditioning(known=unknown)))


@pytest.mark.parametrize("labels", [None, 4])
def test_the_configuration_counts_its_parameters(labels):
    """Catches an estimate of memory and of disk that leaves the new channels out."""
    model = DiTConfig(patch_size=2, hidden_size=16, num_layers=1, num_heads=2, known=True)
    sizes = {"in_channels": 3, "out_channels": 3, "height": 8, "width": 8}
    net = transformer(num_classes=labels, takes_known=True)
    rows = 0 if labels is None else 16 * (labels + 1)
    assert sum(one.numel() for one in net.parameters()) == model.num_parameters(**sizes) + rows
