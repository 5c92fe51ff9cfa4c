"""Interpolation between two images through the diffusion: mixed where noise hides their details.

Both images are diffused, mixed linearly, and decoded by the reverse process, which puts back what
the mix of two images lacks. The deeper they are diffused, the less of either is left to mix.

Source: Ho et al. 2020, arXiv:2006.11239, section 4.4 and appendix D, figs. 8 and 9.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ancestral import descend
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError


@torch.no_grad()
def interpolate(
    denoiser: Denoiser,
    x_0: Images,
    x_0_other: Images,
    *,
    depth: int,
    weights: Sequence[float],
    eps: Images,
    eps_other: Images | None = None,
    noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
) -> Float[Tensor, "w b *d"]:
    """Return the images between each pair: (1 - lambda) x_t + lambda x_t', decoded.

    The noise is the same for all lambda, that of both ends and that of each step, so that nothing
    but lambda changes along a row. With one `eps` for both ends a mix has the noise that the
    network expects at its depth, of variance 1 - abar; with two it has ((1 - lambda)^2 + lambda^2)
    times that, half of it in the middle, and comes out smoother than images are.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode.
        x_0: images in [-1, 1].
        x_0_other: as many, each the other end of its pair.
        depth: forward steps before they are mixed, 0 ... T, and calls of the network afterwards;
            the last, at index depth - 1, decodes to x_0 itself. 0 mixes the images.
        weights: lambda, in [0, 1]: 0 is the reconstruction of `x_0`, 1 that of the other.
        eps: standard normal, of `x_0`.
        eps_other: standard normal, of `x_0_other`, as the original's code draws it; None: `eps`,
            with both ends coupled.
        noise: gives the standard normal of step t, shaped like `x_0`; called once for each t from
            depth - 1 down to 1.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1] before it enters the mean.

    Returns:
        Row i has lambda `weights[i]`.

    Raises:
        ConfigError: if the depth or a weight is out of its range.
    """
    schedule = chain_of(denoiser.path)
    num_timesteps = schedule.num_timesteps
    if not 0 <= depth <= num_timesteps:
        raise ConfigError(
            f"depth={depth} must be a number of steps of the chain, 0...{num_timesteps}"
        )
    if not weights or not all(0 <= weight <= 1 for weight in weights):
        raise ConfigError(f"weights={list(weights)} must be at least one number in [0, 1]")
    if depth > 0:
        t = torch.full((len(x_0),), depth - 1, dtype=torch.int64, device=x_0.device)
        x_0, x_0_other = (
            q_sample(schedule, x_0, t, eps),
            q_sample(schedule, x_0_other, t, eps if eps_other is None else eps_other),
        )
    mixed = torch.cat([(1 - weight) * x_0 + weight * x_0_other for weight in weights])
    repeats = (len(weights), *(1 for _ in x_0.shape[1:]))
    decoded = descend(
        denoiser,
        mixed,
        first=depth - 1,
        noise=lambda number: noise(number).repeat(repeats),
        clip_x_0=clip_x_0,
    )
    return decoded.reshape(len(weights), *x_0.shape)
