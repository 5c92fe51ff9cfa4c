"""All ways to train a network, networks that know the answer, and images to judge them by."""

import itertools
from typing import get_args

import torch
from torch import Tensor

from ddpm_core.diffusion.choices import PredictionKind, Variance, is_learned
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.schedule import NoiseSchedule
from ddpm_core.diffusion.process import (
    drift_from_mean,
    predict_eps,
    predict_v,
    q_posterior,
    q_sample,
)
from tests.diffusion.chains import PAPER, SHORT, every_t, normal

PREDICTIONS, VARIANCES = get_args(PredictionKind), get_args(Variance)
FIXED = [variance for variance in VARIANCES if not is_learned(variance)]
LEARNED = [variance for variance in VARIANCES if is_learned(variance)]
PAIRS = [
    *itertools.product(PREDICTIONS, FIXED, ["simple"]),
    *itertools.product(PREDICTIONS, VARIANCES, ["vlb"]),
    *itertools.product(PREDICTIONS, LEARNED, ["hybrid"]),
]
"""every (prediction, variance, loss) that goes together: 50"""


def levels(*shape: int, seed: int = 0) -> Tensor:
    """Return images on the 256 levels, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).double() / 127.5 - 1


def noised_levels() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (x_0, x_t, t, eps): images on the levels at every step of the chain of 50."""
    t = every_t(SHORT)
    x_0, eps = levels(50, 3, 4, seed=1), normal(50, 3, 4, seed=2)
    return x_0, q_sample(SHORT, x_0, t, eps), t, eps


def output_for(variance: Variance) -> Tensor:
    """Return what a network might answer to them."""
    value, spread = normal(50, 3, 4, seed=3), 0.3 * normal(50, 3, 4, seed=4)
    return torch.cat([value, spread], dim=1) if is_learned(variance) else value


def knowing(
    schedule: NoiseSchedule,
    x_0: Tensor,
    prediction: PredictionKind,
    variance: Variance = "fixed_small",
    spread: Tensor | None = None,
) -> NetworkDenoiser:
    """Return a denoiser whose network knows x_0; of a learned variance it says `spread`, or 0."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        eps = predict_eps(schedule, x_t, t, x_0)
        forms = {"eps": lambda: eps, "x_0": lambda: x_0}
        forms["v"] = lambda: predict_v(schedule, x_0, t, eps)
        forms["x_prev"] = lambda: q_posterior(schedule, x_0, x_t, t)[0]
        forms["drift"] = lambda: drift_from_mean(schedule, x_t, t, forms["x_prev"]())
        value = forms[prediction]()
        if not is_learned(variance):
            return value
        return torch.cat([value, torch.zeros_like(value) if spread is None else spread], dim=1)

    return NetworkDenoiser(network, schedule, prediction, variance)


def saying(
    output: Tensor,
    schedule: NoiseSchedule = PAPER,
    prediction: PredictionKind = "eps",
    variance: Variance = "fixed_small",
) -> NetworkDenoiser:
    """Return a denoiser whose network returns `output` for all inputs."""
    return NetworkDenoiser(lambda x_t, t: output, schedule, prediction, variance)
