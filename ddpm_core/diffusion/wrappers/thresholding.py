"""Thresholds on the predicted image: guidance leads it out of the range that images have.

Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 and appendix E (static and dynamic).
"""

import math
from dataclasses import dataclass

import torch

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.shapes import Images, PerImage, Times
from ddpm_core.errors import ConfigError


@dataclass(frozen=True)
class StaticThreshold:
    """Clips the predicted image to [-bound, bound]; with 1 as `clip_x_0` of the samplers does.

    Raises:
        ConfigError: if the bound is not positive.
    """

    denoiser: Denoiser
    bound: float = 1.0

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ConfigError(f"bound={self.bound} must be greater than 0; images have 1")

    @property
    def path(self) -> Path:
        """As of `Denoiser`."""
        return self.denoiser.path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return the prediction with its image clipped."""
        said = self.denoiser.predict(x_t, t)
        return said.with_x_0(said.x_0.clamp(-self.bound, self.bound))


@dataclass(frozen=True)
class DynamicThreshold:
    """Clips the predicted image to [-s, s] and divides it by s.

    s is the quantile of the image's own absolute values, at least 1, so that images within
    [-1, 1] stay as they are, and at most `cap`. The result lies in [-1, 1].

    Raises:
        ConfigError: if a number is out of its range.
    """

    denoiser: Denoiser
    quantile: float = 0.995
    """which share of an image's values is not clipped, in (0, 1]"""
    cap: float = math.inf
    """at least 1, where it is the static threshold"""

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1 or not self.cap >= 1:
            raise ConfigError(
                f"quantile={self.quantile} must be in (0, 1] and cap={self.cap} at least 1"
            )

    @property
    def path(self) -> Path:
        """As of `Denoiser`."""
        return self.denoiser.path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return the prediction with its image clipped and scaled."""
        said = self.denoiser.predict(x_t, t)
        s = expand(quantile_of_each(said.x_0.abs(), self.quantile).clamp(1, self.cap), said.x_0)
        return said.with_x_0(said.x_0.clamp(-s, s) / s)


def quantile_of_each(values: Images, share: float) -> PerImage:
    """Return the quantile of each row, interpolated linearly, as torch.quantile does.

    That function refuses more than 16 million values.
    """
    flat = values.flatten(1)
    place = share * (flat.shape[1] - 1)
    low, high = math.floor(place), math.ceil(place)
    below, above = (flat.kthvalue(rank + 1, dim=1).values for rank in (low, high))
    return torch.lerp(below, above, place - low)
