"""Training objectives and their weights, one value per image; the caller reduces over the batch.

Source: Ho et al. 2020, arXiv:2006.11239, eqs. 5 and 14 and table 2; Nichol and Dhariwal 2021,
arXiv:2102.09672, eq. 16 (L_hybrid); Hang et al. 2023, arXiv:2303.09556 (min-SNR); Choi et al.
2022, arXiv:2204.00227 (P2).
"""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from ddpm_core.diffusion.choices import (
    Loss,
    OutputKind,
    PredictionKind,
    Variance,
    Weighting,
    require_end_known,
    require_possible,
)
from ddpm_core.diffusion.measures.likelihood import vlb_term
from ddpm_core.diffusion.paths.path import Path, chain_of
from ddpm_core.diffusion.paths.schedule import NoiseSchedule
from ddpm_core.diffusion.prediction import Prediction, split_output
from ddpm_core.diffusion.process import drift_from_mean, predict_v, q_posterior, q_sample
from ddpm_core.diffusion.shapes import Images, PerImage, Times, Timesteps, mean_per_image
from ddpm_core.errors import ConfigError


@dataclass(frozen=True)
class Objective:
    """What a network is trained to minimise.

    Raises:
        ConfigError: if these do not go together.
    """

    schedule: NoiseSchedule
    prediction: PredictionKind = "eps"
    variance: Variance = "fixed_large"
    loss: Loss = "simple"
    weighting: Weighting = "none"
    min_snr_gamma: float = 5.0
    p2_gamma: float = 1.0
    p2_k: float = 1.0
    num_levels: int = 256
    """of a sample of the images"""

    def __post_init__(self) -> None:
        require_possible(self.prediction, self.variance, self.loss, self.weighting)
        require_end_known(self.prediction, ends_in_pure_noise=self.schedule.ends_in_pure_noise)

    def noised(self, x_0: Images, t: Timesteps, eps: Images) -> Images:
        """Return x_t, drawn from q(x_t | x_0)."""
        return q_sample(self.schedule, x_0, t, eps)

    def losses(
        self, output: Tensor, x_0: Images, x_t: Images, t: Timesteps, eps: Images
    ) -> PerImage:
        """Return the loss of each image, in float32 at least.

        L is one term of the bound in bits/dim, at the image's own t: over uniform t, T times its
        mean is the bound. L_hybrid adds T/1000 of it to L_simple, with the mean of the reverse
        step held fixed, so that the bound moves the variance alone.

        Args:
            output: the network's, of x_t at t; with a learned variance, twice the channels.
            x_0: images on the levels, in [-1, 1].
            x_t: the same images at step t.
            t: code index of each image's step.
            eps: the noise in x_t.

        Source: Ho et al. 2020, table 2 (L and L_simple); Nichol and Dhariwal 2021, eq. 16.
        """
        value, spread = split_output(output, self.variance)
        match self.loss:
            case "vlb":
                return self._bound(value, spread, x_0, x_t, t)
            case "simple":
                return self._simple(value, x_0, x_t, t, eps)
            case "hybrid":
                bound = self._bound(value.detach(), spread, x_0, x_t, t)
                share = self.schedule.num_timesteps / 1000
                return self._simple(value, x_0, x_t, t, eps) + share * bound
            case _:
                assert_never(self.loss)

    def _simple(
        self, value: Tensor, x_0: Images, x_t: Images, t: Timesteps, eps: Images
    ) -> PerImage:
        losses = loss_simple(value, target_of(self.schedule, self.prediction, x_0, x_t, t, eps))
        if self.weighting == "none":
            return losses
        weights = snr_weight(
            self.schedule.table("snr", losses.device, losses.dtype)[t],
            self.weighting,
            self.prediction,
            min_snr_gamma=self.min_snr_gamma,
            p2_gamma=self.p2_gamma,
            p2_k=self.p2_k,
        )
        return weights * losses

    def _bound(
        self, value: Tensor, spread: Tensor | None, x_0: Images, x_t: Images, t: Timesteps
    ) -> PerImage:
        predicted = Prediction(self.schedule, x_t, t, value, self.prediction, self.variance, spread)
        step = predicted.reverse(clip_x_0=False)
        return vlb_term(self.schedule, step, x_0, x_t, t, num_levels=self.num_levels)


def target_of(
    path: Path,
    prediction: OutputKind,
    x_0: Images,
    x_t: Images,
    t: Times,
    eps: Images,
) -> Images:
    """Return what a network with that prediction should return for x_t."""
    match prediction:
        case "eps":
            return eps
        case "x_0":
            return x_0
        case "v":
            return predict_v(path, x_0, t, eps)
        case "velocity":
            return eps - x_0
        case "x_prev":
            return q_posterior(chain_of(path), x_0, x_t, t)[0]
        case "drift":
            chain = chain_of(path)
            return drift_from_mean(chain, x_t, t, q_posterior(chain, x_0, x_t, t)[0])
        case _:
            assert_never(prediction)


def loss_simple(value: Images, target: Images) -> PerImage:
    """Return L_simple of each image: the mean of (target - value)**2 over all its dimensions.

    A mean, not a sum: with a sum the clipping of the gradient would always be active. Computed in
    float32 at least, also for predictions in bfloat16. A net that predicts eps and returns 0
    scores 1.

    Source: Ho et al. 2020, eq. 14; for other targets than eps, table 2.
    """
    dtype = torch.promote_types(target.dtype, torch.float32)
    return mean_per_image((value.to(dtype) - target.to(dtype)).square())


def snr_weight(
    snr: PerImage,
    weighting: Weighting,
    prediction: OutputKind,
    *,
    min_snr_gamma: float = 5.0,
    p2_gamma: float = 1.0,
    p2_k: float = 1.0,
) -> PerImage:
    """Return the weight of L_simple at each signal-to-noise ratio.

    Both weightings are stated for the error of eps: min(snr, gamma)/snr, and 1/(k + snr)**gamma.
    The error of x_0 is 1/snr times that, and the error of v is (1 + snr)/snr times, so that each
    prediction gets the same loss up to its own noise.

    Args:
        snr: of each image.
        weighting: which; `none` is 1 whatever the prediction.
        prediction: what the loss is the error of.
        min_snr_gamma: from which ratio on the weight falls.
        p2_gamma: how steeply P2 falls.
        p2_k: ratio around which P2 begins to fall.

    Raises:
        ConfigError: for the predictions x_prev and drift, whose errors have weights of their own.

    Source: Hang et al. 2023, section 3.4; Choi et al. 2022, eq. 8.
    """
    match weighting:
        case "none":
            return torch.ones_like(snr)
        case "min_snr":
            # min(snr, gamma) / snr, which is 1 where the ratio is 0.
            weight = torch.where(snr > min_snr_gamma, min_snr_gamma / snr, torch.ones_like(snr))
        case "p2":
            weight = (p2_k + snr).pow(-p2_gamma)
        case _:
            assert_never(weighting)
    return weight * eps_error_per_error(prediction, snr)


def eps_error_per_error(prediction: OutputKind, snr: PerImage) -> PerImage:
    """Return by how much the squared error of eps exceeds that of what is predicted.

    Raises:
        ConfigError: for the prediction x_prev.
    """
    match prediction:
        case "eps":
            return torch.ones_like(snr)
        case "x_0":
            return snr
        case "v":
            return snr / (1 + snr)
        case "velocity":
            # eps is (x_t + signal velocity) / (signal + noise).
            return (snr.sqrt() / (1 + snr.sqrt())).square()
        case "x_prev" | "drift":
            raise ConfigError(
                "a weighting by the signal-to-noise ratio is stated for eps, x_0 and v; with "
                f"prediction={prediction} use weighting=none"
            )
        case _:
            assert_never(prediction)
