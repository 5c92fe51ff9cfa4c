"""UniPC of order 2: a predictor as DPM-Solver++ (2M), and a corrector that costs no call.

The network's answer at the predicted point, needed for the next step anyway, first corrects that
point: the predicted image is then a parabola in lambda = -log sigma through three values.

Source: Zhao et al. 2023, arXiv:2302.04867, section 3, for data prediction, with B_2(h).
"""

import math
from collections.abc import Sequence

import torch

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.samplers.dpm_solver import extrapolated
from ddpm_core.diffusion.samplers.sigma_space import (
    SigmaStep,
    from_chain,
    predict,
    sigma_steps,
    to_chain,
)
from ddpm_core.diffusion.shapes import Images


@torch.no_grad()
def unipc_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    sigmas: Sequence[float],
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by UniPC-2: one call of the network for each sigma.

    The first step is predicted and corrected with one order less; the last, which leads to
    sigma = 0, is of first order and not corrected.

    Args:
        denoiser: on a whole chain, or any other path.
        x_T: standard normal, the chain's x_t at the first sigma; dtype of the state and result.
        sigmas: where the network is evaluated, descending; see `spacing`.
        clip_x_0: whether each predicted x_0 is clipped to [-1, 1].
        on_step: called after each step with (remaining, x_t, x_0_hat): x_t corrected and scaled as
            the chain's, x_0_hat of the step's beginning.

    Returns:
        x_0, the prediction at the last sigma; with `clip_x_0` in [-1, 1].

    Raises:
        ConfigError: if the sigmas are not such, or the chain ends in pure noise.
    """
    steps = sigma_steps(sigmas)
    x, before, length_before = from_chain(x_T, steps[0].sigma), None, 0.0
    now = predict(denoiser, x, steps[0].sigma, clip_x_0=clip_x_0)
    for step in steps:
        if step.after == 0:
            x, ahead = now, now
        else:
            place = -length_before / step.length
            guess = _predicted(x, step, now, before, place)
            ahead = predict(denoiser, guess, step.after, clip_x_0=clip_x_0)
            x = _corrected(x, step, now, before, place, ahead)
        if on_step is not None:
            on_step(step.remaining, to_chain(x, step.after), now)
        now, before, length_before = ahead, now, step.length
    return x


def _predicted(
    x: Images, step: SigmaStep, now: Images, before: Images | None, place: float
) -> Images:
    """Return x after the step, of UniP; arguments as of `_corrected`."""
    target = now if before is None else extrapolated(now, before, -1 / place)
    return step.ratio * x + (1 - step.ratio) * target


def _corrected(
    x: Images, step: SigmaStep, now: Images, before: Images | None, place: float, ahead: Images
) -> Images:
    """Return x after the step, of UniC.

    The exact solution, where the prediction is a parabola through `before`, `now` and `ahead`.

    Args:
        x: at the step's beginning.
        step: not the last.
        now: prediction at the step's beginning.
        before: prediction one step earlier; None in the first step, which has the paper's weight
            1/2 for `ahead`, that of a straight line over a short step.
        place: where `before` lies, if the step goes from 0 to 1 in lambda; below 0.
        ahead: prediction at the step's end.
    """
    x = step.ratio * x + (1 - step.ratio) * now
    if before is None:
        return x + 0.5 * (1 - step.ratio) * (ahead - now)
    # Over the step, and weighed as the flow weighs them: the integrals of u and of u**2, where u
    # goes from 0 to 1.
    first = 1 + math.expm1(-step.length) / step.length
    second = 1 - 2 * first / step.length
    past = (first - second) / (1 - place)
    return x + past / place * (before - now) + (first - past) * (ahead - now)
