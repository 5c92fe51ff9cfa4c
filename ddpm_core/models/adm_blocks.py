"""The blocks of the U-Net of guided diffusion: adaptive normalisation, resampling, joint attention.

Layers that end a block begin at 0, as in the original, so that a block begins as the identity.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.1 (AdaGN, equation 3), and its code.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.models.blocks import Conv, Linear, Norm
from ddpm_core.models.on_cpu import Dropout, attend
from ddpm_core.models.recompute import Recomputable

NORM_EPS = 1e-5
"""of all normalisations here: torch's own, as in the original"""
Resampling = Literal["halved", "doubled"]


class AdaBlock(Recomputable):
    """A residual block whose second normalisation is scaled and shifted by the embedding.

    y = GroupNorm(h) (1 + s) + b, with [s, b] a linear map of the embedding.

    Args:
        in_channels: with those of what was kept, where it is given that.
        out_channels: of the result.
        embed_channels: of the embedding, which has passed its swish.
        dropout: probability of dropping a feature, in [0, 1).
        num_groups: of each normalisation.
        resampling: what happens to the image in both branches, before the first convolution:
            halved by the mean of four pixels, doubled by repeating them; None: nothing.
        skip_scale: factor of what was kept.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embed_channels: int,
        dropout: float,
        num_groups: int,
        resampling: Resampling | None = None,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm_1 = Norm(num_groups, in_channels, eps=NORM_EPS)
        self.conv_1 = Conv(in_channels, out_channels, 3)
        self.time_proj = Linear(embed_channels, 2 * out_channels)
        self.norm_2 = Norm(num_groups, out_channels, eps=NORM_EPS)
        self.dropout = Dropout(dropout)
        self.conv_2 = Conv(out_channels, out_channels, 3, gain=0.0)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else Conv(in_channels, out_channels, 1)
        self.resampling, self.skip_scale = resampling, skip_scale

    def forward(
        self,
        x: Float[Tensor, "b c1 h w"],
        embedding: Float[Tensor, "b e"],
        skip: Float[Tensor, "b c2 h w"] | None = None,
    ) -> Float[Tensor, "b k h2 w2"]:
        if skip is not None:
            x = torch.cat([x, skip if self.skip_scale == 1 else skip * self.skip_scale], dim=1)
        h = self.conv_1(self._resampled(F.silu(self.norm_1(x))))
        scale, shift = self.time_proj(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm_2(h) * (1 + scale) + shift
        h = self.conv_2(self.dropout(F.silu(h)))
        summed: Tensor = self.shortcut(self._resampled(x)) + h
        return summed

    def _resampled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if self.resampling == "halved":
            return F.avg_pool2d(x, 2)
        if self.resampling == "doubled":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x


class Halving(Recomputable):
    """A convolution of stride 2; called as an `AdaBlock` is, of which networks that resample first
    have none here (Saharia et al. 2022, arXiv:2205.11487, figure A.27).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels, 3, stride=2)

    def forward(
        self, x: Float[Tensor, "b c h w"], _: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b k h2 w2"]:
        halved: Tensor = self.conv(x)
        return halved


class Doubling(Recomputable):
    """Each pixel repeated, and a convolution: the way back from `Halving`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3)

    def forward(
        self, x: Float[Tensor, "b c h w"], _: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h2 w2"]:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return doubled


class JointAttention(Recomputable):
    """Attention of all pixels to all pixels and, where there is text, to all its positions.

    The keys and values of the text stand before those of the pixels, in one softmax; no position is
    masked (what fills a text up is learned, see `TextEncoder`). Scores are scaled inside of
    `attend`, where they are summed in float32 or have been divided before: in 16 bits none
    overflows.

    Args:
        channels: of the feature map.
        head_channels: of each head; a divisor of `channels`.
        num_groups: of the normalisation.
        text_width: features of a position of the text; None: there is none.

    Source: Nichol et al. 2021, arXiv:2112.10741, section 3.1 (GLIDE), and its code; Saharia et al.
    2022, arXiv:2205.11487, appendix D.3.1.
    """

    def __init__(
        self, channels: int, *, head_channels: int, num_groups: int, text_width: int | None = None
    ) -> None:
        super().__init__()
        self.num_heads = channels // head_channels
        self.norm = Norm(num_groups, channels, eps=NORM_EPS)
        self.query = Linear(channels, channels)
        self.key = Linear(channels, channels)
        self.value = Linear(channels, channels)
        self.proj_out = Linear(channels, channels, gain=0.0)
        self.text_key = None if text_width is None else Linear(text_width, channels)
        self.text_value = None if text_width is None else Linear(text_width, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], text: Float[Tensor, "b l d"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.query(pixels), self.key(pixels), self.value(pixels)
        if self.text_key is not None and self.text_value is not None:
            key = torch.cat([self.text_key(text), key], dim=1)
            value = torch.cat([self.text_value(text), value], dim=1)
        mixed = attend(self._heads(query), self._heads(key), self._heads(value))
        change: Tensor = self.proj_out(mixed.transpose(1, 2).flatten(2))
        return x + change.transpose(1, 2).reshape(x.shape)

    def _heads(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b k n d"]:
        b, n, _ = tokens.shape
        return tokens.reshape(b, n, self.num_heads, -1).transpose(1, 2)
