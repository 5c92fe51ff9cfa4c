"""Training objectives on a path in continuous time, one value per image.

Source: Song et al. 2021, arXiv:2011.13456, eq. 7; Kingma et al. 2021, arXiv:2107.00630, eqs. 17
and 18 (the bound, an integral over the log signal-to-noise ratio); Song et al. 2021b,
arXiv:2101.09258, section 4 (the same as likelihood weighting); Karras et al. 2022,
arXiv:2206.00364, eq. 8 and table 1; Esser et al. 2024, arXiv:2403.03206, section 3.
"""

import math
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from ddpm_core.diffusion.choices import Loss, OutputKind, Weighting, require_possible
from ddpm_core.diffusion.objective import (
    eps_error_per_error,
    loss_simple,
    snr_weight,
    target_of,
)
from ddpm_core.diffusion.paths.path import ContinuousPath
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.shapes import Images, PerImage, Times
from ddpm_core.diffusion.times import Times as Distribution


@dataclass(frozen=True)
class ContinuousObjective:
    """What a network is trained to minimise.

    Raises:
        ConfigError: if these do not go together.
    """

    times: Distribution
    """those at which it is trained"""
    prediction: OutputKind = "eps"
    loss: Loss = "simple"
    weighting: Weighting = "none"
    min_snr_gamma: float = 5.0
    p2_gamma: float = 1.0
    p2_k: float = 1.0
    sigma_data: float | None = None
    """of a preconditioned network, see `path_network`: L_simple is that of the network inside"""

    def __post_init__(self) -> None:
        require_possible(self.prediction, "fixed_small", self.loss, self.weighting)

    @property
    def path(self) -> ContinuousPath:
        """Of the times."""
        return self.times.path

    def noised(self, x_0: Images, t: Times, eps: Images) -> Images:
        """Return x_t, drawn from q(x_t | x_0)."""
        return q_sample(self.path, x_0, t, eps)

    def losses(self, output: Tensor, x_0: Images, x_t: Images, t: Times, eps: Images) -> PerImage:
        """Return the loss of each image, in float32 at least.

        The mean over the dimensions of (target - output)**2, times a weight. That of the bound is
        1/2 over the density of the log signal-to-noise ratio, for the error of eps: over times of
        this distribution its mean is the bound between the path's ends, in bits/dim.

        Args:
            output: the network's, of x_t at t.
            x_0: images in [-1, 1].
            x_t: the same images at time t.
            t: time of each image on the path.
            eps: the noise in x_t.

        Source: Kingma et al. 2021, eqs. 17 and 18; Song et al. 2021b, section 4.
        """
        target = target_of(self.path, self.prediction, x_0, x_t, t, eps)
        losses = loss_simple(output, target)
        weight = self._weight(t)
        return losses if weight is None else weight.to(losses.dtype) * losses

    def _weight(self, t: Times) -> Tensor | None:
        """Return the weight of each image's squared error, in float64; None: 1."""
        snr = self.path.log_snr_at(t).exp()
        match self.loss:
            case "vlb":
                bits = 0.5 / math.log(2) / self.times.log_snr_density(t)
                return bits * eps_error_per_error(self.prediction, snr)
            case "simple" | "hybrid":
                if self.weighting != "none":
                    return snr_weight(
                        snr,
                        self.weighting,
                        self.prediction,
                        min_snr_gamma=self.min_snr_gamma,
                        p2_gamma=self.p2_gamma,
                        p2_k=self.p2_k,
                    )
                # 1 / c_out**2, with sigma**2 = 1 / snr.
                return None if self.sigma_data is None else snr + self.sigma_data**-2
            case _:
                assert_never(self.loss)
