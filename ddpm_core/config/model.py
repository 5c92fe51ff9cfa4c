"""The section `model`: the network."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ddpm_core.config.section import PositiveInt, Section


class ModelConfig(Section):
    """The U-Net of the paper (appendix B)."""

    base_channels: PositiveInt = 128
    """channels at full resolution"""
    channel_mults: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2, 2)
    """channels at each resolution, in multiples of base_channels; each halves height and width"""
    num_res_blocks: PositiveInt = 2
    """residual blocks at each resolution on the way down; one more on the way up"""
    attention_resolutions: tuple[PositiveInt, ...] = (16,)
    """heights, in pixels, of the feature maps that get self-attention after each block"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """probability of dropping a feature inside a residual block"""
    num_groups: PositiveInt = 32
    """groups of every group normalisation"""

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        for mult in self.channel_mults:
            if (self.base_channels * mult) % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide base_channels*{mult}="
                    f"{self.base_channels * mult}; change base_channels or num_groups"
                )
        return self
