"""Posteriors: each reverse step times a likelihood, for denoising and inpainting as of 2015.

A Gaussian step times a Gaussian r around an observed image is a Gaussian again: the precisions add
up, and the means are weighted by them. Where a pixel is known exactly r is a point, and the step is
that point. Unlike `pinning`, what is known has no noise on its way: it is the observed image at
every step.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.5 and appendix C; its code,
`sampler.py`, diffusion_step.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from ddpm_core.conditioning import Known
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Posterior:
    """Predicts the reverse step times r: of steps of a chain, which ancestral sampling takes.

    Raises:
        ConfigError: if a deviation is not above 0, or the mask does not fit the image.
    """

    denoiser: Denoiser
    observed: Images
    """images in [-1, 1], one for each x_t"""
    sigma: float | None = None
    """standard deviation of r around the observed image, as of noise on it; None: r is 1 where the
    mask does not say otherwise"""
    mask: Bool[Tensor, "..."] | None = None
    """True where the image is known exactly; broadcast to `observed`"""
    clip_x_0: bool = True
    """whether the predicted image is clipped before it enters the mean of the step"""

    def __post_init__(self) -> None:
        if self.sigma is not None and not self.sigma > 0:
            raise ConfigError(
                f"sigma={self.sigma} must be above 0; what is known exactly is said by a mask"
            )
        if self.mask is not None:
            known = Known(self.observed, self.mask)
            object.__setattr__(self, "mask", known.mask)

    @property
    def path(self) -> Path:
        """As of `Denoiser`."""
        return self.denoiser.path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return the product as the prediction of a mean and of a variance.

        Raises:
            ConfigError: between two steps, or on a path without any.
        """
        step = self.denoiser.predict(x_t, t).reverse(clip_x_0=self.clip_x_0)
        mean, log_variance = step.mean, step.log_variance.expand_as(step.mean)
        observed = self.observed.to(mean.dtype)
        if self.sigma is not None:
            # The share of r in both precisions: variance / (variance + sigma**2).
            share = (log_variance - 2 * math.log(self.sigma)).sigmoid()
            mean = mean + share * (observed - mean)
            log_variance = log_variance + (-share).log1p()
        if self.mask is not None:
            mean = torch.where(self.mask, observed, mean)
            log_variance = log_variance.masked_fill(self.mask, -torch.inf)
        return Prediction(self.path, x_t, t, mean, "x_prev", "learned", spread=log_variance)
