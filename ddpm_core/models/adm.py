"""The U-Net of guided diffusion (ADM), and what GLIDE and Imagen made of it: attention to text too.

Residual blocks with adaptive normalisation, which also halve and double; attention in heads of one
size at several resolutions and in the middle. A text is read by an encoder that is trained with the
rest: its positions are attended to wherever pixels are, and its vector is added to the embedding of
the timestep.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3; Nichol et al. 2021,
arXiv:2112.10741, section 3.1 (GLIDE); Saharia et al. 2022, arXiv:2205.11487, appendix B (Efficient
U-Net); the code of the first two. What differs: how weights begin, see `initialise`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import AUGMENT_NUMBERS, NOTHING, Conditioning, Text, require_accepted
from ddpm_core.errors import ConfigError
from ddpm_core.models.adm_blocks import NORM_EPS, AdaBlock, Doubling, Halving
from ddpm_core.models.adm_layout import Level, levels_of
from ddpm_core.models.adm_stages import AdmDown, AdmMiddle, AdmUp, Attends
from ddpm_core.models.blocks import (
    Conv,
    Linear,
    Norm,
    Table,
    begun_at_zero,
    initialise,
    known_channels_of,
    null_of,
    timestep_embedding,
)
from ddpm_core.models.low import LowInput
from ddpm_core.models.stages import Common, check_levels, check_size
from ddpm_core.models.text_encoder import TextReader, reading


def sines_of(t: Real[Tensor, " b"], count: int) -> Float[Tensor, "b c"]:
    """Return [cos(t f), sin(t f)] with frequencies f from 1 down to nearly 1/10000, in float32.

    f_i = 10000 ** (-i / (count/2)), the order and the frequencies of guided diffusion's code.
    """
    return timestep_embedding(t, count, shift=0).roll(count // 2, dims=1)


class AdmTime(nn.Module):
    """Two layers over [cos, sin] of the timestep; the result has passed the swish of the blocks."""

    def __init__(self, base_channels: int) -> None:
        super().__init__()
        self.linear_1 = Linear(base_channels, 4 * base_channels)
        self.linear_2 = Linear(4 * base_channels, 4 * base_channels)

    def forward(
        self,
        t: Real[Tensor, " b"],
        other: Float[Tensor, "b e"] | None = None,
        before: Float[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, "b e"]:
        """Return the embedding; see `blocks.TimeEmbedding` for what is added to it."""
        features = sines_of(t, self.linear_1.in_features).to(self.linear_1.weight.dtype)
        features = features if before is None else features + before
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return F.silu(embedded if other is None else embedded + other)


class AdmUNet(nn.Module):
    """(x_t, t) -> eps_hat.

    Computes in the dtype of its parameters or, under autocast, in that of autocast, but the sines
    and cosines of the timestep and the last convolution in float32, as `UNet` does.

    Args:
        in_channels: channels of x_t.
        out_channels: channels of the prediction; twice `in_channels` for a learned variance.
        base_channels: sines and cosines of the timestep, a quarter of its embedding; even, at least
            4.
        channel_mults: channels at each resolution, in multiples of `base_channels`.
        num_res_blocks: residual blocks of each resolution on the way down; one more on the way up.
        attention_resolutions: heights of the feature maps that get attention after each block.
        image_height: height of the images, which says where those feature maps are.
        head_channels: channels of every head of attention.
        dropout: probability of dropping a feature in a residual block, in [0, 1).
        num_groups: groups of each normalisation; divides every number of channels.
        resample_first: whether images are halved before the first block; see `levels_of`.
        scale_skips: whether what was kept on the way down is multiplied by 1/sqrt(2).
        num_classes: as of `UNet`.
        takes_known: as of `UNet`.
        takes_low: as of `UNet`.
        takes_augment: as of `UNet`.
        text: how it reads texts; None: it takes none.
        generator: CPU generator from which the initial weights are drawn.

    Raises:
        ConfigError: if these do not fit together.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        base_channels: int,
        channel_mults: Sequence[int],
        num_res_blocks: Sequence[int],
        attention_resolutions: Sequence[int],
        image_height: int,
        head_channels: int,
        dropout: float,
        num_groups: int,
        resample_first: bool = False,
        scale_skips: bool = False,
        num_classes: int | None = None,
        takes_known: bool = False,
        takes_low: bool = False,
        takes_augment: bool = False,
        text: TextReader | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.null = null_of(
            num_classes,
            known_channels=in_channels if takes_known else None,
            low_channels=in_channels if takes_low else None,
            takes_augment=takes_augment,
            text_length=None if text is None else text.length,
        )
        """of one image: the value of each part that says nothing"""
        self.accepts = self.null.parts
        """the parts of a conditioning that it takes"""
        halved = range(resample_first, len(channel_mults) + resample_first)
        heights = [image_height // 2**times for times in halved]
        check_levels(base_channels, channel_mults, num_groups, attention_resolutions, heights)
        widths = [base_channels * mult for mult in channel_mults]
        levels = levels_of(
            widths,
            num_res_blocks,
            [height in attention_resolutions for height in heights],
            resample_first=resample_first,
        )
        _check_heads([one.width for one in levels if one.attends] + widths[-1:], head_channels)
        self.num_halvings = halved[-1]
        embed_channels = 4 * base_channels
        shared = Common(embed_channels=embed_channels, dropout=dropout, num_groups=num_groups)
        attends = Attends(
            head_channels=head_channels,
            num_groups=num_groups,
            text_width=None if text is None else text.width,
        )

        def halving(level: Level) -> nn.Module | None:
            if level.halves_from is None:
                return None
            if resample_first:
                return Halving(level.halves_from, level.width)
            return AdaBlock(level.halves_from, level.halves_from, resampling="halved", **shared)

        def doubling(level: Level) -> nn.Module | None:
            if not level.doubles:
                return None
            if resample_first:
                return Doubling(level.width)
            return AdaBlock(level.width, level.width, resampling="doubled", **shared)

        self.text_encoder, self.text_pool = reading(text, embed_channels)
        self.time_embed = AdmTime(base_channels)
        rows = None if num_classes is None else num_classes + 1
        self.class_embed = None if rows is None else Table(rows, embed_channels)
        self.conv_in = Conv(in_channels, widths[0], 3)
        self.down = nn.ModuleList(
            AdmDown(one, halving(one), shared=shared, attends=attends) for one in levels
        )
        self.middle = AdmMiddle(widths[-1], shared=shared, attends=attends)
        skip_scale = 1 / math.sqrt(2) if scale_skips else 1.0
        self.up = nn.ModuleList(
            AdmUp(one, doubling(one), skip_scale=skip_scale, shared=shared, attends=attends)
            for one in reversed(levels)
        )
        self.keeps_first = not resample_first
        self.norm_out = Norm(num_groups, widths[0], eps=NORM_EPS)
        self.conv_out = Conv(widths[0], out_channels, 3, gain=0.0)
        initialise(self, generator)
        # Apart from `conv_in` and without bias, as in `UNet`.
        further = Conv(in_channels + 1, widths[0], 3, bias=False) if takes_known else None
        self.conv_known = begun_at_zero(further)
        first, second = self.time_embed.linear_1, self.time_embed.linear_2
        low = LowInput(in_channels, widths[0], first, second, sines_of) if takes_low else None
        self.low = low
        augment = Linear(AUGMENT_NUMBERS, base_channels, bias=False) if takes_augment else None
        self.augment_embed = begun_at_zero(augment)

    @property
    def last(self) -> nn.Module:
        """The layer that computes in the dtype of its own parameters, also under autocast."""
        return self.conv_out

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        conditioning: Conditioning = NOTHING,
    ) -> Float[Tensor, "b k h w"]:
        """Return the prediction for images `x_t` at code indices `t`, whole or in between.

        Texts are tokens, or the states that `text_encoder` makes of them.

        Raises:
            ConfigError: if height or width cannot be halved as often as there are levels, or texts
                have another length than they were to have.
            DataError: if the conditioning has other parts than `accepts`.
        """
        if self.accepts or conditioning is not NOTHING:
            require_accepted(conditioning, self.accepts, model="this U-Net")
        check_size(x_t, self.num_halvings + 1)
        text = self._states(conditioning.text)
        low = conditioning.low if self.low is not None else None
        layer = self.augment_embed
        augment = None if layer is None else layer(conditioning.augment)
        embedding = self.time_embed(t, self._vector(conditioning, text), augment)
        h = self.conv_in(x_t)
        if self.conv_known is not None and conditioning.known is not None:
            h = h + self.conv_known(known_channels_of(conditioning.known, x_t))
        if self.low is not None and low is not None:
            h = h + self.low.channels(low, x_t)
        skips = [h] if self.keeps_first else []
        for stage in self.down:
            h = stage(h, embedding, text, skips)
        h = self.middle(h, embedding, text)
        for stage in self.up:
            h = stage(h, embedding, text, skips)
        h = F.silu(self.norm_out(h))
        with torch.autocast(h.device.type, enabled=False):
            prediction: Tensor = self.conv_out(h.to(self.conv_out.weight.dtype))
        return prediction

    def _vector(
        self, conditioning: Conditioning, text: Float[Tensor, "b l d"] | None
    ) -> Float[Tensor, "b e"] | None:
        """Return what is added to the embedding of the time; None: nothing is."""
        vectors = []
        if self.class_embed is not None:
            vectors.append(self.class_embed(conditioning.label))
        if self.text_pool is not None:
            vectors.append(self.text_pool(text))
        if self.low is not None and conditioning.low is not None:
            vectors.append(self.low.level(conditioning.low))
        return sum(vectors[1:], vectors[0]) if vectors else None

    def _states(self, text: Text | None) -> Float[Tensor, "b l d"] | None:
        if self.text_encoder is None or text is None:
            return None
        if text.tokens.ndim == 3:
            return text.tokens
        states: Tensor = self.text_encoder(text)
        return states


def _check_heads(widths: Sequence[int], head_channels: int) -> None:
    for width in widths:
        if width % head_channels:
            raise ConfigError(
                f"head_channels={head_channels} does not divide {width} channels, which attend; "
                "change base_channels or head_channels"
            )
