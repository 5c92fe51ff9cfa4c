"""The chain between its steps: what a solver of a differential equation needs.

The logarithm of the signal-to-noise ratio is interpolated linearly in t, so that whole t give the
chain itself. In sigma coordinates, x / sqrt(abar_t) = x_0 + sigma eps with sigma = snr**-0.5, the
probability flow is dx/dsigma = eps_hat: no derivative of the schedule is ever needed.

Source: Karras et al. 2022, arXiv:2206.00364, section 3 and appendix C.3; Lu et al. 2022,
arXiv:2206.00927, appendix D.4 (the interpolation).
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_core.diffusion.schedule import NoiseSchedule
from ddpm_core.errors import ConfigError


def log_snr_at(schedule: NoiseSchedule, t: Tensor) -> Float[Tensor, "*d"]:
    """Return log(abar / (1 - abar)) at times in [0, T-1], whole or in between, in float64."""
    nodes = _nodes(schedule, t.device)
    left = t.floor().long().clamp(0, schedule.num_timesteps - 2)
    share = t.double() - left
    return nodes[left] + share * (nodes[left + 1] - nodes[left])


def time_at(schedule: NoiseSchedule, log_snr: Tensor) -> Float[Tensor, "*d"]:
    """Return the time at which the chain has this log(abar / (1 - abar)), in float64.

    What lies beyond the chain's ends becomes its end: 0 or T-1.
    """
    nodes = _nodes(schedule, log_snr.device)
    # Ascending for the search: nodes fall with t.
    place = torch.searchsorted(-nodes, -log_snr.double().contiguous(), right=True)
    left = (place - 1).clamp(0, schedule.num_timesteps - 2)
    share = (log_snr.double() - nodes[left]) / (nodes[left + 1] - nodes[left])
    return left + share.clamp(0, 1)


def sigma_at(schedule: NoiseSchedule, t: Tensor) -> Float[Tensor, "*d"]:
    """Return sigma = sqrt((1 - abar) / abar) at times in [0, T-1], in float64."""
    return (-0.5 * log_snr_at(schedule, t)).exp()


def time_of_sigma(schedule: NoiseSchedule, sigma: Tensor) -> Float[Tensor, "*d"]:
    """Return the time whose sigma this is, in float64; what lies beyond becomes 0 or T-1."""
    return time_at(schedule, -2 * sigma.double().log())


def sigma_range(schedule: NoiseSchedule) -> tuple[float, float]:
    """Return sigma at the chain's two ends: for the paper's, 0.01 and 157."""
    nodes = _nodes(schedule, torch.device("cpu"))
    return math.exp(-0.5 * float(nodes[0])), math.exp(-0.5 * float(nodes[-1]))


def sigma_grid(
    schedule: NoiseSchedule, num_steps: int, *, rho: float = 7.0
) -> Float64[Tensor, " n"]:
    """Return num_steps + 1 sigmas from the chain's smallest to its largest, on the CPU.

    Args:
        schedule: the chain.
        num_steps: at least 1.
        rho: sigma**(1/rho) has equal steps: 1 for equal steps in sigma itself; the larger, the
            shorter the steps where there is little noise.

    Raises:
        ConfigError: if there is no such grid.

    Source: Karras et al. 2022, eq. 5.
    """
    if num_steps < 1 or rho < 1:
        raise ConfigError(f"num_steps={num_steps} and rho={rho} must both be at least 1")
    low, high = sigma_range(schedule)
    line = torch.linspace(low ** (1 / rho), high ** (1 / rho), num_steps + 1, dtype=torch.float64)
    grid = line.pow(rho)
    # Rounding must not lead out of the chain.
    grid[0], grid[-1] = low, high
    return grid


def _nodes(schedule: NoiseSchedule, device: torch.device) -> Float[Tensor, " T"]:
    if schedule.ends_in_pure_noise:
        raise ConfigError(
            "this chain ends in pure noise (its last signal-to-noise ratio is 0), where sigma is "
            "infinite; solvers that work in sigma cannot begin there: use ancestral or ddim, or a "
            "schedule without zero terminal SNR"
        )
    return schedule.table("log_snr", device, torch.float64)
