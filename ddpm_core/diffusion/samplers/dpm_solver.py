"""DPM-Solver++ (2M): two steps of history, one call of the network a step.

The predicted image is taken to be linear in lambda = -log sigma, through its last two values; the
linear part of the flow is solved exactly. With noise, the same for the reverse differential
equation with noise: SDE-DPM-Solver++ (2M).

Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2 (2M), and its SDE variant.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.samplers.sigma_space import (
    SigmaStep,
    from_chain,
    predict,
    sigma_steps,
    to_chain,
)
from ddpm_core.diffusion.shapes import Images


@torch.no_grad()
def dpm_solver_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    sigmas: Sequence[float],
    noise: Callable[[int], Tensor] | None = None,
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by DPM-Solver++ (2M), or its SDE variant: one call of the network for each sigma.

    The first step and the last, which leads to sigma = 0, are of first order: there lambda has no
    past, or is infinite.

    Args:
        denoiser: on a whole chain, or any other path.
        x_T: standard normal, the chain's x_t at the first sigma; dtype of the state and result.
        sigmas: where the network is evaluated, descending; see `spacing`.
        noise: None for the probability flow. Otherwise the SDE: gives the standard normal of the
            step after which `remaining` steps follow; called for S-1 down to 1.
        clip_x_0: whether each predicted x_0 is clipped to [-1, 1].
        on_step: called after each step with (remaining, x_t, x_0_hat), x_t scaled as the chain's.

    Returns:
        x_0, the prediction at the last sigma; with `clip_x_0` in [-1, 1].

    Raises:
        ConfigError: if the sigmas are not such, or the chain ends in pure noise.
    """
    steps = sigma_steps(sigmas)
    x, x_0_before, length_before = from_chain(x_T, steps[0].sigma), None, 0.0
    for step in steps:
        x_0_hat = predict(denoiser, x, step.sigma, clip_x_0=clip_x_0)
        target = x_0_hat
        if x_0_before is not None and step.after > 0:
            target = extrapolated(x_0_hat, x_0_before, step.length / length_before)
        x = _towards(x, target, step, noise)
        x_0_before, length_before = x_0_hat, step.length
        if on_step is not None:
            on_step(step.remaining, to_chain(x, step.after), x_0_hat)
    return x


def extrapolated(x_0_hat: Images, x_0_before: Images, ratio: float) -> Images:
    """Return the prediction in the middle of a step, on the line through the last two.

    Args:
        x_0_hat: prediction at the step's beginning.
        x_0_before: prediction one step earlier.
        ratio: length of this step over that of the one before, in lambda: 1/r of the paper.

    Source: Lu et al. 2022, algorithm 2, line 7.
    """
    return x_0_hat + 0.5 * ratio * (x_0_hat - x_0_before)


def _towards(
    x: Images, target: Images, step: SigmaStep, noise: Callable[[int], Tensor] | None
) -> Images:
    """Return x after the step whose predicted image is `target` throughout."""
    if noise is None:
        return step.ratio * x + (1 - step.ratio) * target
    share = step.ratio**2
    x = share * x + (1 - share) * target
    if step.after == 0:
        return x
    return x + step.after * math.sqrt(1 - share) * noise(step.remaining)
