"""At which times of a continuous path a network is trained, and how often each.

Source: Song et al. 2021, arXiv:2011.13456, eq. 7 (uniform); Song et al. 2021b, arXiv:2101.09258,
section 4.3 (importance sampling for the likelihood weighting, which is -d log_snr / dt: uniform in
log_snr); Karras et al. 2022, arXiv:2206.00364, table 1 (normal in log sigma); Esser et al. 2024,
arXiv:2403.03206, section 3.1 (logit-normal: the same on the straight line).
"""

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_core.diffusion.choices import TrainingTimes
from ddpm_core.diffusion.paths.path import ContinuousPath


@dataclass(frozen=True)
class Times:
    """A distribution of the times of a path."""

    path: ContinuousPath
    choice: TrainingTimes = "uniform"
    log_sigma_mean: float = 0.0
    """of log_normal"""
    log_sigma_std: float = 1.0
    """of log_normal"""

    def at(self, share: Float[Tensor, "*d"]) -> Float64[Tensor, "*d"]:
        """Return the time below which this share of the times lies.

        Of uniform shares it makes times of this distribution. That of log_normal is the normal one
        between the ends of the path, without its tails beyond them.

        Args:
            share: in (0, 1).
        """
        share = share.double()
        match self.choice:
            case "uniform":
                start, end = self.path.time_range
                return start + share * (end - start)
            case "log_snr":
                first, last = self.path.log_snr_range
                return self.path.time_at(first + share * (last - first))
            case "log_normal":
                first, last = self._shares_of_ends
                away = torch.special.ndtri(first + share * (last - first))
                return self.path.time_at(-2 * (self.log_sigma_mean + self.log_sigma_std * away))
            case _:
                assert_never(self.choice)

    def log_snr_density(self, t: Tensor) -> Float64[Tensor, "*d"]:
        """Return how densely the log signal-to-noise ratios of these times lie around that of t."""
        match self.choice:
            case "uniform":
                start, end = self.path.time_range
                return -1 / ((end - start) * self.path.log_snr_slope(t))
            case "log_snr":
                first, last = self.path.log_snr_range
                return torch.full_like(t, 1 / (first - last), dtype=torch.float64)
            case "log_normal":
                # log_snr is -2 log sigma.
                away = (-0.5 * self.path.log_snr_at(t) - self.log_sigma_mean) / self.log_sigma_std
                first, last = self._shares_of_ends
                scale = 2 * self.log_sigma_std * math.sqrt(2 * math.pi) * (last - first)
                return (-0.5 * away.square()).exp() / scale
            case _:
                assert_never(self.choice)

    @property
    def _shares_of_ends(self) -> tuple[float, float]:
        """The shares of normal log sigma that lie below those of the path's two ends."""
        away = [
            (-0.5 * end - self.log_sigma_mean) / self.log_sigma_std
            for end in self.path.log_snr_range
        ]
        first, last = (0.5 * math.erfc(-one / math.sqrt(2)) for one in away)
        return first, last
