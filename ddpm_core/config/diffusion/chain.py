"""The section `diffusion` of the paper's chain of steps, and what the network predicts."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.diffusion.process import ProcessConfig
from ddpm_core.diffusion.choices import BetaSchedule, PredictionKind, Variance, require_end_known


class ChainConfig(ProcessConfig):
    """The forward process and what the network predicts (sections 2 and 3 of the paper)."""

    kind: Literal["chain"] = "chain"
    """which forward process: the paper's chain of steps (chain), a chain of bits (binomial), or one
    in continuous time: the equations of score-based models (vp, subvp, ve), flow matching (flow),
    or EDM's (edm)"""
    num_timesteps: int = Field(1000, ge=2, le=10**6)
    """T, steps of the chain"""
    beta_schedule: BetaSchedule = "linear"
    """how the variance of the forward steps grows"""
    beta_start: float = Field(1e-4, gt=0, lt=1)
    """variance of the first step of a chain of 1000; scaled by 1000/T otherwise; not used by
    const, jsd, cosine and erasure"""
    beta_end: float = Field(0.02, gt=0, lt=1)
    """variance of the last step of a chain of 1000; scaled by 1000/T otherwise; not used by
    jsd, cosine and erasure"""
    zero_terminal_snr: bool = False
    """rescale the schedule so that it ends in pure noise; needs another prediction than eps"""
    prediction: PredictionKind = "eps"
    """what the network predicts: the noise, the image, the mean of x_{t-1}, v, or how far that mean
    lies from sqrt(1 - beta) x_t, in units of sqrt(beta) (drift)"""
    variance: Variance = "fixed_large"
    """variance of the reverse steps: posterior variance (fixed_small), beta (fixed_large), or
    predicted by the network: its logarithm (learned), where between those two (learned_range), or
    its log odds beside those of beta (learned_beta)"""

    @property
    def ends_in_pure_noise(self) -> bool:
        """Whether the last signal-to-noise ratio is 0."""
        return self.zero_terminal_snr or self.beta_schedule == "jsd"

    @model_validator(mode="after")
    def _betas_are_variances(self) -> Self:
        uses_end = self.beta_schedule not in ("jsd", "cosine", "erasure")
        uses_start = uses_end and self.beta_schedule != "const"
        if uses_start and self.beta_start > self.beta_end:
            raise ValueError(
                f"beta_start={self.beta_start} is above beta_end={self.beta_end}; swap them"
            )
        if uses_end and self.beta_end * 1000 / self.num_timesteps >= 1:
            raise ValueError(
                f"num_timesteps={self.num_timesteps} is too few: beta_end={self.beta_end} scaled "
                f"by 1000/T is {self.beta_end * 1000 / self.num_timesteps:.3g}, which must stay "
                f"below 1; give at least {math.floor(self.beta_end * 1000) + 1} timesteps"
            )
        require_end_known(self.prediction, ends_in_pure_noise=self.ends_in_pure_noise)
        return self
