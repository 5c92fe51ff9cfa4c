"""The stages of the U-Net, one of each resolution, and how they fit together.

The classifier of noised images has those of the way down.

Source: Ho et al. 2020, arXiv:2006.11239, section 4 and appendix B.
"""

from collections.abc import Sequence
from typing import TypedDict, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from ddpm_core.errors import ConfigError
from ddpm_core.models.blocks import Attention, Downsample, ResBlock, Upsample


class Common(TypedDict):
    """What all residual blocks of a network share."""

    embed_channels: int
    dropout: float
    num_groups: int


class _Stage(nn.Module):
    """The blocks of one resolution, each followed by attention or by nothing. Abstract."""

    def __init__(
        self, inputs: Sequence[int], width: int, *, attends: bool, **common: Unpack[Common]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(num_in, width, **common) for num_in in inputs)
        self.attentions = nn.ModuleList(
            Attention(width, num_groups=common["num_groups"]) if attends else nn.Identity()
            for _ in inputs
        )


class DownStage(_Stage):
    """The blocks of a resolution on the way down; ends by halving, but at the lowest one."""

    def __init__(
        self,
        inputs: Sequence[int],
        width: int,
        *,
        lowest: bool,
        attends: bool,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inputs, width, attends=attends, **common)
        self.downsample = None if lowest else Downsample(width)

    def forward(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], skips: list[Tensor]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the feature map for the next stage; each on the way is appended to `skips`."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, embedding))
            skips.append(h)
        if self.downsample is not None:
            h = self.downsample(h)
            skips.append(h)
        return h


class UpStage(_Stage):
    """Ends by doubling, but at full resolution."""

    def __init__(
        self,
        inputs: Sequence[int],
        width: int,
        *,
        highest: bool,
        attends: bool,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inputs, width, attends=attends, **common)
        self.upsample = None if highest else Upsample(width)

    def forward(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], skips: list[Tensor]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the feature map for the next stage; each block takes one off `skips`."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, embedding, skips.pop()))
        return h if self.upsample is None else self.upsample(h)


class Middle(nn.Module):
    """Two blocks at the lowest resolution, and always attention between them."""

    def __init__(self, width: int, **common: Unpack[Common]) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, **common)
        self.attention = Attention(width, num_groups=common["num_groups"])
        self.block_2 = ResBlock(width, width, **common)

    def forward(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h w"]:
        h = self.attention(self.block_1(h, embedding))
        mixed: Tensor = self.block_2(h, embedding)
        return mixed


def check_size(x_t: Float[Tensor, "b c h w"], num_levels: int) -> None:
    """Refuse images that cannot be halved as often as there are levels.

    Raises:
        ConfigError: with what they are to be multiples of.
    """
    divisor = 2 ** (num_levels - 1)
    if x_t.shape[2] % divisor or x_t.shape[3] % divisor:
        raise ConfigError(
            f"images of {x_t.shape[2]}x{x_t.shape[3]} pixels cannot be halved "
            f"{num_levels - 1} times; pad them to multiples of {divisor}"
        )


def block_inputs(
    base_channels: int, widths: Sequence[int], num_res_blocks: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the input channels of each block, by level: on the way down, and on the way up.

    On the way up a block reads the one before it and, in reverse order, what was kept on the way
    down: the result of the first convolution, of each block, and of each halving.
    """
    down = []
    skips = [base_channels]
    for width in widths:
        down.append([skips[-1], *[width] * (num_res_blocks - 1)])
        skips += [width] * (num_res_blocks + 1)
    skips.pop()  # the lowest level is not halved
    up = {}
    below = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        up[level] = [num_in + skips.pop() for num_in in [below, *[width] * num_res_blocks]]
        below = width
    return down, [up[level] for level in range(len(widths))]


def check_levels(
    base_channels: int,
    channel_mults: Sequence[int],
    num_groups: int,
    attention_resolutions: Sequence[int],
    heights: Sequence[int],
) -> None:
    """Refuse channels and resolutions that do not fit together.

    Raises:
        ConfigError: with what must hold.
    """
    if base_channels < 4 or base_channels % 2:
        raise ConfigError(
            f"base_channels={base_channels} must be even and at least 4, half for the sines and "
            "half for the cosines of the timestep"
        )
    for channels in [base_channels, *(base_channels * mult for mult in channel_mults)]:
        if channels % num_groups:
            raise ConfigError(
                f"num_groups={num_groups} does not divide {channels} channels; "
                "change base_channels or num_groups"
            )
    for resolution in attention_resolutions:
        if resolution not in heights:
            raise ConfigError(
                f"attention_resolutions has {resolution}, which never occurs: feature maps are "
                f"{list(heights)} pixels high; choose among these"
            )
