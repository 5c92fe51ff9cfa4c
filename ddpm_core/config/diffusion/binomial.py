"""The section `diffusion` of a chain of bits."""

from typing import Literal

from pydantic import Field

from ddpm_core.config.diffusion.process import ProcessConfig
from ddpm_core.diffusion.choices import PredictionKind, Variance


class BinomialConfig(ProcessConfig):
    """A chain of bits (Sohl-Dickstein et al. 2015, arXiv:1503.03585), for images of two levels.

    Each step erases as much of the image, so that its length is all there is to choose.
    """

    kind: Literal["binomial"] = "binomial"
    """which forward process: steps that turn bits into coins (binomial)"""
    num_timesteps: int = Field(2000, ge=2, le=10**6)
    """T, steps of the chain"""

    @property
    def prediction(self) -> PredictionKind:
        """The image, as the log odds of each bit."""
        return "x_0"

    @property
    def variance(self) -> Variance:
        """Of no number: a distribution of bits has none beside its mean."""
        return "fixed_small"

    @property
    def ends_in_pure_noise(self) -> bool:
        """Whether nothing is left of the image at the end: all bits are coins."""
        return True
