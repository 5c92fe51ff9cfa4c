"""How an average of the weights decays step by step, and how much of each step it holds. No torch.

A profile says how a training of t steps is weighed: p(tau) for 0 < tau <= t, of integral 1. The
average after step n of the weights theta_k holds the integral of p from k - 1 to k of theta_k.

Source of the power functions: Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C.
"""

import math
from dataclasses import dataclass
from typing import Protocol

WIDEST = 1 / math.sqrt(12)
"""sigma_rel of the mean of all weights alike, gamma = 0"""


class Decay(Protocol):
    """Which share of an average is left of it after each update."""

    def at(self, step: int) -> float:
        """Return the decay of the update after `step` steps before this one; 0 copies."""

    def first_share(self, num_steps: int) -> float:
        """Return the share that the weights after the first of `num_steps` steps have in it."""


@dataclass(frozen=True)
class Exponential:
    """theta_ema <- decay * theta_ema + (1 - decay) * theta; the first update copies.

    Without warm-up the first weights keep decay**(num_steps - 1). With it the decay of an update
    after n others is min(decay, (1 + n) / (10 + n)): what it holds of them falls with the ninth
    power of the steps until the decay is reached, after some 9 / (1 - decay) steps.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; of the warm-up: `num_updates` of
    TensorFlow's tf.train.ExponentialMovingAverage.
    """

    decay: float
    """in [0, 1)"""
    warmup: bool = False

    def at(self, step: int) -> float:
        """Return the decay of the update after `step` steps before this one; 0 copies."""
        if step == 0:
            return 0.0
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def first_share(self, num_steps: int) -> float:
        """Return the share that the weights after the first of `num_steps` steps have in it."""
        updates, share = num_steps - 1, 1.0
        if self.warmup:
            # The product of (1 + n) / (10 + n) for n = 1 ... m is (m + 1)! 10! / (m + 10)!.
            reached = math.floor((10 * self.decay - 1) / (1 - self.decay))
            m = min(max(reached, 0), updates)
            share = math.exp(math.lgamma(m + 2) + math.lgamma(11) - math.lgamma(m + 11))
            updates -= m
        return share * self.decay**updates


@dataclass(frozen=True)
class Power:
    """The average of profile p(tau) = (gamma + 1) tau**gamma / t**(gamma + 1), for every t.

    It reaches back over a fixed share of the training, however long that is: sigma_rel is the
    standard deviation of tau / t. An update takes (1 - 1/t)**(gamma + 1) of the average, t counting
    the step itself, so the first copies.

    Source: Karras et al. 2024, equations 2 and 3.
    """

    gamma: float
    """above -1; 0 weighs all steps alike"""

    def at(self, step: int) -> float:
        """Return the decay of the update after `step` steps before this one; 0 copies."""
        return float((step / (step + 1)) ** (self.gamma + 1))

    def first_share(self, num_steps: int) -> float:
        """Return the share that the weights after the first of `num_steps` steps have in it."""
        return float(num_steps ** -(self.gamma + 1))


def sigma_rel_of(gamma: float) -> float:
    """Return the relative width of a power function.

    Source: Karras et al. 2024, section 3.1: the standard deviation of a beta distribution.
    """
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent of the power function of a relative width in (0, WIDEST].

    The largest root of gamma**3 + 7 gamma**2 + (16 - s) gamma + 12 - s with s = sigma_rel**-2, by
    Viete's trigonometric formula: all three are real.

    Source: Karras et al. 2024, appendix C.1 (algorithm 2).
    """
    s = sigma_rel**-2
    p = (16 - s) - 49 / 3  # of y**3 + p y + q with y = gamma + 7 / 3
    q = 686 / 27 - 7 * (16 - s) / 3 + 12 - s
    radius = 2 * math.sqrt(-p / 3)
    cosine = 3 * q / (p * radius)
    return radius * math.cos(math.acos(min(1.0, max(-1.0, cosine))) / 3) - 7 / 3


def inner_product(gamma_a: float, t_a: float, gamma_b: float, t_b: float) -> float:
    """Return the integral of the product of two power functions, each 0 beyond its own t.

    Source: Karras et al. 2024, appendix C.2.
    """
    if t_a > t_b:
        gamma_a, t_a, gamma_b, t_b = gamma_b, t_b, gamma_a, t_a
    head = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return float(head * (t_a / t_b) ** gamma_b / t_b)
