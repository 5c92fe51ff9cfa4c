"""Interpolation between two images through the diffusion: mixed where noise hides their details.

Both images are diffused, mixed linearly, and decoded by the reverse process, which puts back what
the mix of two images lacks. The deeper they are diffused, the less of either is left to mix.

Where the way from x_T to x_0 has no noise, as DDIM's, their x_T alone are mixed (`slerp`).

Source: Ho et al. 2020, arXiv:2006.11239, section 4.4 and appendix D, figs. 8 and 9; Song et al.
2020, arXiv:2010.02502, section 5.3 and appendix D.5.
"""

import math
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


def slerp(
    x_T: Images,
    x_T_other: Images,
    weights: Sequence[float],
) -> Float[Tensor, "w b *d"]:
    """Return latents on the arc between those of each pair: spherical linear interpolation.

    All latents of one length are equally likely, and the arc keeps to the lengths of its ends. A
    linear mix of two independent ones has half their variance in the middle, which no noise has.

    Args:
        x_T: latents, none of them 0.
        x_T_other: as many, each the other end of its arc.
        weights: shares of the angle: 0 is `x_T`, 1 the other.

    Returns:
        Row i has the weight `weights[i]`.

    Raises:
        ConfigError: if there is no weight, or two latents are opposite: no arc is the shortest.

    Source: Song et al. 2020, arXiv:2010.02502, appendix D.5; Shoemake 1985.
    """
    if not weights:
        raise ConfigError("weights=[] must be at least one share of the angle")
    first, second = (one.flatten(1).double() for one in (x_T, x_T_other))
    cosine = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    if bool((cosine <= -1 + 1e-12).any()):
        raise ConfigError(
            "two latents are opposite, and there is no shortest arc between them; draw another"
        )
    share = cosine.clamp(max=1).acos() / math.pi
    spread = (-1, *(1 for _ in x_T.shape[1:]))

    def part(weight: float) -> Tensor:
        # sin(w theta) / sin(theta), in a form that has its limit where theta is 0.
        ratio: Tensor = weight * (weight * share).sinc() / share.sinc()
        return ratio.to(x_T.dtype).view(spread)

    return torch.stack([part(1 - w) * x_T + part(w) * x_T_other for w in weights])
