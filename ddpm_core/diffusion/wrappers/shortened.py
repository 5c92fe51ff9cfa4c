"""The part of a path below a depth, and where it begins for a given image: image to image.

An image with that much noise loses what is finer than the noise and keeps what is coarser; the
reverse process from there makes up the rest. Every sampler draws from the shortened denoiser as
from a whole one.

Source: Meng et al. 2022, arXiv:2108.01073 (SDEdit), section 3.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import ContinuousPath, Path
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, make_schedule
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Shortened:
    """A denoiser on the part of its path below a depth. Made by `shortened`."""

    denoiser: Denoiser
    path: Path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """As of `Denoiser`: the clock is the same."""
        return replace(self.denoiser.predict(x_t, t), path=self.path)


def shortened(denoiser: Denoiser, depth: int | float) -> Shortened:
    """Return the denoiser on its first `depth` steps alone, or on its path up to a time.

    Args:
        denoiser: on a chain, whole or respaced, or on a path in continuous time.
        depth: of a chain the number of steps that are left, at least 2, all of them at most;
            of another path the time that is its end.

    Raises:
        ConfigError: if the path is not that long, or no such part can be taken of it.
    """
    path = denoiser.path
    if isinstance(path, NoiseSchedule):
        if not 2 <= depth <= path.num_timesteps or depth != int(depth):
            raise ConfigError(
                f"depth={depth} must be a whole number of steps, from 2 to the "
                f"{path.num_timesteps} of the chain"
            )
        return Shortened(denoiser, make_schedule(path.betas[: int(depth)]))
    low, high = path.time_range
    if not isinstance(path, ContinuousPath) or not low < depth <= high:
        raise ConfigError(f"depth={depth} must be a time of the path, above {low:g}, to {high:g}")
    return Shortened(denoiser, replace(path, end=float(depth)))


class Start(NamedTuple):
    """What samplers are given for x_T, in place of standard normal noise."""

    state: Images
    """for all samplers but Heun's: scaled as a chain's x_t"""
    heun_state: Images
    """for `heun_sample`, which multiplies it by its first sigma"""


def start_of(denoiser: Denoiser, x_0: Images, eps: Images) -> Start:
    """Return images with the noise of the path's end, from which samplers lead back to images.

    Args:
        denoiser: usually `shortened`: at the end of a whole path little of the image is left.
            Samplers in sigma must be given sigmas of its path, beginning with the largest.
        x_0: images in [-1, 1]; their dtype is the state's.
        eps: standard normal, shaped like `x_0`.
    """
    path = denoiser.path
    t = torch.full((len(x_0),), path.time_range[1], dtype=torch.float64, device=x_0.device)
    if isinstance(path, NoiseSchedule):
        t = t.long()
    signal, noise = path.signal_and_noise(t, x_0)
    x_t = q_sample(path, x_0, t, eps)
    whole = x_t if path.preserves_variance else x_t / (signal.square() + noise.square()).sqrt()
    return Start(whole, x_t / noise)
