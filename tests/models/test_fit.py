"""Weights fitted to a network that has more: it begins as the function that it was."""

import pytest
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.errors import CheckpointError
from ddpm_core.models.dit import DiT
from ddpm_core.models.fit import CLASS_ROWS, fit
from ddpm_core.models.unet import UNet


def make(kind, *, seed=0, num_classes=None, size=8):
    generator = torch.Generator().manual_seed(seed)
    common = {"in_channels": 1, "out_channels": 1, "num_classes": num_classes,
              "generator": generator}  # fmt: skip
    if kind == "dit":
        network = DiT(
            image_size=(size, size),
            patch_size=2,
            hidden_size=8,
            num_layers=1,
            num_heads=2,
            **common,
        )
    else:
        network = UNet(
            base_channels=8, channel_mults=[1, 2], num_res_blocks=1, attention_resolutions=[],
            image_height=size, dropout=0.0, num_groups=4, **common,
        )  # fmt: skip
    for param in network.parameters():  # layers that begin at 0 would hide what is added
        param.data.normal_(std=0.3, generator=generator)
    return network.eval()


def inputs(size=8):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 1, size, size, generator=generator), torch.tensor([0, 3, 9])


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_with_conditioning_added_it_begins_as_the_exact_base(kind):
    """Catches: rows that begin as they are drawn, and a first step from another function."""
    base, more = make(kind), make(kind, seed=1, num_classes=4)
    more.load_state_dict(fit(base.state_dict(), more.state_dict()))
    x_t, t = inputs()
    labels = Conditioning(label=torch.tensor([0, 3, 4]))
    with torch.no_grad():
        assert torch.equal(more(x_t, t, labels), base(x_t, t))
    more.train()
    more(x_t, t, labels).square().sum().backward()
    gradient = more.class_embed.weight.grad
    assert gradient[[0, 3, 4]].abs().sum(dim=1).min() > 0, "rows at 0 learn all the same"


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_added_classes_begin_as_no_class_and_the_null_stays_the_null(kind):
    """Catches: the old null read as a class, new rows drawn at random, classes that are moved."""
    base, more = make(kind, num_classes=3), make(kind, seed=1, num_classes=5)
    more.load_state_dict(fit(base.state_dict(), more.state_dict()))
    x_t, t = inputs()
    with torch.no_grad():
        for ours, theirs in ((0, 0), (2, 2), (3, 3), (4, 3), (5, 3)):
            ours, theirs = (Conditioning(label=torch.full((3,), one)) for one in (ours, theirs))
            assert torch.equal(more(x_t, t, ours), base(x_t, t, theirs))


def test_classes_go_by_the_rows_that_are_given_and_moments_of_new_ones_begin_at_0():
    """Catches: labels that keep their numbers where the names of the classes say otherwise."""
    table = torch.tensor([[1.0], [2.0], [9.0]])
    like = {CLASS_ROWS: torch.zeros(4, 1)}
    rows = [1, None, 0]
    assert fit({CLASS_ROWS: table}, like, rows=rows)[CLASS_ROWS].tolist() == [[2], [9], [1], [9]]
    moments = fit({CLASS_ROWS: table}, like, rows=rows, are_moments=True)
    assert moments[CLASS_ROWS].tolist() == [[2], [0], [1], [9]]


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_images_of_another_size_go_through_the_same_weights(kind):
    """Catches: a network that is refused, or drawn anew, at another resolution that it allows."""
    small, large = make(kind), make(kind, seed=1, size=16)
    large.load_state_dict(fit(small.state_dict(), large.state_dict()))
    assert all(torch.equal(large.state_dict()[name], one)
               for name, one in small.state_dict().items())  # fmt: skip
    x_t, t = inputs(16)
    assert large(x_t, t).shape == x_t.shape


def test_all_that_does_not_fit_is_named_at_once():
    """Catches: the first misfit alone, and rows of conditioning that are dropped in silence."""
    base, other = make("unet", num_classes=3), make("dit")
    with pytest.raises(CheckpointError, match="Give the model section") as caught:
        fit(base.state_dict(), other.state_dict())
    assert "more" in str(caught.value)
    weights = {"a": torch.zeros(2, 3), "b": torch.zeros(())}
    like = {"a": torch.zeros(2, 4), "c": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        fit(weights, like)
    for line in ("a: 2x3 there, 2x4 here", "b: a number there, not here", "c: not there, 1 here"):
        assert line in str(caught.value)
