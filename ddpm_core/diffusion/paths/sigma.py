"""Sigma coordinates of a path, in which solvers of differential equations work.

x / signal = x_0 + sigma eps with sigma = noise / signal = snr**-0.5: there the probability flow is
dx/dsigma = eps_hat, and no derivative of the path is ever needed.

Source: Karras et al. 2022, arXiv:2206.00364, section 3 and appendix C.3.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_core.diffusion.paths.path import Path, ends_in_pure_noise
from ddpm_core.diffusion.paths.schedule import INFINITE_SIGMA, NoiseSchedule
from ddpm_core.errors import ConfigError


def sigma_at(path: Path, t: Tensor) -> Float[Tensor, "*d"]:
    """Return sigma = noise / signal at times in the path's range, in float64."""
    return (-0.5 * path.log_snr_at(t)).exp()


def time_of_sigma(path: Path, sigma: Tensor) -> Float[Tensor, "*d"]:
    """Return the time whose sigma this is, in float64; what lies beyond becomes the path's end."""
    return path.time_at(-2 * sigma.double().log())


def sigma_range(path: Path) -> tuple[float, float]:
    """Return sigma at the path's two ends: for the paper's chain, 0.01 and 157.

    Raises:
        ConfigError: if the path ends in pure noise, where sigma is infinite.
    """
    if ends_in_pure_noise(path):
        if isinstance(path, NoiseSchedule):
            raise ConfigError(INFINITE_SIGMA)
        raise ConfigError(
            "this path ends in pure noise, where sigma is infinite; solvers that work in sigma "
            f"begin a little before: make it with an `end` below {path.time_range[1]:g}, or put "
            "it on a chain (`discretised`) for ddim"
        )
    first, last = path.log_snr_range
    return math.exp(-0.5 * first), math.exp(-0.5 * last)


def sigma_grid(path: Path, num_steps: int, *, rho: float = 7.0) -> Float64[Tensor, " n"]:
    """Return num_steps + 1 sigmas from the path's smallest to its largest, on the CPU.

    Args:
        path: a chain or any other.
        num_steps: at least 1.
        rho: sigma**(1/rho) has equal steps: 1 for equal steps in sigma itself; the larger, the
            shorter the steps where there is little noise.

    Raises:
        ConfigError: if there is no such grid.

    Source: Karras et al. 2022, eq. 5.
    """
    if num_steps < 1 or rho < 1:
        raise ConfigError(f"num_steps={num_steps} and rho={rho} must both be at least 1")
    low, high = sigma_range(path)
    line = torch.linspace(low ** (1 / rho), high ** (1 / rho), num_steps + 1, dtype=torch.float64)
    grid = line.pow(rho)
    # Rounding must not lead out of the path.
    grid[0], grid[-1] = low, high
    return grid
