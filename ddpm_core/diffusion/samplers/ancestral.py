"""Ancestral sampling: the reverse process of the paper, one step after the other.

Source: Ho et al. 2020, arXiv:2006.11239, algorithm 2.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.prediction import Reverse
from ddpm_core.diffusion.shapes import Images, Timesteps
from ddpm_core.errors import ConfigError

OnStep = Callable[[int, Tensor, Tensor], None]
"""called with (t, x_{t-1}, x_0_hat) after the step at code index t; must not change them"""


def draw_previous(step: Reverse, t: Timesteps, noise: Images) -> Images:
    """Draw x_{t-1} from a reverse step; where t = 0 its mean, without noise.

    Args:
        step: the Gaussian.
        t: code index of the step.
        noise: standard normal; not used where t = 0.
    """
    std = (0.5 * step.log_variance).exp() * expand(t > 0, step.mean)
    return step.mean + std * noise


@torch.no_grad()
def ddpm_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by ancestral sampling: T calls of the network, from t = T-1 down to 0.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode; for fewer steps,
            `respaced`.
        x_T: standard normal; shape, device and dtype of the result.
        noise: gives the standard normal of step t, shaped like `x_T`; called once for each t from
            T-1 down to 1. The last step, t = 0, adds none.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1] before it enters the mean.
        on_step: called after each step, see `OnStep`.

    Returns:
        x_0; with `clip_x_0` in [-1, 1], but for a network that predicts x_{t-1}.

    Source: Ho et al. 2020, algorithm 2.
    """
    return descend(
        denoiser,
        x_T,
        first=chain_of(denoiser.path).num_timesteps - 1,
        noise=noise,
        clip_x_0=clip_x_0,
        on_step=on_step,
    )


@torch.no_grad()
def descend(
    denoiser: Denoiser,
    x_t: Images,
    *,
    first: int,
    last: int = 0,
    noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Take x_t down a part of the chain: first - last + 1 calls of the network.

    Args:
        denoiser: as of `ddpm_sample`.
        x_t: images at code index `first`; after one step of noise that is 0.
        first: code index of the first step taken.
        last: code index of the last step taken; `first + 1` takes none.
        noise: gives the standard normal of step t; called once for each t from `first` down to
            `last`, but not for 0.
        clip_x_0: as of `ddpm_sample`.
        on_step: called after each step, see `OnStep`.

    Returns:
        What the step at `last` leads to: images at code index last - 1, or x_0 where last = 0.

    Raises:
        ConfigError: if the chain has no such steps.

    Source: Ho et al. 2020, algorithm 2.
    """
    num_timesteps = chain_of(denoiser.path).num_timesteps
    if not (0 <= last <= first + 1 <= num_timesteps):
        raise ConfigError(
            f"steps {first} down to {last} are not on a chain of {num_timesteps}; give "
            f"{num_timesteps - 1} >= first >= last - 1 and last >= 0"
        )
    for number in range(first, last - 1, -1):
        t = torch.full((len(x_t),), number, dtype=torch.int64, device=x_t.device)
        step = denoiser.predict(x_t, t).reverse(clip_x_0=clip_x_0)
        x_t = draw_previous(step, t, noise(number)) if number > 0 else step.mean
        if on_step is not None:
            on_step(number, x_t, step.x_0_hat)
    return x_t
