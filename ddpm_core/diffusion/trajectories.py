"""How images come to be: what the chain heads for on its way, and images that share a part of it.

Source: Ho et al. 2020, arXiv:2006.11239, section 4.3, figs. 6, 7 and 10.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample, descend
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError


def evenly_spaced_times(num_timesteps: int, num_slots: int = 20) -> list[int]:
    """Return code indices from 0 on, T/num_slots apart: 0, 50, ... 950 as the original has them."""
    return [slot * num_timesteps // num_slots for slot in range(num_slots)]


@torch.no_grad()
def progressive_generation(
    denoiser: Denoiser,
    x_T: Images,
    *,
    times: Sequence[int],
    noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
) -> Float[Tensor, "k b *d"]:
    """Return the x_0 that each chain heads for at chosen times: slot i holds x_0_hat of times[i].

    Args:
        denoiser: of a network, the averaged weights in evaluation mode.
        x_T: standard normal.
        times: code indices, in any order; at 0 x_0_hat is the sample itself.
        noise: gives the standard normal of step t, as for `ddpm_sample`.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1].

    Raises:
        ConfigError: if a time is not on the chain, or there is none.

    Source: Ho et al. 2020, fig. 6; the times of its code are `evenly_spaced_times(1000)`.
    """
    _require_on_chain(denoiser, times)
    kept: dict[int, Tensor] = {}

    def keep(t: int, _: Tensor, x_0_hat: Tensor) -> None:
        if t in times:
            kept[t] = x_0_hat

    ddpm_sample(denoiser, x_T, noise=noise, clip_x_0=clip_x_0, on_step=keep)
    return torch.stack([kept[t] for t in times])


class Shared(NamedTuple):
    """Images that have one latent in common."""

    t: int
    """code index of the latent"""
    x_t: Images
    """the latent, (1, ...)"""
    x_0: Images
    """the images, (n, ...): draws from p(x_0 | x_t)"""


def quarters(num_timesteps: int) -> list[int]:
    """Return the code indices at the end of each quarter, from the chain's end down.

    With T = 1000 those of the paper's x_1000, x_750, x_500 and x_250: 999, 749, 499, 249.
    """
    return [num_timesteps * quarter // 4 - 1 for quarter in (4, 3, 2, 1)]


@torch.no_grad()
def shared_latents(
    denoiser: Denoiser,
    x_T: Images,
    *,
    times: Sequence[int],
    num_images: int,
    noise: Callable[[int], Tensor],
    branch_noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
) -> list[Shared]:
    """Draw images that share x_t: one chain down to each of the times, and branches from there.

    The chain is walked once, and the latents of all times lie on it. A branch is a function of the
    latent and its own noise: the same branch at two times differs only in where it left the chain.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode.
        x_T: standard normal, of the one chain: (1, ...).
        times: code indices of the latents, falling; T - 1 shares x_T alone.
        num_images: branches of each latent, at least 1.
        noise: gives the standard normal of step t of the chain, (1, ...).
        branch_noise: gives the standard normal of step t of the branches, (num_images, ...).
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1].

    Returns:
        For each time, in their order: the latent and its images.

    Raises:
        ConfigError: if the times are not on the chain or do not fall, if there is another number
            of chains than one, or no image is wanted.

    Source: Ho et al. 2020, fig. 7; `quarters` are its times.
    """
    _require_on_chain(denoiser, times)
    if any(later <= earlier for later, earlier in pairwise(times)):
        raise ConfigError(f"times {list(times)} must fall: the chain is walked once")
    if len(x_T) != 1 or num_images < 1:
        raise ConfigError(
            f"{len(x_T)} chains with num_images={num_images}: there must be one chain, x_T of "
            "shape (1, ...), and at least one image"
        )
    shared, x_t, at = [], x_T, chain_of(denoiser.path).num_timesteps - 1
    for t in times:
        x_t = descend(denoiser, x_t, first=at, last=t + 1, noise=noise, clip_x_0=clip_x_0)
        at = t
        starts = x_t.repeat(num_images, *(1 for _ in x_t.shape[1:]))
        x_0 = descend(denoiser, starts, first=t, noise=branch_noise, clip_x_0=clip_x_0)
        shared.append(Shared(t, x_t, x_0))
    return shared


def _require_on_chain(denoiser: Denoiser, times: Sequence[int]) -> None:
    num_timesteps = chain_of(denoiser.path).num_timesteps
    if not times or not all(0 <= t < num_timesteps for t in times):
        raise ConfigError(
            f"times {list(times)} must be at least one code index in 0...{num_timesteps - 1}"
        )
