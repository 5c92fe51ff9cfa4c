"""DDIM: the same marginals with less noise on the way, or none, and so in fewer steps.

Without noise it maps x_T to x_0 one to one, and can be walked backwards.

Source: Song et al. 2021, arXiv:2010.02502, eqs. 12 to 16.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.process import predict_eps
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.shapes import Images, Timesteps
from ddpm_core.errors import ConfigError


@torch.no_grad()
def ddim_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by DDIM: one call of the network for each step of the chain, from T-1 down to 0.

    The step's noise has eta times the posterior's standard deviation: with eta = 1 it is ancestral
    sampling with the variance fixed_small. Where x_0_hat is clipped, the noise that leads from it
    to x_t is worked out anew. The variance of `denoiser` is not used.

    Args:
        denoiser: for fewer steps, `respaced`.
        x_T: standard normal; shape, device and dtype of the result.
        eta: 0 (no noise) to 1.
        noise: gives the standard normal of step t; called once for each t from T-1 down to 1, if
            eta is above 0.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1].
        on_step: called after each step, see `OnStep`.

    Returns:
        x_0, the prediction at t = 0; with `clip_x_0` in [-1, 1].

    Raises:
        ConfigError: if eta is out of range, or above 0 without noise.

    Source: Song et al. 2021, eqs. 12 and 16.
    """
    x_t = x_T
    steps = ddim_steps(denoiser, x_T, eta=eta, noise=noise, clip_x_0=clip_x_0)
    for number, x_t, x_0_hat in steps:
        if on_step is not None:
            on_step(number, x_t, x_0_hat)
    return x_t


@torch.no_grad()
def ddim_steps(
    denoiser: Denoiser,
    x_T: Images,
    *,
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
    clip_x_0: bool = True,
) -> Iterator[tuple[int, Images, Images]]:
    """Draw as `ddim_sample`, and yield (t, x_{t-1}, x_0_hat) after each step, the last with x_0.

    For callers that do something else between two calls of the network.

    Raises:
        ConfigError: as `ddim_sample`, at the first step.

    Source: Song et al. 2021, eqs. 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta={eta} must be in 0 ... 1: 0 adds no noise, 1 is ancestral sampling")
    if eta > 0 and noise is None:
        raise ConfigError(f"eta={eta} adds noise in every step; give `noise`, or eta=0")
    schedule = chain_of(denoiser.path)
    abar_prev, std = schedule.alphas_cumprod_prev, eta * schedule.posterior_variance.sqrt()
    signal = abar_prev.sqrt().tolist()
    # Not below 0 by rounding: at t = 0 all three are 0.
    direction = (1 - abar_prev - std.square()).clamp(min=0).sqrt().tolist()
    stds = std.tolist()
    x_t = x_T
    for number in range(schedule.num_timesteps - 1, -1, -1):
        t = _all(number, x_T)
        x_0_hat = denoiser.predict(x_t, t).x_0
        if clip_x_0:
            x_0_hat = x_0_hat.clamp(-1, 1)
        eps = predict_eps(schedule, x_t, t, x_0_hat)
        x_t = signal[number] * x_0_hat + direction[number] * eps
        if noise is not None and eta > 0 and number > 0:
            x_t = x_t + stds[number] * noise(number)
        yield number, x_t, x_0_hat


@torch.no_grad()
def ddim_encode(denoiser: Denoiser, x_0: Images, *, on_step: OnStep | None = None) -> Images:
    """Return the x_T that `ddim_sample` with eta = 0 and no clipping decodes to (nearly) x_0.

    The flow is walked the other way: each step keeps the noise that is predicted at its beginning.
    The image has no noise and no timestep of its own: the first step calls the network at
    t = 0 with sqrt(abar_0) x_0. Encoding and decoding differ by an error that falls as one over
    the number of steps.

    Args:
        denoiser: for fewer steps, `respaced`.
        x_0: images in [-1, 1]; their dtype is the state's.
        on_step: called with (t, x_t, x_0_hat) after each step, t from 0 to T-1.

    Returns:
        x_T: nearly standard normal, if the images are like those of the training.

    Source: Song et al. 2021, eqs. 13 and 14.
    """
    schedule = chain_of(denoiser.path)
    signal = schedule.alphas_cumprod.sqrt().tolist()
    std = (1 - schedule.alphas_cumprod).sqrt().tolist()
    x_t, x_0_hat = x_0, x_0
    eps = denoiser.predict(signal[0] * x_0, _all(0, x_0)).eps
    for number in range(schedule.num_timesteps):
        if number > 0:
            eps = denoiser.predict(x_t, _all(number - 1, x_0)).eps
            x_0_hat = (x_t - std[number - 1] * eps) / signal[number - 1]
        x_t = signal[number] * x_0_hat + std[number] * eps
        if on_step is not None:
            on_step(number, x_t, x_0_hat)
    return x_t


def _all(number: int, like: Images) -> Timesteps:
    return torch.full((len(like),), number, dtype=torch.int64, device=like.device)
