"""The forward process of bits, and its posterior: each step turns some bits into coins.

A step turns a bit into a coin with probability beta_t = 1/(T - t), code t = 0..T-1, so that an
equal share of what is left of the image is erased by each, and nothing is left by the last:
abar_t = (T - 1 - t)/T, and x_T are coins exactly.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.4.1 (the schedule) and table App. 1.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import logsigmoid

from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.shapes import Images, PerImageScale, Timesteps
from ddpm_core.errors import ConfigError

_TableName = Literal["abar", "log_odds_step", "log_odds_before"]


class Bits(NamedTuple):
    """A distribution of independent bits, by both of its logarithms: 1 - p has few digits."""

    log_one: Images
    """log p(1)"""
    log_other: Images
    """log p(-1)"""

    @classmethod
    def of(cls, log_odds: Images) -> "Bits":
        """Return the distribution with these log odds, log p(1) - log p(-1)."""
        return cls(logsigmoid(log_odds), logsigmoid(-log_odds))

    def log_probability(self, x: Images) -> Images:
        """Return log p(x) of bits x."""
        return torch.where(x > 0, self.log_one, self.log_other)

    def draw(self, eps: Images) -> Images:
        """Draw bits from standard normal noise: 1 where its quantile is below p(1)."""
        one = torch.special.ndtr(eps) < self.log_one.exp()
        return torch.where(one, 1.0, -1.0).to(self.log_one.dtype)


@dataclass(frozen=True, eq=False)
class BinomialChain:
    """A chain of T steps of bits.

    Raises:
        ConfigError: if there are fewer than two steps.
    """

    num_timesteps: int
    """T"""
    _tables: dict[tuple[_TableName, torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.num_timesteps < 2:
            raise ConfigError(f"num_timesteps={self.num_timesteps} must be at least 2")

    @property
    def betas(self) -> Float64[Tensor, " T"]:
        """Probability that a step turns a bit into a coin; the last is 1."""
        return 1 / self._left

    @property
    def alphas_cumprod(self) -> Float64[Tensor, " T"]:
        """abar_t, the probability that no step up to and including t has; the last is 0."""
        return (self._left - 1) / self.num_timesteps

    def gather(self, name: _TableName, t: Timesteps, like: Images) -> PerImageScale:
        """Return the entries at `t` shaped (b, 1, ..., 1), with the device and dtype of `like`."""
        slot = (name, like.device, torch.promote_types(like.dtype, torch.float32))
        if slot not in self._tables:
            # A table first used in inference mode must also work in training.
            with torch.inference_mode(mode=False), torch.no_grad():
                self._tables[slot] = self._compute(name).to(*slot[1:])
        return expand(self._tables[slot][t], like)

    @property
    def _left(self) -> Float64[Tensor, " T"]:
        """T - t: steps to go, this one included."""
        return torch.arange(self.num_timesteps, 0, -1, dtype=torch.float64, device="cpu")

    def _compute(self, name: _TableName) -> Float64[Tensor, " T"]:
        total = self.num_timesteps
        match name:
            case "abar":
                return self.alphas_cumprod
            case "log_odds_step":  # of x_t = x_{t-1}: log (1 + alpha)/(1 - alpha)
                return (2 * self._left - 1).log()
            case "log_odds_before":  # of x_{t-1} = x_0; infinite where t = 0
                return ((total + self._left) / (total - self._left)).log()
            case _:
                assert_never(name)


def q_sample(chain: BinomialChain, x_0: Images, t: Timesteps, eps: Images) -> Images:
    """Draw x_t from q(x_t | x_0): 1 with probability (1 + abar_t x_0)/2.

    Args:
        chain: of bits.
        x_0: bits, -1 or 1.
        t: code index of the step, 0..T-1.
        eps: standard normal, drawn by the caller so that a run can be replayed.
    """
    moved = chain.gather("abar", t, x_0) * x_0
    return Bits(((1 + moved) / 2).log(), ((1 - moved) / 2).log()).draw(eps)


def q_posterior(chain: BinomialChain, x_0: Images, x_t: Images, t: Timesteps) -> Images:
    """Return the log odds of q(x_{t-1} | x_t, x_0); infinite where t = 0: there it is x_0.

    Given x_{t-1}, x_t and x_0 are independent, so that their log odds add up.
    """
    of_x_t = chain.gather("log_odds_step", t, x_t) * x_t
    return of_x_t + chain.gather("log_odds_before", t, x_0) * x_0


def reverse(chain: BinomialChain, log_odds_x_0: Images, x_t: Images, t: Timesteps) -> Bits:
    """Return p(x_{t-1} | x_t): the posterior's mean over the bits of x_0, predicted by log odds.

    Where these are those of p(x_0 | x_t), it is each bit's own distribution given x_t, and no
    reverse step of independent bits has a better bound. At t = 0 it is the prediction itself.
    """
    one = q_posterior(chain, torch.ones_like(x_t), x_t, t)
    other = q_posterior(chain, -torch.ones_like(x_t), x_t, t)
    said = Bits.of(log_odds_x_0)
    return Bits(
        torch.logaddexp(said.log_one + logsigmoid(one), said.log_other + logsigmoid(other)),
        torch.logaddexp(said.log_one + logsigmoid(-one), said.log_other + logsigmoid(-other)),
    )


def kl(q_log_odds: Images, p: Bits) -> Images:
    """Return the divergence of p from q in nats, bit by bit; of a point it is -log p there."""
    one, other = q_log_odds.sigmoid(), (-q_log_odds).sigmoid()
    negentropy = torch.xlogy(one, one) + torch.xlogy(other, other)
    return negentropy - one * p.log_one - other * p.log_other
