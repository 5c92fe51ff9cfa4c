"""Which steps a sampler of few steps takes: timesteps of the chain, or noise levels sigma.

Timesteps ascend, as `respaced` takes them; sigmas descend, as solvers walk them. The end of the
way, the image itself with abar = 1 and sigma = 0, is in neither: samplers add it.

Source: Song et al. 2021, arXiv:2010.02502, appendix D.2 (leading, quadratic); Lin et al. 2023,
arXiv:2305.08891, table 2 (trailing, linspace); Karras et al. 2022, arXiv:2206.00364, eq. 5.
"""

from collections.abc import Sequence
from typing import assert_never

import torch

from ddpm_core.diffusion.choices import ChainSpacing
from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.paths.schedule import NoiseSchedule
from ddpm_core.diffusion.paths.sigma import sigma_at, sigma_grid
from ddpm_core.errors import ConfigError


def choose_timesteps(spacing: ChainSpacing, num_timesteps: int, num_steps: int) -> list[int]:
    """Return the code indices that are visited, ascending and each once.

    - leading: 0, k, 2k, ... with the whole stride k = T // S; may end far before T - 1, where
      x_T is not yet pure noise.
    - trailing: ends at T - 1 and keeps the stride T / S, rounded: the best of the four for solvers,
      which need no step at t = 0.
    - linspace: from 0 to T - 1, both taken.
    - quadratic: as squares, (T - 1) (i / (S - 1))**2 rounded down: dense where there is little
      noise. Where squares lie closer than one step, every step is taken.

    Args:
        spacing: by which rule.
        num_timesteps: T, of the whole chain.
        num_steps: S, how many are taken: 2 ... T; with T it is the whole chain.

    Raises:
        ConfigError: if S is out of range.
    """
    if not 2 <= num_steps <= num_timesteps:
        raise ConfigError(
            f"num_steps={num_steps} must be from 2 to the {num_timesteps} steps of the chain; a "
            "chain has no more steps than it was made with"
        )
    order = range(num_steps)
    last, intervals = num_timesteps - 1, num_steps - 1
    match spacing:
        case "leading":
            return [i * (num_timesteps // num_steps) for i in order]
        case "trailing":
            return [round(num_timesteps * (i + 1) / num_steps) - 1 for i in order]
        case "linspace":
            return [round(last * i / intervals) for i in order]
        case "quadratic":
            return [max(i, last * i**2 // intervals**2) for i in order]
        case _:
            assert_never(spacing)


def chain_sigmas(schedule: NoiseSchedule, timesteps: Sequence[int]) -> list[float]:
    """Return the sigmas of these steps, descending.

    Args:
        schedule: the whole chain.
        timesteps: code indices, ascending.

    Raises:
        ConfigError: if the chain ends in pure noise, or the timesteps do not ascend within it.
    """
    steps = torch.tensor(list(timesteps), dtype=torch.int64, device="cpu")
    inside = (steps >= 0) & (steps < schedule.num_timesteps)
    if not bool(inside.all()) or bool((steps.diff() <= 0).any()):
        raise ConfigError(
            f"timesteps {list(timesteps)[:5]}... must ascend, from 0 at the least to "
            f"{schedule.num_timesteps - 1} at the most"
        )
    sigmas: list[float] = sigma_at(schedule, steps.flip(0)).tolist()
    return sigmas


def karras_sigmas(path: Path, num_steps: int, rho: float = 7.0) -> list[float]:
    """Return sigmas whose rho-th roots are equally spaced, descending.

    From the largest to the smallest sigma of the path; the larger rho, the more of them lie
    where there is little noise.

    Args:
        path: a whole chain, or any other path.
        num_steps: how many, at least 2; they may be more than the steps of the chain.
        rho: at least 1; 7 is the paper's choice, 3 would equalise the errors of the steps.

    Raises:
        ConfigError: if the path ends in pure noise, or an argument is out of range.

    Source: Karras et al. 2022, eq. 5.
    """
    if num_steps < 2 or rho < 1:
        raise ConfigError(f"num_steps={num_steps} must be at least 2 and rho={rho} at least 1")
    sigmas: list[float] = sigma_grid(path, num_steps - 1, rho=rho).flip(0).tolist()
    return sigmas
