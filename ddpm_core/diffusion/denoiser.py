"""What every sampler and bound is given: a path, and what is predicted of an x_t on it.

Two members make a denoiser, so that one can wrap another: the network itself, a part of its steps
(`respacing`), guidance, thresholds, known pixels. Samplers do not depend on which it is.

What the images are of is bound to a denoiser before it is given to a sampler (`given`): a sampler
knows no conditioning either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm_core.conditioning import DROPPED, NOTHING, Conditioning, Known, LowRes, cat
from ddpm_core.diffusion.choices import OutputKind, Variance, require_end_known
from ddpm_core.diffusion.paths.path import Path, chain_of, ends_in_pure_noise
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.paths.sigma import time_of_sigma
from ddpm_core.diffusion.prediction import Prediction, split_output
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.errors import ConfigError


@runtime_checkable
class Network(Protocol):
    """(x_t, t, conditioning) -> what `prediction` says, and twice the channels (axis 1) if it says
    the variance too.

    Of a denoiser without conditioning it is called with x_t and t alone.
    """

    def __call__(self, x_t: Images, t: Times, conditioning: Conditioning = NOTHING) -> Tensor: ...


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
    """A network, the path it was trained on, what its output means, and what x_t are of.

    Raises:
        ConfigError: if the network predicts eps and the path ends in pure noise, or v on a path
            where that is not defined.
    """

    network: Network
    path: Path
    prediction: OutputKind = "eps"
    variance: Variance = "fixed_large"
    conditioning: Conditioning = NOTHING
    """of each x_t, or one row for all of them"""
    null: Conditioning = NOTHING
    """one row: the conditioning that says nothing, as the network was trained with it"""

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

    def given(self, conditioning: Conditioning) -> "NetworkDenoiser":
        """Return the denoiser of images with this conditioning.

        Args:
            conditioning: of each image of the batches it will be called with, or one row for all.
                Without `known`, as much is known of them as before; so it is of `low` and
                `augment`.
        """
        own = self.conditioning
        kept = replace(
            conditioning,
            known=own.known if conditioning.known is None else conditioning.known,
            low=own.low if conditioning.low is None else conditioning.low,
            augment=own.augment if conditioning.augment is None else conditioning.augment,
        )
        return replace(self, conditioning=kept)

    def knowing(self, known: Known) -> "NetworkDenoiser":
        """Return the denoiser of images of which this is known, if its network is given that."""
        if self.conditioning.known is None:
            return self
        return replace(self, conditioning=replace(self.conditioning, known=known))

    def enlarging(self, low: LowRes) -> "NetworkDenoiser":
        """Return the denoiser of images of this low resolution, if its network is given that."""
        if self.null.low is None:
            return self
        return replace(self, conditioning=replace(self.conditioning, low=low))

    def given_nothing(self) -> "NetworkDenoiser":
        """Return the denoiser of images of which nothing is said, but what is known of them
        and their low resolution.
        """
        return self.given(self.null.only(DROPPED))

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return what the network predicts: one call.

        Raises:
            DataError: the conditioning is of another number of images, or not what the network
                takes.
        """
        if not self.conditioning.parts:
            return self.reading(self.network(x_t, t), x_t, t)
        rows = self.conditioning.repeated(len(x_t))
        return self.reading(self.network(x_t, t, rows), x_t, t)

    def reading(self, output: Tensor, x_t: Images, t: Times) -> Prediction:
        """Return what this output of the network says of x_t."""
        value, spread = split_output(output, self.variance)
        return Prediction(self.path, x_t, t, value, self.prediction, self.variance, spread)


def predict_each(denoisers: Sequence[Denoiser], x_t: Images, t: Times) -> list[Prediction]:
    """Return what each denoiser predicts of the same x_t.

    Where they are of one network and differ in their conditioning alone it is called once, with a
    batch for each of them; the results differ from those of several calls by rounding.

    Args:
        denoisers: at least one.
        x_t: as of `Denoiser.predict`.
        t: as of `Denoiser.predict`.
    """
    if len(denoisers) == 1 or not _are_of_one_network(denoisers):
        return [one.predict(x_t, t) for one in denoisers]
    count = len(denoisers)
    rows = cat([one.conditioning.repeated(len(x_t)) for one in denoisers])
    output = denoisers[0].network(torch.cat([x_t] * count), torch.cat([t] * count), rows)
    parts = zip(denoisers, output.chunk(count), strict=True)
    return [one.reading(part, x_t, t) for one, part in parts]


def _are_of_one_network(denoisers: Sequence[Denoiser]) -> TypeGuard[Sequence[NetworkDenoiser]]:
    first = denoisers[0]
    return isinstance(first, NetworkDenoiser) and all(
        isinstance(one, NetworkDenoiser)
        and one.network is first.network
        and one.path is first.path
        and (one.prediction, one.variance) == (first.prediction, first.variance)
        and one.conditioning.parts == first.conditioning.parts != frozenset()
        for one in denoisers
    )


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
