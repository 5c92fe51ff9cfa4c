"""What a network is given of the low resolution that it enlarges: channels, and their noise level.

Both begin as nothing, so that a network that takes it begins as the exact one without, and all
other weights have the same names and bits.

Source: Ho et al. 2022, arXiv:2106.15282, section 3 (the low resolution concatenated to x_t) and
section 4.2 (noised, its level embedded and added to the time); Saharia et al. 2022,
arXiv:2205.11487, section 2.4.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import LowRes
from ddpm_core.models.blocks import Conv, Linear, begun_at_zero, timestep_embedding


class LowInput(nn.Module):
    """Layers beside the first convolution and the embedding of the time, to which it is added.

    The level passes the sines and cosines of timesteps and two layers of its own, the first of
    which begins as that of the time, and the second at 0.

    Args:
        in_channels: of the images.
        out_channels: of the first convolution.
        first: of the two layers over the sines and cosines of the time, with its weights.
        second: of them.
        sines: the sines and cosines of timesteps, so many.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        first: Linear,
        second: Linear,
        sines: Callable[[Tensor, int], Tensor] = timestep_embedding,
    ) -> None:
        super().__init__()
        self.sines = sines
        self.conv = begun_at_zero(Conv(in_channels, out_channels, 3, bias=False))
        self.linear_1 = Linear(first.in_features, first.out_features)
        self.linear_2 = begun_at_zero(Linear(second.in_features, second.out_features, bias=False))
        with torch.no_grad():
            self.linear_1.weight.copy_(first.weight)
            self.linear_1.bias.copy_(first.bias)

    def channels(self, low: LowRes, like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return what is added to the first convolution of `like`, x_t."""
        image = low.image.to(like.dtype).expand_as(like)
        added: Tensor = self.conv(image)
        return added

    def level(self, low: LowRes) -> Float[Tensor, "b e"]:
        """Return what is added to the embedding of the time."""
        sines = self.sines(low.level, self.linear_1.in_features)
        hidden = F.silu(self.linear_1(sines.to(self.linear_1.weight.dtype)))
        added: Tensor = self.linear_2(hidden)
        return added
