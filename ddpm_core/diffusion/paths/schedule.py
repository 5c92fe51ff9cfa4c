"""The noise schedule: how much noise each step adds, and what follows from it.

It is a `path` whose clock is the code index. Between the steps the logarithm of the
signal-to-noise ratio is interpolated linearly in t, so that whole t give the chain itself.

Code `t` is 0-based: the paper's step t is index t - 1, so index 0 is one step of noise and
index T - 1 is (almost) pure noise. Everything is computed in float64 and rounded once, where it
is used: float32 would leave an error of 1e-4 in the posterior variance.

Source: Ho et al. 2020, arXiv:2006.11239, sections 2 and 4; Lu et al. 2022, arXiv:2206.00927,
appendix D.4 (the interpolation).
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, assert_never

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from ddpm_core.diffusion.shapes import Images, PerImageScale, Times, Timesteps
from ddpm_core.errors import ConfigError

TableName = Literal[
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "log_variance_large",
    "log_betas",
    "log_odds_beta",
    "sqrt_alphas",
    "sqrt_betas",
    "coef_x_0",
    "coef_x_t",
    "snr",
    "log_snr",
]
"""What `NoiseSchedule.table` and `NoiseSchedule.gather` know."""

INFINITE_SIGMA = (
    "this chain ends in pure noise (its last signal-to-noise ratio is 0), where sigma is "
    "infinite; solvers that work in sigma cannot begin there: use ancestral or ddim, or a "
    "schedule without zero terminal SNR"
)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A chain of T steps; all fields are (T,) float64 on the CPU. Made by `make_schedule`."""

    betas: Float64[Tensor, " T"]
    """variance of the noise added by each step"""
    alphas: Float64[Tensor, " T"]
    """1 - beta"""
    alphas_cumprod: Float64[Tensor, " T"]
    """abar_t, the product of the alphas up to and including t: falls from near 1 to near 0"""
    alphas_cumprod_prev: Float64[Tensor, " T"]
    """abar_{t-1}; the first is exactly 1"""
    posterior_variance: Float64[Tensor, " T"]
    """variance of q(x_{t-1} | x_t, x_0); the first is exactly 0 (eq. 7)"""
    posterior_log_variance_clipped: Float64[Tensor, " T"]
    """its logarithm, where the first, of 0, is replaced by the second: the first is the noise of
    the decoder"""
    coef_x_0: Float64[Tensor, " T"]
    """coefficient of x_0 in the mean of q(x_{t-1} | x_t, x_0) (eq. 7)"""
    coef_x_t: Float64[Tensor, " T"]
    """coefficient of x_t in the mean of q(x_{t-1} | x_t, x_0) (eq. 7)"""
    _tables: dict[tuple[str, torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.betas)

    @property
    def snr(self) -> Float64[Tensor, " T"]:
        """Signal-to-noise ratio abar_t / (1 - abar_t)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    @property
    def log_snr(self) -> Float64[Tensor, " T"]:
        """Natural logarithm of `snr`: 9.2 to -10.1 for the paper's chain."""
        return self.snr.log()

    @property
    def ends_in_pure_noise(self) -> bool:
        """Whether abar_T is exactly 0: x_T then says nothing of x_0."""
        return float(self.alphas_cumprod[-1]) == 0

    @property
    def time_range(self) -> tuple[float, float]:
        """0 and T - 1; as of `Path`."""
        return 0.0, self.num_timesteps - 1.0

    @cached_property  # its values are read from a tensor: a wait, were it on a GPU
    def log_snr_range(self) -> tuple[float, float]:
        """As of `Path`."""
        nodes = self.table("log_snr", torch.device("cpu"), torch.float64)
        return float(nodes[0]), float(nodes[-1])

    @property
    def prior_std(self) -> float:
        """As of `Path`."""
        return 1.0

    @property
    def preserves_variance(self) -> bool:
        """As of `Path`."""
        return True

    def signal_and_noise(self, t: Times, like: Images) -> tuple[PerImageScale, PerImageScale]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t), at whole t and between; as of `Path`."""
        if not t.is_floating_point():
            return (
                self.gather("sqrt_alphas_cumprod", t, like),
                self.gather("sqrt_one_minus_alphas_cumprod", t, like),
            )
        log_snr = self.log_snr_at(t)
        dtype = torch.promote_types(like.dtype, torch.float32)
        signal, noise = (half.sigmoid().sqrt().to(dtype) for half in (log_snr, -log_snr))
        return expand(signal, like), expand(noise, like)

    def log_snr_at(self, t: Tensor) -> Float[Tensor, "*d"]:
        """Return log(abar / (1 - abar)) at times in [0, T-1], whole or in between, in float64.

        Raises:
            ConfigError: if the chain ends in pure noise.
        """
        nodes = self._nodes(t.device)
        left = t.floor().long().clamp(0, self.num_timesteps - 2)
        share = t.double() - left
        return nodes[left] + share * (nodes[left + 1] - nodes[left])

    def time_at(self, log_snr: Tensor) -> Float[Tensor, "*d"]:
        """Return the time at which the chain has this log(abar / (1 - abar)), in float64.

        What lies beyond the chain's ends becomes its end: 0 or T-1.

        Raises:
            ConfigError: if the chain ends in pure noise.
        """
        nodes = self._nodes(log_snr.device)
        # Ascending for the search: nodes fall with t.
        place = torch.searchsorted(-nodes, -log_snr.double().contiguous(), right=True)
        left = (place - 1).clamp(0, self.num_timesteps - 2)
        share = (log_snr.double() - nodes[left]) / (nodes[left + 1] - nodes[left])
        return left + share.clamp(0, 1)

    def signal_at_sigma(self, sigma: Tensor) -> Float[Tensor, "*d"]:
        """As of `Path`."""
        return (1 + sigma.double().square()).rsqrt()

    def table(
        self, name: TableName, device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, " T"]:
        """Return a table on a device, rounded once to `dtype`, but never below float32.

        Each is copied there once; afterwards neither this nor `gather` waits for the device.
        """
        dtype = torch.promote_types(dtype, torch.float32)
        slot = (name, device, dtype)
        if slot not in self._tables:
            # A table first used in inference mode must also work in training.
            with torch.inference_mode(mode=False), torch.no_grad():
                self._tables[slot] = self._compute(name).to(device, dtype)
        return self._tables[slot]

    def gather(self, name: TableName, t: Timesteps, like: Images) -> PerImageScale:
        """Return the entries at `t` shaped (b, 1, ..., 1), with the device and dtype of `like`."""
        return expand(self.table(name, like.device, like.dtype)[t], like)

    def _nodes(self, device: torch.device) -> Float64[Tensor, " T"]:
        if self.ends_in_pure_noise:
            raise ConfigError(INFINITE_SIGMA)
        return self.table("log_snr", device, torch.float64)

    def _compute(self, name: TableName) -> Float64[Tensor, " T"]:
        match name:
            case "sqrt_alphas_cumprod":
                return self.alphas_cumprod.sqrt()
            case "sqrt_one_minus_alphas_cumprod":
                return (1 - self.alphas_cumprod).sqrt()
            case "posterior_variance":
                return self.posterior_variance
            case "posterior_log_variance_clipped":
                return self.posterior_log_variance_clipped
            case "log_variance_large":
                return _log_variance_large(self)
            case "log_betas":
                return self.betas.log()
            case "log_odds_beta":
                return self.betas.logit()
            case "sqrt_alphas":
                return self.alphas.sqrt()
            case "sqrt_betas":
                return self.betas.sqrt()
            case "coef_x_0":
                return self.coef_x_0
            case "coef_x_t":
                return self.coef_x_t
            case "snr":
                return self.snr
            case "log_snr":
                return self.log_snr
            case _:
                assert_never(name)


def make_schedule(betas: Float[Tensor, " T"]) -> NoiseSchedule:
    """Return the chain with these betas.

    Args:
        betas: variance of each step, in (0, 1); at least two. The last may be 1: the chain then
            ends in pure noise. None may be 0, not even the last: such a step adds no noise, so
            that its reverse has the variance 0, whose logarithm the bound needs, and the
            signal-to-noise ratio has no inverse, which the solvers need.

    Raises:
        ConfigError: if they are not, or a step is too small to change abar in float64.
    """
    betas = betas.detach().to("cpu", torch.float64)
    inside = (betas > 0) & (betas < 1)
    if len(betas) < 2 or not bool(inside[:-1].all()) or not 0 < float(betas[-1]) <= 1:
        raise ConfigError(
            f"a chain needs at least two betas, each a variance in (0, 1), the last in (0, 1]; "
            f"there are {len(betas)}, beginning {betas[:3].tolist()} and ending "
            f"{betas[-3:].tolist()}"
        )
    alphas = 1 - betas
    alphas_cumprod = alphas.cumprod(0)
    if float(alphas_cumprod[-2]) == 0:
        raise ConfigError(
            f"betas up to {float(betas.max()):.3g} over {len(betas)} steps leave no signal at all "
            "before the chain's end (abar is 0 in float64); take smaller betas"
        )
    alphas_cumprod_prev = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    if not bool((alphas_cumprod < alphas_cumprod_prev).all()):
        raise ConfigError(
            f"betas down to {float(betas.min()):.3g} add no noise at all in float64 (1 - beta is "
            "1), which is as good as 0; take larger betas, at least 1e-15"
        )
    posterior_variance = betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)
    return NoiseSchedule(
        betas=betas,
        alphas=alphas,
        alphas_cumprod=alphas_cumprod,
        alphas_cumprod_prev=alphas_cumprod_prev,
        posterior_variance=posterior_variance,
        posterior_log_variance_clipped=_first_as_second(posterior_variance).log(),
        coef_x_0=betas * alphas_cumprod_prev.sqrt() / (1 - alphas_cumprod),
        coef_x_t=(1 - alphas_cumprod_prev) * alphas.sqrt() / (1 - alphas_cumprod),
    )


def expand(values: Shaped[Tensor, " b"], like: Images) -> Shaped[Tensor, "b ..."]:
    """Return one number per image, shaped (b, 1, ..., 1) to multiply images with."""
    return values.reshape(-1, *(1 for _ in like.shape[1:]))


def _log_variance_large(schedule: NoiseSchedule) -> Float64[Tensor, " T"]:
    """Return log beta; at index 0, the noise of the decoder, the posterior variance of index 1.

    beta there would cost 0.407 bits/dim.
    """
    return torch.cat([schedule.posterior_variance[1:2], schedule.betas[1:]]).log()


def _first_as_second(values: Float64[Tensor, " T"]) -> Float64[Tensor, " T"]:
    return torch.cat([values[1:2], values[1:]])
