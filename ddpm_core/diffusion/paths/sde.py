"""The paths of the three stochastic differential equations of score-based models, t in (0, 1].

- variance preserving: dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw, the limit of the chain of
  `make_betas("linear", T)` for large T;
- sub-variance preserving: the same drift with less noise, dx = -beta(t) x / 2 dt +
  sqrt(beta(t) (1 - exp(-2 integral of beta))) dw;
- variance exploding: dx = sqrt(d sigma(t)**2 / dt) dw, no drift at all.

Source: Song et al. 2021, arXiv:2011.13456, section 3.4 (eqs. 9, 11, 12) and appendix C
(eqs. 29 to 33), with its constants.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import logsigmoid

from ddpm_core.diffusion.paths.path import ContinuousPath
from ddpm_core.errors import ConfigError

_START = 1e-5


@dataclass(frozen=True)
class _LinearBeta(ContinuousPath):
    """A drift of -beta(t) x / 2 with beta(t) on the line from beta_min to beta_max.

    Raises:
        ConfigError: if the line is none.
    """

    start: float = _START
    end: float = 1.0
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max:
            raise ConfigError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max} must be 0 < beta_min <= "
                "beta_max"
            )

    def _integral(self, t: Tensor) -> Float64[Tensor, "*d"]:
        """Return the integral of beta from 0 to t: -2 times the logarithm of the signal."""
        t = t.double()
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()

    def _beta(self, t: Tensor) -> Float64[Tensor, "*d"]:
        return self.beta_min + (self.beta_max - self.beta_min) * t.double()

    def _time_of_integral(self, integral: Float64[Tensor, "*d"]) -> Float64[Tensor, "*d"]:
        """Return where the integral is that, within the range: the root of a parabola."""
        rise = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2 * rise * integral).sqrt()
        return (2 * integral / (self.beta_min + root)).clamp(self.start, self.end)


@dataclass(frozen=True)
class VariancePreserving(_LinearBeta):
    """signal**2 = exp(-integral of beta), noise**2 = 1 - signal**2."""

    @property
    def preserves_variance(self) -> bool:
        """As of `Path`."""
        return True

    def marginal(self, t: Float64[Tensor, "*d"]) -> tuple[Tensor, Tensor]:
        """As of `ContinuousPath`."""
        integral = self._integral(t)
        return (-0.5 * integral).exp(), (-torch.expm1(-integral)).sqrt()

    def log_snr_at(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return -torch.expm1(self._integral(t)).log()

    def log_snr_slope(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `ContinuousPath`."""
        return self._beta(t) / torch.expm1(-self._integral(t))

    def time_at(self, log_snr: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return self._time_of_integral(-logsigmoid(log_snr.double()))

    def signal_at_sigma(self, sigma: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return (1 + sigma.double().square()).rsqrt()


@dataclass(frozen=True)
class SubVariancePreserving(_LinearBeta):
    """The same signal, and for noise the square of that of `VariancePreserving`, without a root."""

    def marginal(self, t: Float64[Tensor, "*d"]) -> tuple[Tensor, Tensor]:
        """As of `ContinuousPath`."""
        integral = self._integral(t)
        return (-0.5 * integral).exp(), -torch.expm1(-integral)

    def log_snr_at(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        integral = self._integral(t)
        return -integral - 2 * (-torch.expm1(-integral)).log()

    def log_snr_slope(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `ContinuousPath`."""
        return self._beta(t) / torch.tanh(-self._integral(t) / 2)

    def time_at(self, log_snr: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        # The signal is exp(-asinh(sigma / 2)), whose logarithm would round where sigma is small.
        sigma = (-0.5 * log_snr.double()).exp()
        return self._time_of_integral(2 * (sigma / 2).asinh())

    def signal_at_sigma(self, sigma: Tensor) -> Float[Tensor, "*d"]:
        """Return the root of signal**2 + sigma signal = 1; as of `Path`."""
        sigma = sigma.double()
        return 2 / (sigma + (sigma.square() + 4).sqrt())


@dataclass(frozen=True)
class VarianceExploding(ContinuousPath):
    """signal = 1, noise = sigma_min (sigma_max / sigma_min)**t.

    As in the source, the noise at time 0 is sigma_min and not 0, and x_0 + sigma_max eps is taken
    for N(0, sigma_max**2).

    Raises:
        ConfigError: if the sigmas do not rise.
    """

    start: float = _START
    end: float = 1.0
    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max} must be 0 < sigma_min < "
                "sigma_max"
            )

    @property
    def prior_std(self) -> float:
        """As of `Path`: the noise at the end."""
        return self.sigma_min * math.pow(self.sigma_max / self.sigma_min, self.end)

    def marginal(self, t: Float64[Tensor, "*d"]) -> tuple[Tensor, Tensor]:
        """As of `ContinuousPath`."""
        return torch.ones_like(t), (-0.5 * self.log_snr_at(t)).exp()

    def log_snr_at(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return -2 * (math.log(self.sigma_min) + t.double() * self._rise)

    def log_snr_slope(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `ContinuousPath`."""
        return torch.full_like(t, -2 * self._rise, dtype=torch.float64)

    def time_at(self, log_snr: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        place = (-0.5 * log_snr.double() - math.log(self.sigma_min)) / self._rise
        return place.clamp(self.start, self.end)

    def signal_at_sigma(self, sigma: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return torch.ones_like(sigma, dtype=torch.float64)

    @property
    def _rise(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)
