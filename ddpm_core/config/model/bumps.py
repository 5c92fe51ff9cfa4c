"""What the networks of 2015 have in common: x_t alone is given to their layers."""

from typing import Self

from pydantic import Field, model_validator

from ddpm_core.config.model.network import NetworkConfig


class BumpsConfig(NetworkConfig):
    """The keys of networks that are read out by bumps. Abstract: `kind` has no default here."""

    num_bumps: int = Field(10, ge=2, le=1000)
    """bumps over the timestep by which the last layer is read out"""

    @model_validator(mode="after")
    def _takes_no_mask(self) -> Self:
        if self.known:
            raise ValueError(
                f"known=true is for networks of images, and model.kind={self.kind} takes no mask; "
                "leave it out, or set model.kind=unet or dit"
            )
        return self
