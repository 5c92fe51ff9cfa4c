"""What one call of a network says of x_t, in the terms that a sampler or a bound needs.

A network predicts eps, x_0, the mean of x_{t-1} or its drift, v or the velocity, and perhaps the
variance of the reverse step. Nothing outside this file depends on which: every sampler works on
every checkpoint.

Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 and table 2; learned_range: Nichol and
Dhariwal 2021, arXiv:2102.09672, eq. 15; v: Salimans and Ho 2022, arXiv:2202.00512, section 4;
drift and learned_beta: Sohl-Dickstein et al. 2015, arXiv:1503.03585, its code `model.py`.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, assert_never

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ddpm_core.diffusion.choices import OutputKind, Variance, is_learned, is_of_one_step
from ddpm_core.diffusion.paths.path import Path, chain_of
from ddpm_core.diffusion.process import (
    drift_from_mean,
    eps_from_v,
    eps_from_velocity,
    mean_from_drift,
    predict_eps,
    predict_v,
    predict_x_0,
    q_posterior,
    score_from_eps,
    x_0_from_mean,
    x_0_from_v,
    x_0_from_velocity,
)
from ddpm_core.diffusion.shapes import Images, PerImageScale, Times
from ddpm_core.errors import ConfigError


class Reverse(NamedTuple):
    """The step p(x_{t-1} | x_t) as a network predicts it: a Gaussian."""

    mean: Images
    log_variance: PerImageScale
    x_0_hat: Images
    """the image it heads for; with `clip_x_0` clipped to [-1, 1]"""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The output of one call, readable in every form; a form is computed when first read, once."""

    path: Path
    """on which x_t lies"""
    x_t: Images
    t: Times
    """time of each image: on a chain the code index, whole or, for solvers, in between"""
    value: Tensor
    """what the network predicts, in the network's arithmetic"""
    kind: OutputKind
    """what that is"""
    variance: Variance = "fixed_large"
    """how the variance of the reverse step is obtained"""
    spread: Tensor | None = None
    """output from which the variance follows, where it is learned"""
    certain: Tensor | None = None
    """True where x_0 is known, and the reverse step is q(x_{t-1} | x_t, x_0); None: nowhere"""

    @cached_property
    def x_0(self) -> Images:
        """The predicted image, not clipped.

        Raises:
            ConfigError: for x_prev and drift between two steps, where there is no x_{t-1}.
        """
        match self.kind:
            case "eps":
                return predict_x_0(self.path, self.x_t, self.t, self._value)
            case "x_0":
                return self._value
            case "v":
                self._require_v()
                return x_0_from_v(self.path, self.x_t, self.t, self._value)
            case "velocity":
                return x_0_from_velocity(self.path, self.x_t, self.t, self._value)
            case "x_prev" | "drift":
                if self.t.is_floating_point():
                    raise ConfigError(
                        f"prediction={self.kind} speaks of whole steps only; use a sampler that "
                        "takes the steps of the chain (ancestral)"
                    )
                return x_0_from_mean(chain_of(self.path), self.x_t, self.t, self._mean)
            case _:
                assert_never(self.kind)

    @cached_property
    def eps(self) -> Images:
        """The predicted noise: that which leads from the predicted image to x_t; errors as `x_0`.

        Where the path ends in pure noise, x_0 does not follow from it.
        """
        match self.kind:
            case "eps":
                return self._value
            case "v":
                self._require_v()
                return eps_from_v(self.path, self.x_t, self.t, self._value)
            case "velocity":
                return eps_from_velocity(self.path, self.x_t, self.t, self._value)
            case "x_0" | "x_prev" | "drift":
                return predict_eps(self.path, self.x_t, self.t, self.x_0)
            case _:
                assert_never(self.kind)

    @cached_property
    def v(self) -> Images:
        """The predicted v = signal eps - noise x_0.

        Raises:
            ConfigError: on a path that does not preserve variance, where v does not say x_0.
        """
        self._require_v()
        if self.kind == "v":
            return self._value
        return predict_v(self.path, self.x_0, self.t, self.eps)

    def _require_v(self) -> None:
        if not self.path.preserves_variance:
            raise ConfigError(
                f"v is defined where signal**2 + noise**2 is 1, and {type(self.path).__name__} "
                "does not preserve variance; use eps, x_0 or velocity there"
            )

    @cached_property
    def velocity(self) -> Images:
        """The predicted eps - x_0, along which flow matching goes straight from image to noise."""
        return self._value if self.kind == "velocity" else self.eps - self.x_0

    @cached_property
    def score(self) -> Images:
        """The predicted gradient of log q(x_t)."""
        return score_from_eps(self.path, self.eps, self.t)

    def of_kind(self, kind: OutputKind) -> Images:
        """Return what a network of that kind would have returned.

        Raises:
            ConfigError: as the form of that name; for x_prev and drift, if the path has no steps.
        """
        if kind == self.kind:
            return self._value
        match kind:
            case "eps":
                return self.eps
            case "x_0":
                return self.x_0
            case "v":
                return self.v
            case "velocity":
                return self.velocity
            case "x_prev":
                return self._mean
            case "drift":
                return drift_from_mean(chain_of(self.path), self.x_t, self.t, self._mean)
            case _:
                assert_never(kind)

    @cached_property
    def _mean(self) -> Images:
        """The mean of p(x_{t-1} | x_t): the network's own, or the posterior's by its prediction."""
        chain = chain_of(self.path)
        match self.kind:
            case "x_prev":
                return self._value
            case "drift":
                return mean_from_drift(chain, self.x_t, self.t, self._value)
            case _:
                return q_posterior(chain, self.x_0, self.x_t, self.t)[0]

    @cached_property
    def log_variance(self) -> PerImageScale:
        """The logarithm of the variance of p(x_{t-1} | x_t).

        Raises:
            ConfigError: if the path has no steps, or a learned variance is missing.
        """
        if self.certain is None:
            return self._log_variance
        small = chain_of(self.path).gather("posterior_log_variance_clipped", self.t, self.x_t)
        return torch.where(self.certain, small, self._log_variance)

    @property
    def _log_variance(self) -> PerImageScale:
        schedule, like = chain_of(self.path), self.x_t
        match self.variance:
            case "fixed_small":
                return schedule.gather("posterior_log_variance_clipped", self.t, like)
            case "fixed_large":
                return schedule.gather("log_variance_large", self.t, like)
        if self.spread is None:
            raise ConfigError(
                f"variance={self.variance} is part of the network's output, which has no second "
                "half; give the network twice the channels"
            )
        spread = _in_arithmetic_of(like, self.spread)
        match self.variance:
            case "learned":
                return spread
            case "learned_range":
                low = schedule.gather("posterior_log_variance_clipped", self.t, like)
                high = schedule.gather("log_betas", self.t, like)
                share = (spread + 1) / 2
                return share * high + (1 - share) * low
            case "learned_beta":
                odds = schedule.gather("log_odds_beta", self.t, like)
                return logsigmoid(odds + spread / math.sqrt(schedule.num_timesteps))
            case _:
                assert_never(self.variance)

    def reverse(self, *, clip_x_0: bool) -> Reverse:
        """Return p(x_{t-1} | x_t).

        Its mean is that of q(x_{t-1} | x_t, x_0) with x_0_hat for x_0. A network that predicts that
        mean itself, or its drift, is taken at its word: there clipping changes x_0_hat alone.

        Args:
            clip_x_0: whether x_0_hat is clipped to [-1, 1], before it enters the mean.

        Raises:
            ConfigError: if the path has no steps, or a learned variance is missing.

        Source: Ho et al. 2020, eqs. 7 and 15 (with x_0_hat not clipped, algorithm 2, line 4).
        """
        schedule = chain_of(self.path)
        x_0_hat = self.x_0.clamp(-1, 1) if clip_x_0 else self.x_0
        if is_of_one_step(self.kind):
            mean = self._mean
        else:
            mean, _ = q_posterior(schedule, x_0_hat, self.x_t, self.t)
        return Reverse(mean, self.log_variance, x_0_hat)

    def with_x_0(self, x_0: Images, *, certain: Tensor | None = None) -> "Prediction":
        """Return the prediction of another image for the same x_t, its variance as it was.

        What changes a prediction changes the image; all other forms follow from it.

        Args:
            x_0: the image.
            certain: (b, ...) bool, where it is known; None: where it was before.
        """
        certain = self.certain if certain is None else certain
        return replace(self, value=x_0, kind="x_0", certain=certain)

    @cached_property
    def _value(self) -> Tensor:
        return _in_arithmetic_of(self.x_t, self.value)


def split_output(output: Tensor, variance: Variance) -> tuple[Tensor, Tensor | None]:
    """Return the two halves of a network's output: the prediction, and what says the variance."""
    if not is_learned(variance):
        return output, None
    value, spread = output.chunk(2, dim=1)
    return value, spread


def _in_arithmetic_of(x_t: Images, value: Tensor) -> Tensor:
    """Return `value` with the dtype of the images, but at least float32."""
    return value.to(torch.promote_types(x_t.dtype, torch.float32))
