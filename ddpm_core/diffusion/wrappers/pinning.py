"""Known parts of an image: inpainting, outpainting, and whatever else a mask says is known.

The predicted image is replaced where it is known, and the sampler does the rest: its state there
is then what the forward process makes of the known image, for every step of every sampler leads
from x_t and x_0 as q does. Outpainting is a mask that is True in the middle.

Source: Song et al. 2021, arXiv:2011.13456, appendix I.2 (known parts follow the forward process);
Nichol et al. 2021, arXiv:2112.10741, section 3.2 (the known part of the predicted image).
"""

from dataclasses import dataclass

from ddpm_core.conditioning import Known
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.shapes import Images, Times


@dataclass(frozen=True, eq=False)
class Pinned:
    """Predicts what is known, where it is known, and what the denoiser predicts elsewhere.

    Ancestral steps have the variance of q(x_{t-1} | x_t, x_0) there. A sampler's last step leads to
    the predicted image, up to rounding; `Known.into` its result is exact.

    What is made up fits the known part less well than it should: the large shapes are settled while
    noise still hides what is known. `samplers.repaint` goes back for that.
    """

    denoiser: Denoiser
    known: Known

    @property
    def path(self) -> Path:
        """As of `Denoiser`."""
        return self.denoiser.path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return the prediction with the known image in its place."""
        said = self.denoiser.predict(x_t, t)
        certain = self.known.mask.broadcast_to(x_t.shape)
        return said.with_x_0(self.known.into(said.x_0), certain=certain)
