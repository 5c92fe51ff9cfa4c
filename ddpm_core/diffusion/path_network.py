"""How a network is called on a path in continuous time, in the form of each paper.

Networks embed the time they are given in sines and cosines whose longest period is some 60,000, as
the paper's chain of 1000 steps needs it. A path's time of 0 to 1 must be spread over such a range.

Source: Song et al. 2021, arXiv:2011.13456, appendix H and code (999 t; for VE log sigma); Karras
et al. 2022, arXiv:2206.00364, eq. 7 and table 1 (preconditioning); Esser et al. 2024,
arXiv:2403.03206, code (1000 t).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.diffusion.denoiser import Network
from ddpm_core.diffusion.paths.path import ContinuousPath
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.diffusion.times import Times as Distribution
from ddpm_core.diffusion.wrappers.respacing import chain_at


@dataclass(frozen=True)
class Form:
    """How a network is called."""

    time_scale: float | None = None
    """it is given the path's time, times this; None: the logarithm of sigma"""
    log_sigma_scale: float = 1.0
    """times which log sigma is given, without `time_scale`"""
    sigma_data: float | None = None
    """standard deviation of the images: it is preconditioned, see `PathNetwork`; None: as it is"""

    def clock(self, path: ContinuousPath, t: Times) -> Float64[Tensor, " b"]:
        """Return what the network is given for the time t."""
        if self.time_scale is not None:
            return self.time_scale * t.double()
        return -0.5 * self.log_sigma_scale * path.log_snr_at(t)


@dataclass(frozen=True, eq=False)
class PathNetwork:
    """A `Network` of x_t and times of a path, around one that is called in a form of its own.

    With `sigma_data` = s it predicts x_0, as c_skip x + c_out F(c_in x; c_noise) of x = x_0 +
    sigma eps, where c_skip = s**2 / (sigma**2 + s**2), c_out = sigma s / sqrt(sigma**2 + s**2),
    c_in = 1 / sqrt(sigma**2 + s**2): then what F has to say has variance 1 at every sigma.

    Source: Karras et al. 2022, eq. 7 and table 1; appendix B.6 derives them.
    """

    network: Network
    path: ContinuousPath
    form: Form

    def __call__(self, x_t: Images, t: Times, conditioning: Conditioning = NOTHING) -> Tensor:
        """Return the output for x_t at the path's time t."""
        clock = self.form.clock(self.path, t)
        if self.form.sigma_data is None:
            return _call(self.network, x_t, clock, conditioning)
        signal, noise = self.path.signal_and_noise(t, x_t)
        x, sigma, s = x_t / signal, noise / signal, self.form.sigma_data
        root = (sigma.square() + s**2).sqrt()
        inside = _call(self.network, x / root, clock, conditioning)
        return s**2 / root.square() * x + sigma * s / root * inside.to(x.dtype)


@dataclass(frozen=True, eq=False)
class ChainNetwork:
    """A `Network` of a chain of steps, around one of the path that the chain was made of.

    A time of the chain, whole or in between, is where the path has the same signal-to-noise ratio;
    the chain preserves variance, and its x_t is scaled to the path's. What is predicted (x_0, eps
    or the velocity; v on a path that preserves variance) means the same on both.
    """

    network: Network
    path: ContinuousPath
    chain: NoiseSchedule

    def __call__(self, x_t: Images, t: Times, conditioning: Conditioning = NOTHING) -> Tensor:
        """Return the output for the chain's x_t at its code index t."""
        time = self.path.time_at(self.chain.log_snr_at(t))
        if not self.path.preserves_variance:
            signal, noise = self.path.marginal(time)
            x_t = expand((signal.square() + noise.square()).sqrt().to(x_t.dtype), x_t) * x_t
        return _call(self.network, x_t, time, conditioning)


def chain_of_path(
    path: ContinuousPath, num_timesteps: int, times: Distribution | None = None
) -> NoiseSchedule:
    """Return the chain of T times of the path, up to its end.

    Args:
        path: the path. On the variance preserving one, at equal distances, the chain is nearly that
            of `make_betas("linear", T)`.
        num_timesteps: T.
        times: between two of the chain's times lies 1/T of these; None: equal distances of time.
    """
    start, end = path.time_range
    if times is None:
        chosen = torch.linspace(0, end, num_timesteps + 1, dtype=torch.float64)[1:]
    else:
        chosen = times.at(torch.arange(1, num_timesteps + 1, dtype=torch.float64) / num_timesteps)
    return chain_at(path, chosen.clamp(min=start, max=end))


def _call(network: Network, x: Images, t: Times, conditioning: Conditioning) -> Tensor:
    """Call it as `Network` says: without conditioning with x_t and t alone."""
    return network(x, t, conditioning) if conditioning.parts else network(x, t)
