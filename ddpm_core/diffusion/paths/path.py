"""The way from images to noise, x_t = signal(t) x_0 + noise(t) eps, whatever its clock.

A chain of steps (`schedule`), the three stochastic differential equations (`sde`) and the straight
line (`flow`) are paths. What matters of a time is its sigma = noise / signal: in sigma coordinates,
x = x_t / signal = x_0 + sigma eps, the probability flow of every path is dx/dsigma = eps_hat, so
that a solver needs no path's derivative, and a denoiser of one path serves on every other.

Source: Karras et al. 2022, arXiv:2206.00364, section 2.4 and appendix B.2 (signal s(t), noise
s(t) sigma(t)); Kingma et al. 2021, arXiv:2107.00630, section 3.1 (the signal-to-noise ratio).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_core.diffusion.paths.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.shapes import Images, PerImageScale, Times
from ddpm_core.errors import ConfigError


@runtime_checkable
class Path(Protocol):
    """What is known of a path at each time t, in the path's own clock.

    The signal-to-noise ratio falls with t. A chain's clock is its code index, 0 ... T-1.
    """

    @property
    def time_range(self) -> tuple[float, float]:
        """The least time and the greatest, between which a network is called."""
        ...

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The log signal-to-noise ratio at both of them; -inf where the path ends in pure noise."""
        ...

    @property
    def prior_std(self) -> float:
        """Standard deviation of the normal distribution that x_t has (nearly) at the end."""
        ...

    @property
    def preserves_variance(self) -> bool:
        """Whether signal**2 + noise**2 is 1 at every time, as it is where v is defined."""
        ...

    def signal_and_noise(self, t: Times, like: Images) -> tuple[PerImageScale, PerImageScale]:
        """Return signal and noise at t, (b, 1, ..., 1), in `like`'s dtype but float32 at least."""
        ...

    def log_snr_at(self, t: Tensor) -> Float[Tensor, "*d"]:
        """Return log(signal**2 / noise**2) at t, in float64."""
        ...

    def time_at(self, log_snr: Tensor) -> Float[Tensor, "*d"]:
        """Return the time of this ratio, in float64; what lies beyond an end becomes that end."""
        ...

    def signal_at_sigma(self, sigma: Tensor) -> Float[Tensor, "*d"]:
        """Return the signal where noise / signal is sigma, in float64, also beyond the ends."""
        ...


@dataclass(frozen=True)
class ContinuousPath(ABC):
    """What the paths that have a formula at every time share.

    Raises:
        ConfigError: if the range of times is none.
    """

    start: float
    """least time, above 0: the nearest to the image that a network is called at"""
    end: float
    """greatest time, at most 1"""

    def __post_init__(self) -> None:
        if not 0 < self.start < self.end <= 1:
            raise ConfigError(
                f"start={self.start}, end={self.end} must be 0 < start < end <= 1: the path has "
                "no noise at time 0, and ends at time 1"
            )

    @abstractmethod
    def marginal(self, t: Float64[Tensor, "*d"]) -> tuple[Tensor, Tensor]:
        """Return signal and noise at t, in float64."""

    @abstractmethod
    def log_snr_at(self, t: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""

    @abstractmethod
    def time_at(self, log_snr: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""

    @abstractmethod
    def signal_at_sigma(self, sigma: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""

    @abstractmethod
    def log_snr_slope(self, t: Tensor) -> Float[Tensor, "*d"]:
        """Return the derivative of the log signal-to-noise ratio, negative, in float64.

        It is -g**2 / noise**2 of the equation dx = f x dt + g dw with these marginals.
        """

    @property
    def time_range(self) -> tuple[float, float]:
        """As of `Path`."""
        return self.start, self.end

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """As of `Path`."""
        ends = torch.tensor(self.time_range, dtype=torch.float64, device="cpu")
        first, last = self.log_snr_at(ends).tolist()
        return first, last

    @property
    def prior_std(self) -> float:
        """As of `Path`."""
        return 1.0

    @property
    def preserves_variance(self) -> bool:
        """As of `Path`."""
        return False

    def signal_and_noise(self, t: Times, like: Images) -> tuple[PerImageScale, PerImageScale]:
        """As of `Path`."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        signal, noise = (part.to(dtype) for part in self.marginal(t.double()))
        return expand(signal, like), expand(noise, like)


def ends_in_pure_noise(path: Path) -> bool:
    """Return whether nothing is left of the signal at the path's end."""
    return path.log_snr_range[1] == -math.inf


def chain_of(path: Path) -> NoiseSchedule:
    """Return the path, which must be a chain of steps.

    Raises:
        ConfigError: if it has no steps.
    """
    if isinstance(path, NoiseSchedule):
        return path
    raise ConfigError(
        f"{path} has no steps, of which this goes one after the other; choose times of it "
        "(`respacing.discretised`), or use a solver that works in sigma: heun, dpm_solver, unipc, "
        "ode"
    )


def require_same_path(path: Path, other: Path) -> None:
    """Refuse two denoisers that mean different x_t by one time.

    Raises:
        ConfigError: if they do.
    """
    if isinstance(path, NoiseSchedule) and isinstance(other, NoiseSchedule):
        same = torch.equal(path.betas, other.betas)
    else:
        same = path == other
    if not same:
        raise ConfigError(
            f"a denoiser on {_words(path)} cannot be combined with one on {_words(other)}: at one "
            "time they expect different noise; give two with the same forward process"
        )


def _words(path: Path) -> str:
    if isinstance(path, NoiseSchedule):
        first, last = float(path.betas[0]), float(path.betas[-1])
        return f"a chain of {path.num_timesteps} steps with betas from {first:.3g} to {last:.3g}"
    return str(path)
