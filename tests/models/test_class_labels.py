"""The U-Net with classes: that of diffusers with `num_class_embeds`, and a row for no class."""

import diffusers
import pytest
import torch

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.models.interop import from_diffusers, original_name, to_diffusers
from tests.models.nets import SMALL, noise, perturbed, unet

K = 5
LABELS = Conditioning(label=torch.tensor([0, 4, 5]))
T = torch.tensor([0, 999, 17])


def theirs() -> diffusers.UNet2DModel:
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        num_class_embeds=K + 1,
    ).eval()


def test_it_is_the_network_of_diffusers_with_num_class_embeds():
    """Catches a row added after the swish or before the layers of the time, and a row too many."""
    ours, reference = perturbed(num_classes=K).double(), theirs().double()
    reference.load_state_dict(to_diffusers(ours.state_dict()), strict=True)
    x_t = noise(3, 3, 8, 8).double()
    with torch.no_grad():
        expected = reference(x_t, T, class_labels=LABELS.label).sample
        found = ours(x_t, T, LABELS)
        assert float((found - expected).abs().max()) < 1e-10
        others = ours(x_t, T, Conditioning(label=torch.tensor([1, 1, 1])))
    assert float((others - expected).abs().min(dim=0).values.max()) > 1e-3


def test_the_null_is_the_last_row():
    """Catches a null that is a class, and two nulls."""
    net = unet(num_classes=K)
    assert net.accepts == {"label"}
    assert net.null.label.tolist() == [K]
    assert net.class_embed.weight.shape == (K + 1, 4 * SMALL["base_channels"])
    assert unet().null is NOTHING
    assert unet().accepts == frozenset()


def test_a_label_that_is_missing_or_not_taken_is_refused():
    """Catches an unconditional result of a forgotten label, and a label that is passed over."""
    x_t = noise(3, 3, 8, 8)
    with pytest.raises(DataError, match="takes label and was called with no conditioning"):
        unet(num_classes=K)(x_t, T)
    with pytest.raises(DataError, match="takes no conditioning and was called with label"):
        unet()(x_t, T, LABELS)


def test_weights_of_classes_go_there_and_back_and_the_original_has_none():
    """Catches a table that is lost on the way, or put under another name."""
    weights = perturbed(num_classes=K).state_dict()
    back = from_diffusers(to_diffusers(weights), weights)
    assert torch.equal(back["class_embed.weight"], weights["class_embed.weight"])
    with pytest.raises(CheckpointError, match="no parameter of our U-Net"):
        original_name("class_embed.weight", 2)
