"""EDM's sampler: Heun's method in sigma, with noise put back before each step where wanted.

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2 (algorithm 1 without churn).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.samplers.sigma_space import predict, sigma_steps, to_chain
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError


@dataclass(frozen=True)
class Churn:
    """How much noise is put back before each step.

    Raises:
        ConfigError: if a value is negative.

    For the original's kind of network on CIFAR-10 the paper found S_churn = 30, S_min = 0.01,
    S_max = 1, S_noise = 1.007 (table 5, VP).
    """

    S_churn: float = 0.0
    """all in all, in steps' worth: sigma grows by the factor 1 + S_churn/S, at most sqrt(2); at
    least 0, where 0 is the probability flow"""
    S_min: float = 0.0
    """no noise is put back below this sigma"""
    S_max: float = math.inf
    """nor above this one"""
    S_noise: float = 1.0
    """standard deviation of what is put back; a little above 1 makes up for lost detail"""

    def __post_init__(self) -> None:
        if self.S_churn < 0 or self.S_noise < 0:
            raise ConfigError(
                f"S_churn={self.S_churn} and S_noise={self.S_noise} must be at least 0; S_churn=0 "
                "puts no noise back"
            )

    def growth(self, sigma: float, num_steps: int) -> float:
        """Return gamma: by which part sigma grows before the step."""
        if not self.S_min <= sigma <= self.S_max:
            return 0.0
        return min(self.S_churn / num_steps, math.sqrt(2) - 1)


NO_CHURN = Churn()


@torch.no_grad()
def heun_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    sigmas: Sequence[float],
    churn: Churn = NO_CHURN,
    noise: Callable[[int], Tensor] | None = None,
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by EDM's sampler: 2 S - 1 calls of the network for S sigmas.

    Args:
        denoiser: on a whole chain, or any other path.
        x_T: standard normal; the walk begins at the first sigma times it. Dtype of the state and
            result.
        sigmas: the levels before each step, descending; see `spacing.karras_sigmas`.
        churn: how much noise is put back.
        noise: gives the standard normal of the step after which `remaining` steps follow, S-1
            down to 0; called only where `churn` puts noise back.
        clip_x_0: whether each predicted x_0 is clipped to [-1, 1].
        on_step: called after each step with (remaining, x_t, x_0_hat), x_t scaled as a chain's,
            x_0_hat the last prediction.

    Returns:
        x_0; with `clip_x_0` in [-1, 1].

    Raises:
        ConfigError: if the sigmas are not such, churn has no noise, or a chain ends in pure
            noise.
    """
    steps = sigma_steps(sigmas)
    if churn.S_churn > 0 and noise is None:
        raise ConfigError(f"S_churn={churn.S_churn} puts noise back; give `noise`, or S_churn=0")
    x = steps[0].sigma * x_T
    for step in steps:
        gamma = churn.growth(step.sigma, len(steps))
        sigma = (1 + gamma) * step.sigma
        if gamma > 0 and noise is not None:
            added = math.sqrt(sigma**2 - step.sigma**2) * churn.S_noise
            x = x + added * noise(step.remaining)
        x_0_hat = predict(denoiser, x, sigma, clip_x_0=clip_x_0)
        slope = (x - x_0_hat) / sigma
        end = x + (step.after - sigma) * slope
        if step.after > 0:
            x_0_hat = predict(denoiser, end, step.after, clip_x_0=clip_x_0)
            slope = (slope + (end - x_0_hat) / step.after) / 2
            end = x + (step.after - sigma) * slope
        x = end
        if on_step is not None:
            on_step(step.remaining, to_chain(x, step.after), x_0_hat)
    return x
