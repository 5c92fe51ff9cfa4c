"""Ancestral sampling as what it resembles: annealed Langevin dynamics along the score.

Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 (eq. 11 and the text after it).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.process import predict_eps, score_from_eps
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError


@torch.no_grad()
def langevin_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    noise: Callable[[int], Tensor],
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by steps up the gradient of log q(x_t), each with fresh noise.

    x_{t-1} = (x_t + beta_t score) / sqrt(alpha_t) + sigma_t z

    Its images are those of `ddpm_sample` with the same noise and x_0_hat not clipped: here no
    x_0_hat appears that could be. Unlike Langevin dynamics at one level of noise, whose step up
    the gradient is half the variance of its noise, it goes down a level with each step: hence
    the whole beta_t, and the division.

    Args:
        denoiser: as of `ddpm_sample`.
        x_T: standard normal; shape, device and dtype of the result.
        noise: gives the standard normal of step t; called once for each t from T-1 down to 1.
        on_step: called after each step, see `OnStep`.

    Raises:
        ConfigError: if the chain ends in pure noise, where its first step divides by 0.

    Source: Ho et al. 2020, section 3.2, eq. 11 with eps = -sqrt(1 - abar_t) score.
    """
    schedule = chain_of(denoiser.path)
    if schedule.ends_in_pure_noise:
        raise ConfigError(
            "this chain ends in pure noise: its last alpha is 0, by whose root a Langevin step "
            "divides; use ddpm_sample"
        )
    x_t = x_T
    for number in range(schedule.num_timesteps - 1, -1, -1):
        t = torch.full((len(x_T),), number, dtype=torch.int64, device=x_T.device)
        step = denoiser.predict(x_t, t).reverse(clip_x_0=False)
        score = score_from_eps(schedule, predict_eps(schedule, x_t, t, step.x_0_hat), t)
        beta, alpha = float(schedule.betas[number]), float(schedule.alphas[number])
        x_t = (x_t + beta * score) / math.sqrt(alpha)
        if number > 0:
            x_t = x_t + (0.5 * step.log_variance).exp() * noise(number)
        if on_step is not None:
            on_step(number, x_t, step.x_0_hat)
    return x_t
