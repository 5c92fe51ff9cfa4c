"""Denoisers for the tests of samplers: one without meaning, one whose flow is known."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_core.diffusion.choices import PredictionKind
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.process import predict_eps, predict_v
from tests.diffusion.chains import PAPER


@dataclass
class Toy:
    """A network without meaning: not linear, looks at the neighbour too, and at the time."""

    schedule: NoiseSchedule
    called_at: list[float] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        if t.device.type != "meta":
            assert t.unique().numel() == 1
            self.called_at.append(float(t[0]))
        phase = expand(4 * t.double() / self.schedule.num_timesteps, x_t).to(x_t.dtype)
        return (1.3 * x_t + phase).tanh() - 0.4 * (x_t.roll(1, dims=-1) * phase).cos()


def toy(schedule: NoiseSchedule = PAPER, prediction: PredictionKind = "eps") -> NetworkDenoiser:
    return NetworkDenoiser(Toy(schedule), schedule, prediction)


MEAN, SPREAD = 0.3, 0.5
"""Of the images in `gaussian`: each value is N(0.3, 0.5**2)."""


def gaussian(
    schedule: NoiseSchedule = PAPER,
    prediction: PredictionKind = "eps",
    mean: float = MEAN,
    spread: float = SPREAD,
) -> NetworkDenoiser:
    """Return the best possible denoiser for independent normal values."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = schedule.signal_and_noise(t, x_t)
        gain = spread**2 * signal / (spread**2 * signal**2 + noise**2)
        x_0 = mean + gain * (x_t - signal * mean)
        eps = predict_eps(schedule, x_t, t, x_0)
        return {"x_0": x_0, "eps": eps, "v": predict_v(schedule, x_0, t, eps)}[prediction]

    return NetworkDenoiser(network, schedule, prediction)


def flow(x: Tensor, sigma: float, after: float) -> Tensor:
    """Return where the probability flow of `gaussian` takes x = x_0 + sigma eps, exactly."""
    scale = ((SPREAD**2 + after**2) / (SPREAD**2 + sigma**2)) ** 0.5
    return MEAN + scale * (x - MEAN)


def orders(errors: list[float]) -> list[float]:
    """Return the orders of convergence seen between runs, each of twice the steps of the last."""
    return [float(torch.tensor(a / b).log2()) for a, b in pairwise(errors)]
