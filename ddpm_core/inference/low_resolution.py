"""From a configuration to the low resolutions that its network is given: of images, or as they are.

One object for training, sampling and measuring, so that none of them makes them otherwise.
"""

import torch
from torch import Tensor

from ddpm_core.conditioning import LowRes
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.low_resolution import enlarged, noised_by, shrunk
from ddpm_core.inference.build import build_schedule


def steps_of(level: float, num_timesteps: int) -> int:
    """Return how many steps of the process a level, a share of them, is."""
    return round(level * num_timesteps)


class LowResolutions:
    """Makes what a network of `model.low_size` is given.

    Args:
        config: the run's, with a `model.low_size`.
    """

    def __init__(self, config: RunConfig) -> None:
        size, data = config.model.low_size, config.data
        if size is None:
            raise ValueError("model.low_size is not given")
        self.size, self._large = size, (data.height, data.width)
        self._schedule, self._num_timesteps = build_schedule(config), config.diffusion.num_timesteps

    def made_of(self, images: Tensor, level: Tensor, eps: Tensor) -> LowRes:
        """Return the low resolutions of images, noised.

        Args:
            images: (b, c, h, w) in [-1, 1].
            level: (b,) int64, steps of the process.
            eps: (b, c, h, w) standard normal.
        """
        return self.given(shrunk(images, self.size), level, eps)

    def given(self, low: Tensor, level: Tensor, eps: Tensor) -> LowRes:
        """Return low resolutions (b, c, h2, w2) in [-1, 1] as `made_of` returns those of images."""
        return LowRes(noised_by(self._schedule, enlarged(low, self._large), level, eps), level)

    def level(self, share: float, like: Tensor) -> Tensor:
        """Return one level for all images of a batch, (b,) int64, on their device."""
        steps = steps_of(share, self._num_timesteps)
        return torch.full((len(like),), steps, dtype=torch.int64, device=like.device)
