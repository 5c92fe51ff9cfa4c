"""Whether what is drawn has the low resolution that it was made of, by how noisy that was given.

Held-out images are made small, noised and enlarged, and what is drawn is made small again: of a
network that does as it is given nothing is lost, and of one that does not look the loss is that
between two images.

Source: Ho et al. 2022, arXiv:2106.15282, section 4.2 (the noise on the low resolution); Saharia et
al. 2021, arXiv:2104.07636, section 4.1 (consistency: the squared error of the low resolutions).
"""

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning, LowRes
from ddpm_core.config import RunConfig, SampleConfig, identity
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.low_resolution import shrunk
from ddpm_core.inference.denoiser import Guide
from ddpm_core.inference.low_resolution import LowResolutions, steps_of
from ddpm_core.loading.loader import Images, to_unit_range
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.sampling.draw import draw
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.sampler import describe
from ddpm_core.units.ranges import Arrays

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.9)
"""shares of the process's steps that the low resolutions are noised by"""

_OF_SAMPLES = ("low_from", "low_level")
"""what is said of a run's samples, and not of held-out images at every level"""


def levels_of(config: RunConfig) -> tuple[float, ...]:
    """Return those of the levels that the network was shown; of none of them the least it was."""
    least, most = config.train.low_levels
    return tuple(one for one in LEVELS if least <= one <= most) or (least,)


class LowMeasured:
    """Makes the low resolutions of images of a split.

    Args:
        config: of a run with `model.low_size`.
        device: where they are needed.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._make, self._device = LowResolutions(config), device
        self._level, self._key = (
            config.sample.low_level,
            seeding.key(config.evaluate.seed, "sample_low", 1),
        )
        self.size = self._make.size

    @classmethod
    def of_run(cls, config: RunConfig, device: torch.device) -> Self | None:
        """Return what makes them; None of a network that takes none."""
        return None if config.model.low_size is None else cls(config, device)

    def of(self, images: Images, start: int, stop: int, *, level: float | None = None) -> LowRes:
        """Return those of images `start` to `stop` - 1, noised.

        Args:
            images: the split.
            start: of the range.
            stop: of the range.
            level: a share of the process; None: `sample.low_level`.
        """
        x_0 = to_unit_range(images.images(start, stop), self._device)
        positions = torch.arange(start, stop, device=self._device)
        eps = seeding.normal(self._key, 0, positions, tuple(x_0.shape[1:]))
        steps = self._make.level(self._level if level is None else level, x_0)
        return self._make.made_of(x_0, steps, eps)

    def small(self, images: Images, numbers: NDArray[np.int64]) -> Tensor:
        """Return low resolutions as they are, of the images of these numbers."""
        return shrunk(to_unit_range(images.take(numbers), self._device), self.size)


def enlarged_part(
    denoiser: NetworkDenoiser,
    guide: Guide | None,
    low: LowMeasured,
    images: Images,
    start: int,
    stop: int,
    *,
    given: Conditioning,
    levels: tuple[float, ...],
    sample: SampleConfig,
) -> Arrays:
    """Return the squared errors of low resolutions, means over their values, in levels of 0...255.

    `own` (n, k) float64: of image i drawn at each level, to its own; `other` (n,): of the one drawn
    at the first level, to that of the next held-out image, as if it had been given another.

    Args:
        denoiser: of the network, on the device of `low`.
        guide: weights that guide it.
        low: makes the low resolutions.
        images: held-out images, in 8 bits.
        start: of their range.
        stop: of their range.
        given: of these: labels and texts, as far as the network takes them.
        levels: k shares of the process.
        sample: the section, by which images are drawn, at the positions of the held-out ones.
    """
    numbers = np.arange(start, stop)
    small = low.small(images, numbers)
    positions = torch.arange(start, stop, device=small.device)
    own, first = [], None
    for level in levels:
        shown = replace(given, low=low.of(images, start, stop, level=level))
        shape = tuple(images.images(start, start + 1).shape[1:])
        drawn = draw(
            guided(denoiser, shown, sample, guide),
            positions,
            (shape[0], shape[1], shape[2]),
            sample=sample,
            seed=sample.seed,
        )
        found = shrunk(drawn, low.size)
        first = found if first is None else first
        own.append(_squares(found, small))
    other = low.small(images, (numbers + 1) % len(images))
    return {"own": torch.stack(own, dim=1), "other": _squares(first, other)}


def _squares(found: Tensor | None, small: Tensor) -> Tensor:
    if found is None:
        raise ValueError("no level was given")
    return ((found - small).double() * 127.5).square().flatten(1).mean(1).cpu()


def consistency_metric(
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    config: RunConfig,
    weights: dict[str, Any],
) -> dict[str, Any]:
    """Return how well the low resolutions of what was drawn are those it was made of, in dB.

    10 log10(255**2 / the mean squared error), of all images together.

    Args:
        own: (n, k) as `enlarged_part` returns them.
        other: (n,) likewise.
        config: the run.
        weights: which weights these are.
    """
    levels, total = levels_of(config), config.diffusion.num_timesteps
    drawn = describe(
        config.sample,
        total,
        num_classes=config.num_classes,
        takes_text=config.model.uses_text,
        enlarges=True,
    )
    by_level = [
        {"level": level, "steps": steps_of(level, total), **_decibels(own[:, number])}
        for number, level in enumerate(levels)
    ]
    return {
        **_decibels(own[:, 0]),
        "shuffled": _decibels(other)["value"],
        "by_level": by_level,
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "unit": "dB of levels of 0...255, higher is better; Saharia et al. 2021, "
            "arXiv:2104.07636, section 4.1",
            "low_resolution": "means over areas, 8 bits; enlarged bilinearly and noised by the "
            "process for `steps` steps before the network is given it",
            "shuffled": "to the low resolution of the next held-out image: what a network has that "
            "does not look at its own",
            "low_size": list(config.model.low_size or ()),
            "low_levels": list(config.train.low_levels),
            "images": "held out",
            "num_images": len(own),
            **{key: value for key, value in drawn.items() if key not in _OF_SAMPLES},
            **identity.counted("diffusion", config.diffusion),
        },
    }


def _decibels(squares: NDArray[np.float64]) -> dict[str, float]:
    """Return the number and its standard error; never better than one level in one value."""
    mean, count = max(float(squares.mean()), 1e-9), len(squares)
    error = float(squares.std(ddof=1)) / np.sqrt(count) if count > 1 else 0.0
    return {
        "value": float(10 * np.log10(255**2 / mean)),
        "standard_error": float(10 / np.log(10) * error / mean),
    }
