"""The straight line from the image to the noise, of flow matching: x_t = (1 - t) x_0 + t eps.

A network of it predicts the velocity dx_t/dt = eps - x_0. Time runs from the image to the noise,
as in all paths here; the sources let it run the other way.

Source: Liu et al. 2022, arXiv:2209.03003, section 2.1; Lipman et al. 2022, arXiv:2210.02747,
section 4.1 (eqs. 22 and 23, with sigma_min = 0); Esser et al. 2024, arXiv:2403.03206, section 3
(this direction of time, the velocity's sign, the ratio of signal to noise).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_core.diffusion.paths.path import ContinuousPath


@dataclass(frozen=True)
class Straight(ContinuousPath):
    """signal = 1 - t, noise = t: with the end at 1 nothing is left of the image there."""

    start: float = 1e-3
    end: float = 1.0

    def marginal(self, t: Float64[Tensor, "*d"]) -> tuple[Tensor, Tensor]:
        """As of `ContinuousPath`."""
        return 1 - t, t

    def log_snr_at(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`; -inf at t = 1."""
        t = t.double()
        return 2 * (torch.log1p(-t) - t.log())

    def log_snr_slope(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `ContinuousPath`."""
        t = t.double()
        return -2 / (t * (1 - t))

    def time_at(self, log_snr: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return (-0.5 * log_snr.double()).sigmoid().clamp(self.start, self.end)

    def signal_at_sigma(self, sigma: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return 1 / (1 + sigma.double())
