"""The stages of the U-Net of guided diffusion, one of each resolution and way.

Source: as of `adm`.
"""

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor, nn

from ddpm_core.models.adm_blocks import AdaBlock, JointAttention
from ddpm_core.models.adm_layout import Level
from ddpm_core.models.stages import Common


class Attends(TypedDict):
    """What all attentions of a network share."""

    head_channels: int
    num_groups: int
    text_width: int | None


class _Stage(nn.Module):
    """The blocks of one resolution on one way, each followed by attention or by nothing. Abstract.

    Args:
        inputs: input channels of each block.
        level: the resolution.
        shared: by all residual blocks.
        attends: what its attentions share with all others.
        skip_scale: factor of what was kept, on the way up.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        level: Level,
        *,
        shared: Common,
        attends: Attends,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            AdaBlock(num_in, level.width, skip_scale=skip_scale, **shared) for num_in in inputs
        )
        count = len(inputs) if level.attends else 0
        self.attentions = nn.ModuleList(
            JointAttention(level.width, **attends) for _ in range(count)
        )

    def _attended(self, h: Tensor, text: Tensor | None, index: int) -> Tensor:
        if not self.attentions:
            return h
        attended: Tensor = self.attentions[index](h, text)
        return attended


class AdmDown(_Stage):
    """The way down, of which all but the highest resolution begin by halving.

    Args:
        level: the resolution.
        halving: halves; None: it is at full resolution.
        shared: by all residual blocks.
        attends: what its attentions share with all others.
    """

    def __init__(
        self, level: Level, halving: nn.Module | None, *, shared: Common, attends: Attends
    ) -> None:
        super().__init__(level.down, level, shared=shared, attends=attends)
        self.halving = halving

    def forward(
        self, h: Tensor, embedding: Tensor, text: Tensor | None, skips: list[Tensor]
    ) -> Tensor:
        """Return the feature map for the next stage; each on the way is appended to `skips`."""
        if self.halving is not None:
            h = self.halving(h, embedding)
            skips.append(h)
        for index, block in enumerate(self.blocks):
            h = self._attended(block(h, embedding), text, index)
            skips.append(h)
        return h


class AdmUp(_Stage):
    """The way up, of which all but full resolution end by doubling.

    Args:
        level: the resolution.
        doubling: doubles; None: it is at full resolution.
        skip_scale: factor of what was kept on the way down.
        shared: by all residual blocks.
        attends: what its attentions share with all others.
    """

    def __init__(
        self,
        level: Level,
        doubling: nn.Module | None,
        *,
        skip_scale: float,
        shared: Common,
        attends: Attends,
    ) -> None:
        super().__init__(level.up, level, shared=shared, attends=attends, skip_scale=skip_scale)
        self.doubling = doubling

    def forward(
        self, h: Tensor, embedding: Tensor, text: Tensor | None, skips: list[Tensor]
    ) -> Tensor:
        """Return the feature map for the next stage; each block takes one off `skips`."""
        for index, block in enumerate(self.blocks):
            h = self._attended(block(h, embedding, skips.pop()), text, index)
        return h if self.doubling is None else self.doubling(h, embedding)


class AdmMiddle(nn.Module):
    """Two blocks at the lowest resolution, and always attention between them."""

    def __init__(self, width: int, *, shared: Common, attends: Attends) -> None:
        super().__init__()
        self.block_1 = AdaBlock(width, width, **shared)
        self.attention = JointAttention(width, **attends)
        self.block_2 = AdaBlock(width, width, **shared)

    def forward(self, h: Tensor, embedding: Tensor, text: Tensor | None) -> Tensor:
        h = self.attention(self.block_1(h, embedding), text)
        mixed: Tensor = self.block_2(h, embedding)
        return mixed
