"""The same network in diffusers, with our weights.

`UNet2DModel` with the configuration of google/ddpm-cifar10-32 (or ddpm-cat-256) is the function
of the original DDPM code; so must ours be.
"""

import diffusers
import torch
from torch import nn

from ddpm_core import seeding
from ddpm_core.models.interop import to_diffusers
from ddpm_core.models.unet import UNet

# Widths in multiples of the base, and the level of the down path that attends.
CIFAR10 = ((1, 2, 2, 2), 1)
CAT_256 = ((1, 1, 2, 2, 4, 4), 4)


def our_unet(layout, *, base_channels: int, size: int, dtype: torch.dtype = torch.float64) -> UNet:
    mults, level = layout
    net = UNet(
        in_channels=3,
        out_channels=3,
        base_channels=base_channels,
        channel_mults=mults,
        num_res_blocks=2,
        attention_resolutions=(size // 2**level,),
        image_height=size,
        dropout=0.1,
        num_groups=32,
        generator=seeding.generator(0, "init"),
    )
    return net.to(dtype).eval()


def their_unet(layout, *, base_channels: int, size: int) -> diffusers.UNet2DModel:
    """Return the network without weights; `copy_weights` gives it ours."""
    mults, level = layout
    kinds = ["AttnDownBlock2D" if i == level else "DownBlock2D" for i in range(len(mults))]
    with torch.device("meta"):
        net = diffusers.UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            act_fn="silu",
            attention_head_dim=None,
            block_out_channels=[base_channels * mult for mult in mults],
            center_input_sample=False,
            down_block_types=kinds,
            up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            layers_per_block=2,
            mid_block_scale_factor=1,
            norm_eps=1e-6,
            norm_num_groups=32,
            time_embedding_type="positional",
        )
    return net.eval()


@torch.no_grad()
def perturb(net: nn.Module, *, scale: float = 0.05) -> None:
    """Add noise to every parameter, so that none is 0, 1 or equal to another."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter += scale * torch.randn(
            parameter.shape, generator=generator, dtype=parameter.dtype
        )


def copy_weights(ours: UNet, theirs: diffusers.UNet2DModel) -> None:
    """Make our weights theirs; strict, so that neither has one the other lacks."""
    theirs.load_state_dict(to_diffusers(ours.state_dict()), strict=True, assign=True)


def largest_difference(layout, *, base_channels: int, size: int, batch_size: int) -> float:
    """Return the largest difference of the two networks' outputs."""
    ours = our_unet(layout, base_channels=base_channels, size=size)
    perturb(ours)
    theirs = their_unet(layout, base_channels=base_channels, size=size)
    copy_weights(ours, theirs)
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(batch_size, 3, size, size, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 999, 17, 500])[:batch_size]
    with torch.no_grad():
        expected = theirs(x_t, t).sample
        difference = (ours(x_t, t) - expected).abs().max()
    assert float(expected.std()) > 0.1, "an output near zero would agree with anything"
    return float(difference)
