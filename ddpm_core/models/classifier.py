"""A classifier of noised images: p(y | x_t, t), by the encoder half of the U-Net.

The way down and the middle of the U-Net, as they are there; then the feature map is normalised,
passes a swish, and its mean over the pixels is what the classes are told by. The source's networks
end in attention over the pixels instead, which makes them of one size of images; the mean is the
other end that its code has.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4 and appendix (the half of the U-Net);
their code, `EncoderUNetModel`, pool="adaptive".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import NOTHING, Conditioning, require_accepted
from ddpm_core.models.blocks import (
    NEAR_ZERO,
    NORM_EPS,
    Conv,
    Linear,
    Norm,
    TimeEmbedding,
    initialise,
)
from ddpm_core.models.stages import (
    Common,
    DownStage,
    Middle,
    block_inputs,
    check_levels,
    check_size,
)


class NoisedClassifier(nn.Module):
    """(x_t, t) -> logits of the classes, whose softmax is p(y | x_t).

    Computes as `UNet` does: the sines and cosines of the timestep and the last layer in float32,
    also under autocast.

    Args:
        in_channels: channels of x_t.
        num_classes: whose logits it gives.
        base_channels: as of `UNet`.
        channel_mults: as of `UNet`.
        num_res_blocks: residual blocks per resolution.
        attention_resolutions: as of `UNet`.
        image_height: as of `UNet`.
        dropout: as of `UNet`.
        num_groups: as of `UNet`.
        generator: CPU generator from which the initial weights are drawn.

    Raises:
        ConfigError: if these do not fit together.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        base_channels: int,
        channel_mults: Sequence[int],
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        image_height: int,
        dropout: float,
        num_groups: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.null = NOTHING
        """it is given nothing beside x_t and t"""
        self.accepts = self.null.parts
        heights = [image_height // 2**level for level in range(len(channel_mults))]
        check_levels(base_channels, channel_mults, num_groups, attention_resolutions, heights)
        common = Common(embed_channels=4 * base_channels, dropout=dropout, num_groups=num_groups)
        widths = [base_channels * mult for mult in channel_mults]
        inputs, _ = block_inputs(base_channels, widths, num_res_blocks)
        self.time_embed = TimeEmbedding(base_channels)
        self.conv_in = Conv(in_channels, base_channels, 3)
        self.down = nn.ModuleList(
            DownStage(
                inputs[level],
                width,
                lowest=level == len(widths) - 1,
                attends=heights[level] in attention_resolutions,
                **common,
            )
            for level, width in enumerate(widths)
        )
        self.middle = Middle(widths[-1], **common)
        self.norm_out = Norm(num_groups, widths[-1], eps=NORM_EPS)
        self.classes = Linear(widths[-1], num_classes, gain=NEAR_ZERO)
        initialise(self, generator)

    @property
    def last(self) -> nn.Module:
        """The layer that computes in the dtype of its own parameters, also under autocast."""
        return self.classes

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        conditioning: Conditioning = NOTHING,
    ) -> Float[Tensor, "b k"]:
        """Return the logits for images `x_t` at code indices `t`, whole or in between.

        Raises:
            ConfigError: if height or width cannot be halved as often as there are levels.
            DataError: if there is a conditioning.
        """
        require_accepted(conditioning, self.accepts, model="this classifier")
        check_size(x_t, len(self.down))
        embedding = self.time_embed(t)
        h = self.conv_in(x_t)
        for stage in self.down:
            h = stage(h, embedding, [])
        h = F.silu(self.norm_out(self.middle(h, embedding)))
        with torch.autocast(h.device.type, enabled=False):
            pooled = h.to(self.classes.weight.dtype).mean(dim=(2, 3))
            logits: Tensor = self.classes(pooled)
        return logits
