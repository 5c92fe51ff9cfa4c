"""Schedulers of diffusers with exact numbers: their own are float32, off by up to 2e-4."""

import warnings

import diffusers
import torch
from torch import Tensor

from ddpm_core.diffusion.paths.schedule import NoiseSchedule


def scheduler_of(name: str, schedule: NoiseSchedule, **options):
    """Return diffusers' scheduler of that name on our chain, with our tables in float64."""
    with warnings.catch_warnings():
        # Its arithmetic mixes torch and numpy in a way that numpy 2 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler = getattr(diffusers, name)(
            num_train_timesteps=schedule.num_timesteps,
            trained_betas=schedule.betas.numpy(),
            **options,
        )
    scheduler.betas, scheduler.alphas = schedule.betas, schedule.alphas
    scheduler.alphas_cumprod = schedule.alphas_cumprod
    return scheduler


def walk_sigmas(scheduler, sigmas: list[float]):
    """Let a scheduler walk these sigmas, and then 0, whatever its own way would be."""
    steps = torch.arange(len(sigmas)).flip(0)
    scheduler.num_inference_steps = len(sigmas)
    scheduler.timesteps = steps
    scheduler.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    return scheduler


def state(x_T: Tensor, sigma: float) -> Tensor:
    """Return the chain's x_t in sigma coordinates."""
    return x_T * (1 + sigma**2) ** 0.5
