"""Guidance: away from what a reference predicts, through what the denoiser predicts and beyond.

Classifier-free guidance if the reference is the same network without its condition, autoguidance
if it is a weaker network with the same condition: a smaller one, or an earlier snapshot.

Source: Ho and Salimans 2022, arXiv:2207.12598, eq. 6, whose w is ours less 1; Karras et al. 2024,
arXiv:2406.02507, eq. 3 (autoguidance); Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. 6 (the
interval); Lin et al. 2023, arXiv:2305.08891, eqs. 14 to 16 (rescaling).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from ddpm_core.diffusion.choices import is_of_one_step
from ddpm_core.diffusion.denoiser import Denoiser, predict_each
from ddpm_core.diffusion.paths.path import Path, require_same_path
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.errors import ConfigError

# A sigma that went through a time of the path and back has lost its last digits.
_SAME_SIGMA = 1e-9


@dataclass(frozen=True)
class Interval:
    """Noise levels sigma = noise / signal in (low, high]; with low = high there is none.

    Raises:
        ConfigError: if they are not 0 <= low <= high.
    """

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ConfigError(
                f"the interval of sigma from {self.low} to {self.high} must have 0 <= low <= high"
            )

    @property
    def is_everything(self) -> bool:
        """Whether no sigma lies outside."""
        return self.low == 0 and self.high == math.inf

    def contains(self, path: Path, t: Times) -> Bool[Tensor, " b"]:
        """Return whether sigma at each time lies in the interval."""
        signal, noise = path.signal_and_noise(t, t.double())
        sigma = noise / signal  # infinite at the end of a chain that ends in pure noise
        above = sigma > self.low * (1 + _SAME_SIGMA)
        return above & (sigma <= self.high * (1 + _SAME_SIGMA))


EVERYWHERE = Interval()


@dataclass(frozen=True)
class Guided:
    """reference + scale (denoiser - reference), at the noise levels of the interval.

    Computed in the form that the denoiser predicts, and the same in all of them, for each is an
    affine function of each other. The variance of the reverse step is the denoiser's own.

    Where both are one network and differ in their conditioning alone it is called once, with twice
    the rows. With scale 1, and for batches outside the interval, the reference is not called, and
    what the denoiser predicts is returned as it is. With a bounded interval each call waits for the
    device once, to know whether the reference is called.

    Raises:
        ConfigError: if a number is out of its range, or the two are on different paths.
    """

    denoiser: Denoiser
    reference: Denoiser
    scale: float
    """at least 0: 0 is the reference, 1 no guidance, more leads beyond the denoiser"""
    interval: Interval = EVERYWHERE
    rescale: float = 0.0
    """phi in [0, 1]: how far each guided image's standard deviation is brought back to that of the
    denoiser's own, in the form that it predicts (a mean of x_{t-1} is read as the image)"""

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ConfigError(f"scale={self.scale} must be at least 0; 1 is no guidance")
        if not 0 <= self.rescale <= 1:
            raise ConfigError(f"rescale={self.rescale} must be in 0 ... 1; 0 rescales nothing")
        require_same_path(self.denoiser.path, self.reference.path)

    @property
    def path(self) -> Path:
        """As of `Denoiser`."""
        return self.denoiser.path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return the guided prediction: a call of both, or of the denoiser alone."""
        if self.scale == 1:
            return self.denoiser.predict(x_t, t)
        everywhere = self.interval.is_everything
        inside = None if everywhere else self.interval.contains(self.path, t)
        if inside is not None and not bool(inside.any()):
            return self.denoiser.predict(x_t, t)
        said, reference = predict_each([self.denoiser, self.reference], x_t, t)
        kind = "x_0" if is_of_one_step(said.kind) and self.rescale > 0 else said.kind
        own, other = said.of_kind(kind), reference.of_kind(kind)
        value = other + self.scale * (own - other)
        if self.rescale > 0:
            value = rescaled(value, own, self.rescale)
        if inside is not None:
            value = torch.where(expand(inside, value), value, own)
        return replace(said, value=value, kind=kind)


def rescaled(guided: Images, own: Images, phi: float) -> Images:
    """Return guided images whose standard deviations are those of others, by the part phi.

    Where a guided image has none it stays as it is.

    Source: Lin et al. 2023, eqs. 14 to 16.
    """
    wanted, found = (part.flatten(1).std(dim=1, correction=0) for part in (own, guided))
    ratio = torch.where(found > 0, wanted / found, torch.ones_like(found))
    return expand(phi * ratio + (1 - phi), guided) * guided
