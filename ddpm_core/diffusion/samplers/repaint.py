"""RePaint, for callers of the library: ancestral sampling around known parts, with ways back up.

A step down draws the unknown part from the reverse process and the known part from q. The two do
not know of each other yet; noise is added again, and the next step down sees both.

Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1 and appendix B (jumps), with the indices
of its eq. 1: the known part gets the noise of the level that the step leads to, as the authors'
code has it, and the way back up from there the beta of the step above.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_core.conditioning import Known
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ancestral import OnStep, draw_previous
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError


def resampling_levels(num_timesteps: int, *, jump_length: int, num_resamplings: int) -> list[int]:
    """Return the code indices that the state passes, from T-1 to -1, which is the image.

    Each step changes the index by one: down it is a call of the network, up it is noise. At the
    indices 0, j, 2 j, ... below T - j the walk goes up by j and down again, r - 1 times.

    Args:
        num_timesteps: T.
        jump_length: j, at least 1.
        num_resamplings: r, at least 1: 1 never goes up.

    Raises:
        ConfigError: if a number is out of its range.

    Source: Lugmayr et al. 2022, appendix B, fig. 9.
    """
    if jump_length < 1 or num_resamplings < 1:
        raise ConfigError(
            f"jump_length={jump_length} and num_resamplings={num_resamplings} must both be at "
            "least 1; num_resamplings=1 never goes back up"
        )
    left = dict.fromkeys(range(0, num_timesteps - jump_length, jump_length), num_resamplings - 1)
    levels = [num_timesteps - 1]
    while levels[-1] >= 0:
        level = levels[-1]
        if left.get(level, 0) > 0:
            left[level] -= 1
            levels.extend(range(level + 1, level + jump_length + 1))
        levels.append(levels[-1] - 1)
    return levels


@torch.no_grad()
def repaint_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    known: Known,
    noise: Callable[[int], Tensor],
    jump_length: int = 10,
    num_resamplings: int = 10,
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw what is not known of images, given what is.

    Args:
        denoiser: as of `ddpm_sample`; the paper has 250 steps.
        x_T: standard normal; shape, device and dtype of the result.
        known: what is known of them.
        noise: gives the standard normal of move i of `resampling_levels`, from 0 on; called once
            for each but the last. After a step down the known part has its part of the same.
        jump_length: how many levels it goes back up at once.
        num_resamplings: how often each part of the chain is gone down. With 1 the known part is
            replaced at each level and nothing else: what is made up then fits it badly.
        clip_x_0: as of `ddpm_sample`.
        on_step: called after each step down, see `OnStep`.

    Returns:
        x_0; where it is known, the known values exactly.

    Raises:
        ConfigError: if a number is out of its range, or the path has no steps.

    Source: Lugmayr et al. 2022, algorithm 1.
    """
    schedule = chain_of(denoiser.path)
    levels = resampling_levels(
        schedule.num_timesteps, jump_length=jump_length, num_resamplings=num_resamplings
    )
    x = x_T
    for move, (level, after) in enumerate(pairwise(levels)):
        if after > level:
            beta = schedule.betas[after]
            x = float((1 - beta).sqrt()) * x + float(beta.sqrt()) * noise(move)
            continue
        t = torch.full((len(x),), level, dtype=torch.int64, device=x.device)
        step = denoiser.predict(x, t).reverse(clip_x_0=clip_x_0)
        if after < 0:
            x = known.into(step.mean)
        else:
            eps = noise(move)
            below = q_sample(schedule, known.values, t - 1, eps)
            x = known.into(draw_previous(step, t, eps), below)
        if on_step is not None:
            on_step(level, x, step.x_0_hat)
    return x
