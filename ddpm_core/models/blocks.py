"""The blocks of the U-Net, and how their weights begin.

The details are those of the original: epsilon 1e-6 in every normalisation, padding (0, 1, 0, 1)
before each halving, one attention head as wide as the feature map, and layers that end a block
begin near zero, so that a block begins as (almost) the identity.

Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
"""

import math
from typing import TypeVar

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import AUGMENT_NUMBERS, NOTHING, Conditioning, Known, LowRes
from ddpm_core.models.on_cpu import Dropout, GroupNorm, attend
from ddpm_core.models.recompute import Recomputable
from ddpm_core.text.tokens import encode

Layer = TypeVar("Layer", bound=nn.Conv2d | nn.Linear | None)

NORM_EPS = 1e-6
KEPT_SHORT = ("cuda",)
"""Kinds of devices on which normalisations of 16 bits stay in them."""
NEAR_ZERO = 1e-5
"""Gain of the layers that end a block: the original scales their variance by 1e-10."""


class Conv(nn.Conv2d):
    """A convolution whose weights `initialise` draws."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        padding = kernel_size // 2 if padding is None else padding
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.gain = gain

    def reset_parameters(self) -> None:
        """Left to `initialise`: here there is no generator."""


class Linear(nn.Linear):
    """A linear layer whose weights `initialise` draws."""

    def __init__(
        self, in_features: int, out_features: int, *, gain: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.gain = gain

    def reset_parameters(self) -> None:
        """Left to `initialise`: here there is no generator."""


class Norm(GroupNorm):
    """Group normalisation that on a GPU keeps to 16 bits where its input has them.

    Autocast computes it in float32, and so the swish behind it: twice the bytes to and fro, of what
    takes longest beside the convolutions. Mean and variance are summed in float32 either way.
    Compiled, where both happen inside one kernel, it is left to autocast.
    """

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        is_short = x.dtype in (torch.bfloat16, torch.float16)
        if x.device.type not in KEPT_SHORT or not is_short or torch.compiler.is_compiling():
            return super().forward(x)
        return self.kept_short(x)

    def kept_short(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        """Return what `forward` does on a GPU; of float32 it is `nn.GroupNorm`."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class Table(nn.Embedding):
    """A row for each number, normal with deviation `gain` when `initialise` has drawn them."""

    def __init__(self, num_rows: int, num_features: int, *, gain: float = 1.0) -> None:
        super().__init__(num_rows, num_features)
        self.gain = gain

    def reset_parameters(self) -> None:
        """Left to `initialise`: here there is no generator."""


def null_of(
    num_classes: int | None,
    *,
    known_channels: int | None = None,
    low_channels: int | None = None,
    takes_augment: bool = False,
    text_length: int | None = None,
) -> Conditioning:
    """Return the conditioning of one image that says nothing.

    Args:
        num_classes: whose labels the network takes; None: it takes none.
        text_length: tokens of the texts that it takes; None: it takes none.
        known_channels: of the images of which it takes the known part; None: it takes none.
        low_channels: of the low resolutions that it takes; None: it takes none.
        takes_augment: whether it takes how images were transformed.
    """
    label = None if num_classes is None else torch.tensor([num_classes])
    augment = torch.zeros(1, AUGMENT_NUMBERS) if takes_augment else None
    known = None
    if known_channels is not None:
        nothing = torch.zeros(1, known_channels, 1, 1)
        known = Known(nothing, nothing[:, :1] > 0)
    low = None
    if low_channels is not None:
        low = LowRes(torch.zeros(1, low_channels, 1, 1), torch.tensor([-1]))
    text = None if text_length is None else encode([""], text_length)
    null = Conditioning(label=label, text=text, known=known, low=low, augment=augment)
    return null if null.parts else NOTHING


def known_channels_of(known: Known, like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
    """Return what a network is given of the known part: the images, 0 where they are not known, and
    the mask, 1 where they are.

    Args:
        known: of each image.
        like: x_t, whose size and dtype the result has.

    Source: Nichol et al. 2021, arXiv:2112.10741, section 3.2; in this order and sign in its code.
    """
    mask = known.mask.expand(len(like), 1, *like.shape[2:])
    values = known.values.to(like.dtype).expand_as(like)
    return torch.cat([values.where(mask, 0), mask.to(like.dtype)], dim=1)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw weights uniformly with variance gain**2 / fan_avg, tables normally; set biases to 0.

    They are drawn on the CPU in the order of definition: the same on every device.
    """
    for layer in module.modules():
        if not isinstance(layer, Conv | Linear | Table) or layer.weight.is_meta:
            continue
        if isinstance(layer, Table):
            weight = torch.empty(layer.weight.shape, dtype=torch.float32, device="cpu")
            layer.weight.copy_(weight.normal_(generator=generator).mul_(layer.gain))
            continue
        num_out, num_in, *kernel = layer.weight.shape
        bound = layer.gain * math.sqrt(6 / ((num_in + num_out) * math.prod(kernel)))
        weight = torch.empty(layer.weight.shape, dtype=torch.float32, device="cpu")
        layer.weight.copy_(weight.uniform_(-bound, bound, generator=generator))
        if layer.bias is not None:
            layer.bias.zero_()


@torch.no_grad()
def begun_at_zero(layer: Layer) -> Layer:
    """Return a layer without bias, if there is one, with all weights 0: what it adds is 0.

    Its weights are not drawn, so that a seed gives all others what it gives without this layer.
    """
    if layer is not None:
        layer.weight.zero_()
    return layer


def timestep_embedding(
    t: Real[Tensor, " b"], num_channels: int, *, shift: int = 1
) -> Float[Tensor, "b c"]:
    """Return [sin(t f), cos(t f)] with frequencies f from 1 down to 1/10000, in float32.

    f_i = 10000 ** (-i / (num_channels/2 - shift)); t is the raw code index, neither scaled nor
    normalised.

    Args:
        t: code index of the step, 0..T-1, whole or in between.
        num_channels: even, at least 4.
        shift: 1, as here, or 0, with which the last frequency is that before 1/10000.

    Source: Vaswani et al. 2017, section 3.5, in the variant of the original DDPM.
    """
    half = num_channels // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * (-math.log(10000) * index / (half - shift)).exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def fourier_features(t: Real[Tensor, " b"], num_frequencies: int) -> Float[Tensor, "b c"]:
    """Return [sin(2 pi t w), cos(2 pi t w)] with frequencies w of N(0, 16**2), in float32.

    The |w| are that distribution's quantiles (i + 1/2) / n, where the source draws w once: they
    are no weights, and the same in every network. The layer that follows has any sign; with both
    of each frequency every feature would be there twice.

    Args:
        t: the logarithm of a noise level, some -7 to 7.
        num_frequencies: n; there are twice as many features.

    Source: Song et al. 2021, arXiv:2011.13456, appendix H (NCSN++: Fourier features of log sigma of
    scale 16); Tancik et al. 2020, arXiv:2006.10739, section 5.
    """
    places = torch.arange(num_frequencies, dtype=torch.float64, device=t.device) + 0.5
    w = 16 * torch.special.ndtri(0.5 + places / (2 * num_frequencies))
    angles = 2 * math.pi * t.double()[:, None] * w
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time, and two layers; the result has passed the swish of the blocks.

    What else is embedded in a vector is added before that swish, or before the two layers.

    Args:
        base_channels: as many as there are sines and cosines of a timestep.
        fourier: whether they are `fourier_features`, twice as many, of a time that is no timestep.
    """

    def __init__(self, base_channels: int, *, fourier: bool = False) -> None:
        super().__init__()
        self.base_channels, self.fourier = base_channels, fourier
        self.linear_1 = Linear((2 if fourier else 1) * base_channels, 4 * base_channels)
        self.linear_2 = Linear(4 * base_channels, 4 * base_channels)

    def forward(
        self,
        t: Real[Tensor, " b"],
        other: Float[Tensor, "b e"] | None = None,
        before: Float[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, "b e"]:
        embed = fourier_features if self.fourier else timestep_embedding
        embedding = embed(t, self.base_channels).to(self.linear_1.weight.dtype)
        embedding = embedding if before is None else embedding + before
        # Every residual block begins with a swish of this; once is enough.
        hidden = F.silu(self.linear_1(embedding))
        embedded: Tensor = self.linear_2(hidden)
        return F.silu(embedded if other is None else embedded + other)


class ResBlock(Recomputable):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embed_channels: int,
        dropout: float,
        num_groups: int,
    ) -> None:
        super().__init__()
        self.norm_1 = Norm(num_groups, in_channels, eps=NORM_EPS)
        self.conv_1 = Conv(in_channels, out_channels, 3)
        self.time_proj = Linear(embed_channels, out_channels)
        self.norm_2 = Norm(num_groups, out_channels, eps=NORM_EPS)
        self.dropout = Dropout(dropout)
        self.conv_2 = Conv(out_channels, out_channels, 3, gain=NEAR_ZERO)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else Conv(in_channels, out_channels, 1)

    def forward(
        self,
        x: Float[Tensor, "b c1 h w"],
        embedding: Float[Tensor, "b e"],
        skip: Float[Tensor, "b c2 h w"] | None = None,
    ) -> Float[Tensor, "b k h w"]:
        if skip is not None:
            x = torch.cat([x, skip], dim=1)  # here, so that the copy need not be kept
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + self.time_proj(embedding)[:, :, None, None]
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        summed: Tensor = self.shortcut(x) + h
        return summed


class Attention(Recomputable):
    """Self-attention among all pixels, one head, scale 1/sqrt(channels)."""

    def __init__(self, channels: int, *, num_groups: int) -> None:
        super().__init__()
        self.norm = Norm(num_groups, channels, eps=NORM_EPS)
        # Three matrices, not one: a joint one would begin with too small weights.
        self.query = Linear(channels, channels)
        self.key = Linear(channels, channels)
        self.value = Linear(channels, channels)
        self.proj_out = Linear(channels, channels, gain=NEAR_ZERO)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pixels = self.norm(x).flatten(2).transpose(1, 2).unsqueeze(1)  # b 1 (h w) c
        mixed = attend(self.query(pixels), self.key(pixels), self.value(pixels))
        change: Tensor = self.proj_out(mixed)
        return x + change.squeeze(1).transpose(1, 2).reshape(x.shape)


class Downsample(Recomputable):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2, padding=0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        # One row and column more at the end only; padding=1 would be another function.
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(Recomputable):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return doubled
