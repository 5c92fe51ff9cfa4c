"""What a network says of x_t, in the terms that a sampler or a bound asks for.

A network predicts eps, x_0, the mean of x_{t-1}, or v, and perhaps the variance of the reverse
step. Nothing outside this file depends on which: every sampler works on every checkpoint.

Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 and table 2; learned_range: Nichol and
Dhariwal 2021, arXiv:2102.09672, eq. 15; v: Salimans and Ho 2022, arXiv:2202.00512, section 4.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, assert_never, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm_core.diffusion.choices import Prediction, Variance, is_learned, require_end_known
from ddpm_core.diffusion.continuous import time_of_sigma
from ddpm_core.diffusion.process import (
    eps_from_v,
    predict_eps,
    predict_v,
    predict_x_0,
    q_posterior,
    score_from_eps,
    x_0_from_mean,
    x_0_from_v,
)
from ddpm_core.diffusion.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.shapes import Images, PerImageScale, Times, Timesteps
from ddpm_core.errors import ConfigError


@runtime_checkable
class Network(Protocol):
    """(x_t, t) -> what `prediction` says; with a learned variance, twice the channels (axis 1)."""

    def __call__(self, x_t: Images, t: Times) -> Tensor: ...


class Reverse(NamedTuple):
    """The step p(x_{t-1} | x_t) as a network has it: a Gaussian."""

    mean: Images
    log_variance: PerImageScale
    x_0_hat: Images
    """the image it heads for: clipped, if that was asked"""


@dataclass(frozen=True)
class Denoiser:
    """A network, the chain it was trained on, and what its output means.

    Raises:
        ConfigError: if the network predicts eps and the chain ends in pure noise.
    """

    network: Network
    schedule: NoiseSchedule
    prediction: Prediction = "eps"
    variance: Variance = "fixed_large"

    def __post_init__(self) -> None:
        require_end_known(self.prediction, ends_in_pure_noise=self.schedule.ends_in_pure_noise)

    def x_0(self, x_t: Images, t: Times) -> Images:
        """Return the predicted image, not clipped."""
        value, _ = self._output(x_t, t)
        return x_0_of(self.schedule, self.prediction, value, x_t, t)

    def eps(self, x_t: Images, t: Times) -> Images:
        """Return the predicted noise: that which leads from the predicted image to x_t."""
        value, _ = self._output(x_t, t)
        return eps_of(self.schedule, self.prediction, value, x_t, t)

    def v(self, x_t: Images, t: Times) -> Images:
        """Return the predicted v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
        value, _ = self._output(x_t, t)
        if self.prediction == "v":
            return _in_arithmetic_of(x_t, value)
        # Not x_0 from eps: where the chain ends in pure noise, eps says nothing of x_0.
        x_0 = x_0_of(self.schedule, self.prediction, value, x_t, t)
        eps = eps_of(self.schedule, self.prediction, value, x_t, t)
        return predict_v(self.schedule, x_0, t, eps)

    def score(self, x_t: Images, t: Times) -> Images:
        """Return the predicted gradient of log q(x_t)."""
        return score_from_eps(self.schedule, self.eps(x_t, t), t)

    def reverse(self, x_t: Images, t: Timesteps, *, clip_x_0: bool) -> Reverse:
        """Return the reverse step at t; arguments as of `reverse`."""
        value, spread = self._output(x_t, t)
        return reverse(
            self.schedule, self.prediction, self.variance, value, spread, x_t, t, clip_x_0=clip_x_0
        )

    def at_sigma(self, x: Images, sigma: Float[Tensor, " b"]) -> Images:
        """Return D(x; sigma), the predicted image, of x = x_0 + sigma eps.

        Args:
            x: images with noise of that standard deviation and their signal unscaled.
            sigma: of each image; beyond the chain's smallest or largest, the network is asked at
                that end of the chain.

        Source: Karras et al. 2022, arXiv:2206.00364, eq. 7 and table 1 (VP).
        """
        return x - expand(sigma.to(x.dtype), x) * self.eps_at_sigma(x, sigma)

    def eps_at_sigma(self, x: Images, sigma: Float[Tensor, " b"]) -> Images:
        """Return the predicted noise in x = x_0 + sigma eps; arguments as of `at_sigma`.

        It is the probability flow's dx/dsigma.

        Source: Karras et al. 2022, arXiv:2206.00364, eqs. 1 and 3.
        """
        t = time_of_sigma(self.schedule, sigma)
        scale = expand((1 + sigma.double().square()).rsqrt().to(x.dtype), x)
        return self.eps(scale * x, t)

    def _output(self, x_t: Images, t: Times) -> tuple[Tensor, Tensor | None]:
        return split_output(self.network(x_t, t), self.variance)


def split_output(output: Tensor, variance: Variance) -> tuple[Tensor, Tensor | None]:
    """Return the two halves of a network's output: the prediction, and what says the variance."""
    if not is_learned(variance):
        return output, None
    value, spread = output.chunk(2, dim=1)
    return value, spread


def x_0_of(
    schedule: NoiseSchedule, prediction: Prediction, value: Tensor, x_t: Images, t: Times
) -> Images:
    """Return the image that a prediction means.

    Raises:
        ConfigError: for x_prev between two steps, where there is no x_{t-1}.
    """
    value = _in_arithmetic_of(x_t, value)
    match prediction:
        case "eps":
            return predict_x_0(schedule, x_t, t, value)
        case "x_0":
            return value
        case "v":
            return x_0_from_v(schedule, x_t, t, value)
        case "x_prev":
            if t.is_floating_point():
                raise ConfigError(
                    "prediction=x_prev speaks of whole steps only; use a sampler that takes the "
                    "steps of the chain (ancestral)"
                )
            return x_0_from_mean(schedule, x_t, t, value)
        case _:
            assert_never(prediction)


def eps_of(
    schedule: NoiseSchedule, prediction: Prediction, value: Tensor, x_t: Images, t: Times
) -> Images:
    """Return the noise that a prediction means; errors as of `x_0_of`."""
    value = _in_arithmetic_of(x_t, value)
    match prediction:
        case "eps":
            return value
        case "v":
            return eps_from_v(schedule, x_t, t, value)
        case "x_0" | "x_prev":
            return predict_eps(schedule, x_t, t, x_0_of(schedule, prediction, value, x_t, t))
        case _:
            assert_never(prediction)


def reverse(
    schedule: NoiseSchedule,
    prediction: Prediction,
    variance: Variance,
    value: Tensor,
    spread: Tensor | None,
    x_t: Images,
    t: Timesteps,
    *,
    clip_x_0: bool,
) -> Reverse:
    """Return p(x_{t-1} | x_t) of a network's output.

    Its mean is that of q(x_{t-1} | x_t, x_0) with x_0_hat for x_0. A network that predicts that
    mean itself is taken at its word: there clipping changes x_0_hat alone.

    Args:
        schedule: the chain.
        prediction: what `value` is.
        variance: how the variance is had.
        value: the prediction.
        spread: what says the variance, where it is learned.
        x_t: images at step t.
        t: code index of the step, 0..T-1.
        clip_x_0: whether x_0_hat is clipped to [-1, 1], before it enters the mean.

    Source: Ho et al. 2020, eqs. 7 and 15 (with x_0_hat not clipped, algorithm 2, line 4).
    """
    x_0_hat = x_0_of(schedule, prediction, value, x_t, t)
    if clip_x_0:
        x_0_hat = x_0_hat.clamp(-1, 1)
    if prediction == "x_prev":
        mean = value.to(x_0_hat.dtype)
    else:
        mean, _ = q_posterior(schedule, x_0_hat, x_t, t)
    return Reverse(mean, _log_variance(schedule, variance, spread, t, mean), x_0_hat)


def _in_arithmetic_of(x_t: Images, value: Tensor) -> Tensor:
    """Return `value` with the dtype of the images, but at least float32."""
    return value.to(torch.promote_types(x_t.dtype, torch.float32))


def _log_variance(
    schedule: NoiseSchedule, variance: Variance, spread: Tensor | None, t: Timesteps, like: Images
) -> PerImageScale:
    match variance:
        case "fixed_small":
            return schedule.gather("posterior_log_variance_clipped", t, like)
        case "fixed_large":
            return schedule.gather("log_variance_large", t, like)
    if spread is None:
        raise ConfigError(
            f"variance={variance} is part of the network's output, which has no second half; give "
            "the network twice the channels"
        )
    match variance:
        case "learned":
            return spread.to(like.dtype)
        case "learned_range":
            low = schedule.gather("posterior_log_variance_clipped", t, like)
            high = schedule.gather("log_betas", t, like)
            share = (spread.to(like.dtype) + 1) / 2
            return share * high + (1 - share) * low
        case _:
            assert_never(variance)
