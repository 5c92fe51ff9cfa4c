"""What these tests share: the paper's chain, and a denoiser that knows the answer."""

import torch
from torch import Tensor

from ddpm_core.diffusion.choices import Variance
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, make_schedule
from ddpm_core.diffusion.process import predict_eps

PAPER = make_schedule(make_betas("linear", 1000))
SHORT = make_schedule(make_betas("linear", 50))


def every_t(schedule: NoiseSchedule) -> Tensor:
    return torch.arange(schedule.num_timesteps)


def oracle(
    schedule: NoiseSchedule, x_0: Tensor, variance: Variance = "fixed_large"
) -> NetworkDenoiser:
    """Return the denoiser that knows x_0, and so the exact noise."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        return predict_eps(schedule, x_t, t, x_0)

    return NetworkDenoiser(network, schedule, variance=variance)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
