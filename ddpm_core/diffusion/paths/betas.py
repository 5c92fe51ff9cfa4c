"""The variances of the forward steps, by the names they are known by.

All but `cosine`, `jsd` and `erasure`, which are defined for any length, are stated for a chain of
1000 steps and scaled by 1000/T for another, so that it ends in noise too.

Source: Ho et al. 2020, section 4 and the original's code (linear, quad, const, warmup10, warmup50,
jsd); Nichol and Dhariwal 2021 (cosine, and the scaling); Lin et al. 2023 (zero terminal SNR);
Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.4.1, and its code `model.py` (erasure).
"""

import math
from typing import assert_never

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_core.diffusion.choices import BetaSchedule
from ddpm_core.errors import ConfigError

_COSINE_OFFSET = 0.008
_MAX_COSINE_BETA = 0.999
_SIGMOID_EDGE = 6.0
_LEAST_ERASED, _FIRST_ERASED, _NEVER_ERASED = 1e-6, 1e-3, 1e-5
"""of erasure: the least beta, what the first has more, and how far below 1 the greatest stays"""


def make_betas(
    name: BetaSchedule,
    num_timesteps: int,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
) -> Float64[Tensor, " T"]:
    """Return the betas of the schedule of that name, on the CPU.

    Args:
        name: which.
        num_timesteps: T, at least 2.
        beta_start: variance of the first step of a chain of 1000; not used by const, jsd, cosine
            and erasure.
        beta_end: variance of the last step of a chain of 1000; not used by jsd, cosine and erasure.

    Raises:
        ConfigError: if the betas are not variances of a chain.
    """
    if num_timesteps < 2:
        raise ConfigError(f"num_timesteps={num_timesteps} must be at least 2")
    match name:
        case "cosine":
            return _cosine(num_timesteps)
        case "erasure":
            return _erasure(num_timesteps)
        case "jsd":
            # 1/T, 1/(T-1), ..., 1/2, 1: ends in pure noise, and so in a signal-to-noise ratio of 0.
            return 1 / torch.arange(num_timesteps, 0, -1, dtype=torch.float64, device="cpu")
        case "const":
            _, end = _scaled(num_timesteps, beta_end, beta_end)
            return _line(end, end, num_timesteps)
        case _:
            start, end = _scaled(num_timesteps, beta_start, beta_end)
    match name:
        case "linear":
            return _line(start, end, num_timesteps)
        case "quad" | "scaled_linear":
            return _line(math.sqrt(start), math.sqrt(end), num_timesteps).square()
        case "warmup10":
            return _warmup(start, end, num_timesteps, 0.1)
        case "warmup50":
            return _warmup(start, end, num_timesteps, 0.5)
        case "sigmoid":
            rise = _line(-_SIGMOID_EDGE, _SIGMOID_EDGE, num_timesteps).sigmoid()
            return start + (end - start) * rise
        case _:
            assert_never(name)


def zero_terminal_snr(betas: Float64[Tensor, " T"]) -> Float64[Tensor, " T"]:
    """Return betas whose chain ends in pure noise and begins as before.

    sqrt(abar) is shifted so that it ends at 0, then scaled so that it begins where it did. The
    last beta is exactly 1: the noise in x_T says nothing of x_0, so predict v or x_0.

    Source: Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    root = (1 - betas).cumprod(0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * first / (first - last)
    alphas_cumprod = root.square()
    alphas = alphas_cumprod.clone()
    alphas[1:] = alphas_cumprod[1:] / alphas_cumprod[:-1]
    return 1 - alphas


def _scaled(num_timesteps: int, beta_start: float, beta_end: float) -> tuple[float, float]:
    start, end = beta_start * 1000 / num_timesteps, beta_end * 1000 / num_timesteps
    if not 0 < start <= end < 1:
        raise ConfigError(
            f"beta_start={beta_start}, beta_end={beta_end} must be 0 < start <= end < "
            f"{num_timesteps / 1000:g} (= num_timesteps/1000); change them or num_timesteps"
        )
    return start, end


def _line(start: float, end: float, num: int) -> Float64[Tensor, " T"]:
    return torch.linspace(start, end, num, dtype=torch.float64, device="cpu")


def _warmup(start: float, end: float, num_timesteps: int, share: float) -> Float64[Tensor, " T"]:
    betas = _line(end, end, num_timesteps)
    num_rising = int(num_timesteps * share)
    betas[:num_rising] = _line(start, end, num_rising)
    return betas


def _erasure(num_timesteps: int) -> Float64[Tensor, " T"]:
    """1/T ... 1/2: as jsd, but for the last step, so that about 1/T of the signal is left."""
    least = torch.full((num_timesteps,), _LEAST_ERASED, dtype=torch.float64, device="cpu")
    least[0] += _FIRST_ERASED
    return least + (1 - least - _NEVER_ERASED) / _line(float(num_timesteps), 2.0, num_timesteps)


def _cosine(num_timesteps: int) -> Float64[Tensor, " T"]:
    """abar(t) = cos((t/T + s)/(1 + s) pi/2)**2, s = 0.008; no beta above 0.999."""
    share = _line(0.0, 1.0, num_timesteps + 1)
    angle = (share + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2
    abar = angle.cos().square()
    return (1 - abar[1:] / abar[:-1]).clamp(max=_MAX_COSINE_BETA)
