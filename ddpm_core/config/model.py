"""The section `model`: the network."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ddpm_core.config.section import Few, Section

_MAX_LEVELS = 16
"""An image would have 2**15 pixels on a side."""


class ModelConfig(Section):
    """The U-Net of the paper (appendix B)."""

    base_channels: Few = 128
    """channels at full resolution"""
    channel_mults: Annotated[tuple[Few, ...], Field(min_length=1, max_length=_MAX_LEVELS)] = (
        1,
        2,
        2,
        2,
    )
    """channels at each resolution, in multiples of base_channels; each halves height and width"""
    num_res_blocks: int = Field(2, ge=1, le=1000)
    """residual blocks at each resolution on the way down; one more on the way up"""
    attention_resolutions: Annotated[tuple[Few, ...], Field(max_length=_MAX_LEVELS)] = (16,)
    """heights, in pixels, of the feature maps that get self-attention after each block"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """probability of dropping a feature inside a residual block"""
    num_groups: Few = 32
    """groups of every group normalisation"""

    @model_validator(mode="after")
    def _timestep_has_sines_and_cosines(self) -> Self:
        if self.base_channels < 4 or self.base_channels % 2:
            raise ValueError(
                f"base_channels={self.base_channels} must be even and at least 4: half are for the "
                "sines and half for the cosines of the timestep"
            )
        return self

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        for mult in self.channel_mults:
            if (self.base_channels * mult) % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide base_channels*{mult}="
                    f"{self.base_channels * mult}; change base_channels or num_groups"
                )
        return self
