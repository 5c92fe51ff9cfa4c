"""Data of which everything is known: mixtures of Gaussians, and for one Gaussian closed forms.

The noised data are a mixture again, so that the optimal network is a formula, at every noise. With
one component that network is linear: then bound, rate, distortion and what samplers return have
closed forms. Nothing here calls the conversions, bounds or samplers that it is to hold.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_core.diffusion.choices import PredictionKind, Variance
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.schedule import NoiseSchedule
from ddpm_core.diffusion.paths.sigma import sigma_at
from tests.diffusion.chains import normal

BITS = math.log(2)


def row(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@dataclass(frozen=True)
class Mixture:
    """A mixture of k Gaussians in d dimensions, each with a standard deviation per dimension."""

    weights: Tensor
    """(k,)"""
    means: Tensor
    """(k, d)"""
    stds: Tensor
    """(k, d)"""

    def draw(self, num: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        eps = normal(num, self.means.shape[1], seed=seed + 1)
        return self.means[which] + self.stds[which] * eps

    def log_density_at_sigma(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the log density of x = x_0 + sigma eps, x (b, d) and sigma (b,)."""
        return self._joint(x, sigma).logsumexp(1)

    def log_density(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log q(x_t): the density of x, over the volume that x_t = signal x takes."""
        signal, sigma = signal_and_sigma(schedule, t)
        log_density = self.log_density_at_sigma(x_t / signal[:, None], sigma)
        return log_density - x_t.shape[1] * signal.log()

    def eps_at_sigma(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the mean of eps given x: of each component's, by its share in x."""
        share = self._joint(x, sigma).softmax(1)[:, :, None]
        variance = self.stds.square() + sigma.square()[:, None, None]
        eps = sigma[:, None, None] * (x[:, None] - self.means) / variance
        return (share * eps).sum(1)

    def eps(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the optimal prediction for x_t of any shape (b, ...), of d numbers each."""
        signal, sigma = signal_and_sigma(schedule, t)
        x = x_t.double().flatten(1) / signal[:, None]
        return self.eps_at_sigma(x, sigma).reshape(x_t.shape).to(x_t.dtype)

    def denoiser(
        self,
        schedule: NoiseSchedule,
        variance: Variance = "fixed_small",
        prediction: PredictionKind = "eps",
    ) -> NetworkDenoiser:
        """Return the denoiser whose network is exact, whatever it predicts."""

        def network(x_t: Tensor, t: Tensor) -> Tensor:
            eps = self.eps(schedule, x_t, t)
            signal, sigma = (spread(part, x_t) for part in signal_and_sigma(schedule, t))
            x_0 = x_t / signal - sigma * eps
            match prediction:
                case "eps":
                    return eps
                case "x_0":
                    return x_0
                case "v":
                    return signal * eps - signal * sigma * x_0
                case "x_prev" | "drift":
                    beta, abar = spread(schedule.betas[t], x_t), signal.square()
                    mean = (x_t - beta / (1 - abar).sqrt() * eps) / (1 - beta).sqrt()
                    if prediction == "x_prev":
                        return mean
                    return (mean - (1 - beta).sqrt() * x_t) / beta.sqrt()

        return NetworkDenoiser(network, schedule, prediction, variance)

    def _joint(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = self.stds.square() + sigma.square()[:, None, None]
        squares = (x[:, None] - self.means).square() / variance
        parts = -0.5 * (squares + (2 * math.pi * variance).log())
        return self.weights.log() + parts.sum(2)


def signal_and_sigma(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(abar_t) and sigma at t, float64: from the chain itself where t is whole."""
    if t.is_floating_point():
        sigma = sigma_at(schedule, t)
        return (1 + sigma.square()).rsqrt(), sigma
    abar = schedule.alphas_cumprod[t]
    return abar.sqrt(), ((1 - abar) / abar).sqrt()


def spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1 for _ in like.shape[1:])).to(like.dtype)


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std**2), each dimension by itself; mean and std are (d,)."""

    mean: Tensor
    std: Tensor
    schedule: NoiseSchedule

    @property
    def mixture(self) -> Mixture:
        return Mixture(row(1.0), self.mean[None], self.std[None])

    def denoiser(
        self, variance: Variance = "fixed_small", prediction: PredictionKind = "eps"
    ) -> NetworkDenoiser:
        return self.mixture.denoiser(self.schedule, variance, prediction)

    def gain(self) -> Tensor:
        """Return g (T, d), with x_0_hat = mean + g (x_t - sqrt(abar_t) mean)."""
        abar = self.schedule.alphas_cumprod[:, None]
        return abar.sqrt() * self.std.square() / (abar * self.std.square() + 1 - abar)

    def mse(self, x_0: Tensor | None = None) -> Tensor:
        """Return E (x_0 - x_0_hat)**2 per dimension at each t: (T, d), or (b, T, d) for given x_0.

        Over the data it is the posterior variance, the distortion of the progressive code.
        """
        abar, gain = self.schedule.alphas_cumprod[:, None], self.gain()
        bias = self.std.square() if x_0 is None else (x_0 - self.mean).square()[:, None]
        return (1 - gain * abar.sqrt()).square() * bias + gain.square() * (1 - abar)

    def divergences(self, variance: Variance, x_0: Tensor | None = None) -> Tensor:
        """Return the terms of the bound at t = 1 ... T-1 in bits/dim, expected over x_t.

        (T-1,) over the data, or (b, T-1) for given x_0.
        """
        schedule = self.schedule
        true, model = schedule.posterior_variance[1:], self.reverse_variance(variance)[1:]
        error = schedule.coef_x_0[1:].square() * self.mse(x_0).mean(-1)[..., 1:]
        return 0.5 * (-1 + (model / true).log() + (true + error) / model) / BITS

    def prior(self) -> Tensor:
        """Return L_T in bits/dim over the data."""
        abar = self.schedule.alphas_cumprod[-1]
        square = (self.mean.square() + self.std.square()).mean()
        return 0.5 * (-1 - (1 - abar).log() + (1 - abar) + abar * square) / BITS

    def rate(self, variance: Variance) -> Tensor:
        """Return the bits/dim that have come when x_t is known: (T,), falling in t."""
        later = torch.cat([self.divergences(variance), row(0.0)]).flip(0).cumsum(0).flip(0)
        return self.prior() + later

    def reverse_variance(self, variance: Variance) -> Tensor:
        """Return the variance of the reverse steps, (T,); that of t = 0 is the decoder's."""
        schedule = self.schedule
        rest = {"fixed_small": schedule.posterior_variance, "fixed_large": schedule.betas}
        return torch.cat([schedule.posterior_variance[1:2], rest[variance][1:]])

    def ancestral(self, variance: Variance) -> tuple[Tensor, Tensor]:
        """Return mean and variance of what ancestral sampling returns, x_0_hat not clipped."""
        schedule, gain = self.schedule, self.gain()
        mean, spread_ = torch.zeros_like(self.mean), torch.ones_like(self.std)
        added = self.reverse_variance(variance)
        for t in range(schedule.num_timesteps - 1, -1, -1):
            from_x_0, from_x_t = schedule.coef_x_0[t], schedule.coef_x_t[t]
            slope = from_x_0 * gain[t] + from_x_t
            rest = from_x_0 * (1 - gain[t] * schedule.alphas_cumprod[t].sqrt()) * self.mean
            mean = slope * mean + rest
            spread_ = slope.square() * spread_ + (added[t] if t > 0 else 0)
        return mean, spread_

    def ddim(self, eta: float) -> tuple[Tensor, Tensor]:
        """Return mean and variance of what DDIM over all steps returns, x_0_hat not clipped."""
        schedule, gain = self.schedule, self.gain()
        mean, spread_ = torch.zeros_like(self.mean), torch.ones_like(self.std)
        for t in range(schedule.num_timesteps - 1, -1, -1):
            abar, before = schedule.alphas_cumprod[t], schedule.alphas_cumprod_prev[t]
            added = eta**2 * (1 - before) / (1 - abar) * (1 - abar / before)
            along_eps = (1 - before - added).sqrt() / (1 - abar).sqrt()
            along_x_0 = before.sqrt() - along_eps * abar.sqrt()
            slope = along_x_0 * gain[t] + along_eps
            mean = slope * mean + along_x_0 * (1 - gain[t] * abar.sqrt()) * self.mean
            spread_ = slope.square() * spread_ + added
        return mean, spread_

    def flow(self, x: Tensor, begin: float, end: float) -> Tensor:
        """Return where the probability flow leads x = x_0 + sigma eps from sigma to sigma."""
        variance = self.std.square()
        return self.mean + (x - self.mean) * ((variance + end**2) / (variance + begin**2)).sqrt()

    def log_density_of_flow(self, x: Tensor, low: float, high: float) -> Tensor:
        """Return the log density of x under the flow that begins with N(0, 1 + high**2)."""
        prior = torch.distributions.Normal(0.0, math.sqrt(1 + high**2))
        variance = self.std.square()
        spread_ = 0.5 * ((variance + high**2) / (variance + low**2)).log()
        return (prior.log_prob(self.flow(x, low, high)) + spread_).sum(1)


def correlated(
    mean: Tensor, covariance: Tensor, schedule: NoiseSchedule, variance: Variance = "fixed_small"
) -> NetworkDenoiser:
    """Return the exact denoiser of data N(mean, covariance); t must be alike in a batch."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        signal, sigma = (float(part[0]) for part in signal_and_sigma(schedule, t))
        total = covariance + sigma**2 * torch.eye(len(mean), dtype=torch.float64)
        return mean + (x_t / signal - mean) @ torch.linalg.solve(total, covariance)

    return NetworkDenoiser(network, schedule, "x_0", variance)


def affine_moments(
    sample: Callable[[Tensor, Callable[[int], Tensor]], Tensor], num_noises: int, num_dims: int
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a sampler's output, exactly, where it is affine in its noises.

    Row 0 gets no noise at all, row 1 an x_T of 1, and row 2 + n a noise number n of 1: what each
    adds to row 0 is its coefficient. For data that are one Gaussian every sampler is affine.

    Args:
        sample: (x_T, noise) -> images.
        num_noises: noise is drawn for numbers below.
        num_dims: of an image.
    """
    rows = num_noises + 2
    x_T = torch.zeros(rows, num_dims, dtype=torch.float64)
    x_T[1] = 1

    def noise(number: int) -> Tensor:
        value = torch.zeros_like(x_T)
        value[2 + number] = 1
        return value

    images = sample(x_T, noise)
    return images[0], (images[1:] - images[0]).square().sum(0)


def quadrature(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the mean over a standard normal (Gauss and Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))
