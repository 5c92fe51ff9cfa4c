"""Colours for a grey image: its brightness is known, what lies across it is drawn.

The colours of a pixel are turned so that one axis is its brightness, the mean of its channels times
the root of their number; that coordinate is then a known part, as in `pinning`. To turn there and
back is to put the known mean in the place of the predicted one.

Source: Song et al. 2021, arXiv:2011.13456, appendix I.3 (the orthogonal basis whose first vector is
(1, 1, 1) / sqrt(3)).
"""

from dataclasses import dataclass

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Colourised:
    """Predicts images of known brightness, and their colours as the denoiser predicts them.

    The brightness of a sampler's state is what the forward process makes of the known one, where
    the reverse steps have the posterior's variance (fixed_small) or no noise; larger ones stay in
    it. Its last step leads to the known brightness, if `clip_x_0` is off.

    Raises:
        ConfigError: if the brightness has more than one channel.
    """

    denoiser: Denoiser
    grey: Images
    """(b, 1, ...): mean of the channels of each pixel, in [-1, 1]"""

    def __post_init__(self) -> None:
        if self.grey.ndim < 2 or self.grey.shape[1] != 1:
            raise ConfigError(
                f"grey is shaped {tuple(self.grey.shape)} and must have one channel, (b, 1, ...): "
                "the mean of the colours of each pixel"
            )

    @property
    def path(self) -> Path:
        """As of `Denoiser`."""
        return self.denoiser.path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return the prediction with the known mean of the channels in the place of its own."""
        said = self.denoiser.predict(x_t, t)
        x_0 = said.x_0
        return said.with_x_0(x_0 + (self.grey.to(x_0.dtype) - x_0.mean(dim=1, keepdim=True)))
