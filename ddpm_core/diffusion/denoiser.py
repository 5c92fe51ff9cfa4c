"""What every sampler and bound is given: a path, and what is predicted of an x_t on it.

Two members make a denoiser, so that one can wrap another: the network itself, a part of its steps
(`respacing`), guidance, thresholds, known pixels. Samplers do not depend on which it is.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ddpm_core.diffusion.choices import OutputKind, Variance, require_end_known
from ddpm_core.diffusion.path import Path, chain_of, ends_in_pure_noise
from ddpm_core.diffusion.prediction import Prediction, split_output
from ddpm_core.diffusion.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.diffusion.sigma import time_of_sigma
from ddpm_core.errors import ConfigError


@runtime_checkable
class Network(Protocol):
    """(x_t, t) -> what `prediction` says; with a learned variance, twice the channels (axis 1)."""

    def __call__(self, x_t: Images, t: Times) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """Predicts the image in x_t, on a path."""

    @property
    def path(self) -> Path:
        """On which x_t lies, and whose clock t is."""
        ...

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return what is predicted of x_t at t: of a network, one call."""
        ...


@dataclass(frozen=True)
class NetworkDenoiser:
    """A network, the path it was trained on, and what its output means.

    Raises:
        ConfigError: if the network predicts eps and the path ends in pure noise, or v on a path
            where that is not defined.
    """

    network: Network
    path: Path
    prediction: OutputKind = "eps"
    variance: Variance = "fixed_large"

    def __post_init__(self) -> None:
        require_end_known(self.prediction, ends_in_pure_noise=ends_in_pure_noise(self.path))
        if self.prediction == "v" and not self.path.preserves_variance:
            raise ConfigError(
                "prediction=v is defined where signal**2 + noise**2 is 1, which it is not on "
                f"{self.path}; predict x_0, eps or velocity"
            )

    @property
    def schedule(self) -> NoiseSchedule:
        """The path, which must be a chain.

        Raises:
            ConfigError: if it is none.
        """
        return chain_of(self.path)

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return what the network predicts: one call."""
        value, spread = split_output(self.network(x_t, t), self.variance)
        return Prediction(self.path, x_t, t, value, self.prediction, self.variance, spread)


def eps_at_sigma(denoiser: Denoiser, x: Images, sigma: Float[Tensor, " b"]) -> Images:
    """Return the predicted noise in x = x_0 + sigma eps; arguments as of `at_sigma`.

    It is the probability flow's dx/dsigma.

    Source: Karras et al. 2022, arXiv:2206.00364, eqs. 1 and 3.
    """
    t = time_of_sigma(denoiser.path, sigma)
    scale = expand(denoiser.path.signal_at_sigma(sigma).to(x.dtype), x)
    return denoiser.predict(scale * x, t).eps


def at_sigma(denoiser: Denoiser, x: Images, sigma: Float[Tensor, " b"]) -> Images:
    """Return D(x; sigma), the predicted image, of x = x_0 + sigma eps.

    Args:
        denoiser: on a path between whose times it can be called.
        x: images with noise of that standard deviation and their signal unscaled.
        sigma: of each image; beyond the path's smallest or largest, the network is called at that
            end of the path.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 7 and table 1 (VP).
    """
    return x - expand(sigma.to(x.dtype), x) * eps_at_sigma(denoiser, x, sigma)
