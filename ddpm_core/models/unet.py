"""The U-Net of the paper: predicts the noise in x_t, or what else it is trained to.

Residual blocks with group normalisation and swish, self-attention at chosen resolutions and
always in the middle, the timestep added to every residual block through a sinusoidal embedding.
With classes, a learned row of each is added to that of the timestep; the last row is that of no
class.

Source: Ho et al. 2020, arXiv:2006.11239, section 4 and appendix B; the rows: Dhariwal and Nichol
2021, arXiv:2105.05233, section 3.1, added as in their code and in diffusers.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import AUGMENT_NUMBERS, NOTHING, Conditioning, require_accepted
from ddpm_core.models.blocks import (
    NEAR_ZERO,
    NORM_EPS,
    Conv,
    Linear,
    Norm,
    Table,
    TimeEmbedding,
    begun_at_zero,
    initialise,
    known_channels_of,
    null_of,
)
from ddpm_core.models.low import LowInput
from ddpm_core.models.stages import (
    Common,
    DownStage,
    Middle,
    UpStage,
    block_inputs,
    check_levels,
    check_size,
)


class UNet(nn.Module):
    """(x_t, t) -> eps_hat.

    Computes in the dtype of its parameters or, under autocast, in that of autocast, but the
    sines and cosines of the timestep and the last convolution in float32: rounded to
    bfloat16, eps_hat would carry an error of 0.4 %.

    Args:
        in_channels: channels of x_t.
        out_channels: channels of the prediction; twice `in_channels` for a learned variance.
        base_channels: channels at full resolution; even, at least 4.
        channel_mults: channels at each resolution, in multiples of `base_channels`.
        num_res_blocks: residual blocks per resolution on the way down; one more on the way up.
        attention_resolutions: heights of the feature maps that get attention after each block.
        image_height: height of the images, which says where those feature maps are. Images of
            another size pass too, with attention in the same places of the network.
        dropout: probability of dropping a feature in a residual block, in [0, 1).
        num_groups: groups of each normalisation; divides every number of channels.
        num_classes: labels that it takes, 0 ... num_classes - 1, beside the null, which is
            num_classes; None: it takes no label.
        takes_known: whether it takes what is known of the images. The weights of that begin at 0,
            so that it begins as the exact network without, and all others have the same names.
        takes_low: whether it takes the low resolution that it is to enlarge; likewise.
        takes_augment: whether it takes how its images were transformed; likewise.
        fourier: whether its times are no code indices but log sigma, see `fourier_features`.
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
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        image_height: int,
        dropout: float,
        num_groups: int,
        num_classes: int | None = None,
        takes_known: bool = False,
        takes_low: bool = False,
        takes_augment: bool = False,
        fourier: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.null = null_of(
            num_classes,
            known_channels=in_channels if takes_known else None,
            low_channels=in_channels if takes_low else None,
            takes_augment=takes_augment,
        )
        """of one image: the value of each part that says nothing"""
        self.accepts = self.null.parts
        """the parts of a conditioning that it takes"""
        heights = [image_height // 2**level for level in range(len(channel_mults))]
        check_levels(base_channels, channel_mults, num_groups, attention_resolutions, heights)
        common = Common(embed_channels=4 * base_channels, dropout=dropout, num_groups=num_groups)
        widths = [base_channels * mult for mult in channel_mults]
        down_inputs, up_inputs = block_inputs(base_channels, widths, num_res_blocks)
        levels = range(len(widths))

        self.time_embed = TimeEmbedding(base_channels, fourier=fourier)
        rows = None if num_classes is None else num_classes + 1
        self.class_embed = None if rows is None else Table(rows, 4 * base_channels)
        self.conv_in = Conv(in_channels, base_channels, 3)
        self.down = nn.ModuleList(
            DownStage(
                down_inputs[level],
                widths[level],
                lowest=level == levels[-1],
                attends=heights[level] in attention_resolutions,
                **common,
            )
            for level in levels
        )
        self.middle = Middle(widths[-1], **common)
        self.up = nn.ModuleList(
            UpStage(
                up_inputs[level],
                widths[level],
                highest=level == 0,
                attends=heights[level] in attention_resolutions,
                **common,
            )
            for level in reversed(levels)
        )
        self.norm_out = Norm(num_groups, widths[0], eps=NORM_EPS)
        self.conv_out = Conv(widths[0], out_channels, 3, gain=NEAR_ZERO)
        initialise(self, generator)
        # Further input channels of `conv_in`, but apart: the sums over the others keep their bits.
        further = Conv(in_channels + 1, base_channels, 3, bias=False) if takes_known else None
        self.conv_known = begun_at_zero(further)
        first, second = self.time_embed.linear_1, self.time_embed.linear_2
        low = LowInput(in_channels, base_channels, first, second) if takes_low else None
        self.low = low
        # Without bias: of the null, zeros, it adds nothing.
        time_features = self.time_embed.linear_1.in_features
        augment = Linear(AUGMENT_NUMBERS, time_features, bias=False) if takes_augment else None
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

        Raises:
            ConfigError: if height or width cannot be halved as often as there are levels.
            DataError: if the conditioning has other parts than `accepts`.
        """
        if self.accepts or conditioning is not NOTHING:
            require_accepted(conditioning, self.accepts, model="this U-Net")
        check_size(x_t, len(self.down))
        rows = None if self.class_embed is None else self.class_embed(conditioning.label)
        low = conditioning.low if self.low is not None else None
        if self.low is not None and low is not None:
            level = self.low.level(low)
            rows = level if rows is None else rows + level
        layer = self.augment_embed
        augment = None if layer is None else layer(conditioning.augment)
        embedding = self.time_embed(t, rows, augment)
        h = self.conv_in(x_t)
        if self.conv_known is not None and conditioning.known is not None:
            h = h + self.conv_known(known_channels_of(conditioning.known, x_t))
        if self.low is not None and low is not None:
            h = h + self.low.channels(low, x_t)
        skips = [h]
        for stage in self.down:
            h = stage(h, embedding, skips)
        h = self.middle(h, embedding)
        for stage in self.up:
            h = stage(h, embedding, skips)
        h = F.silu(self.norm_out(h))
        with torch.autocast(h.device.type, enabled=False):
            prediction: Tensor = self.conv_out(h.to(self.conv_out.weight.dtype))
        return prediction
