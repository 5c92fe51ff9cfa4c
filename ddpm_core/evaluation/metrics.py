"""From the results of the units to numbers, each with the protocol by which it was measured."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core.config import RunConfig, identity
from ddpm_core.diffusion.likelihood import LikelihoodTerms
from ddpm_core.diffusion.rate_distortion import rate_distortion
from ddpm_core.errors import DivergenceError
from ddpm_core.evaluation.moments import Moments, frechet_distance, merge, moments_of
from ddpm_core.evaluation.scores import inception_score
from ddpm_core.evaluation.worker import (
    FeaturePart,
    FeatureUnit,
    LikelihoodPart,
    LikelihoodUnit,
    Result,
    Source,
    Unit,
)
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.sampling.sampler import describe


@dataclass(frozen=True)
class Bound:
    """The variational bound of n images in bits/dim; row i is image i."""

    prior: NDArray[np.float64]
    """(n,)"""
    terms: NDArray[np.float64]
    """(n, T); column 0 is the decoder's"""
    mse: NDArray[np.float64]
    """(n, T), of the predicted x_0, where images span [-1, 1]"""

    @property
    def total(self) -> NDArray[np.float64]:
        """(n,)"""  # noqa: D415
        total: NDArray[np.float64] = self.prior + self.terms.sum(axis=1)
        return total

    def as_tensors(self) -> LikelihoodTerms:
        """Return the same for the functions of `diffusion.rate_distortion`."""
        total, prior, terms, mse = map(
            torch.from_numpy, (self.total, self.prior, self.terms, self.mse)
        )
        return LikelihoodTerms(total=total, prior=prior, terms=terms, mse=mse)

    def rate(self) -> NDArray[np.float64]:
        """Return (T,): mean bits/dim that a receiver has got once it holds x_t, code index t."""
        return rate_distortion(self.as_tensors()).rate.numpy()

    def distortion(self) -> NDArray[np.float64]:
        """Return (T,): mean over images of the root mean squared error of x_0_hat, in levels."""
        return rate_distortion(self.as_tensors()).rmse.numpy()


@dataclass
class Collector:
    """Takes results as they come and puts them together in the order of the images.

    Features are reduced to moments as soon as their turn has come: what is kept does not grow
    with their number.
    """

    _parts: dict[int, LikelihoodPart] = field(default_factory=dict)
    _features: dict[Source, dict[int, torch.Tensor]] = field(default_factory=dict)
    _moments: dict[Source, Moments] = field(default_factory=dict)
    _probabilities: dict[Source, dict[int, torch.Tensor]] = field(default_factory=dict)

    def add(self, unit: Unit, result: Result) -> None:
        """Take the result of a unit."""
        if isinstance(unit, LikelihoodUnit) and isinstance(result, LikelihoodPart):
            self._parts[unit.start] = result
        elif isinstance(unit, FeatureUnit) and isinstance(result, FeaturePart):
            waiting = self._features.setdefault(unit.source, {})
            # Copies: what Ray hands out is read-only.
            waiting[unit.start] = torch.tensor(result.features)
            self._fold(unit.source, waiting)
            if result.probabilities is not None:
                seen = self._probabilities.setdefault(unit.source, {})
                seen[unit.start] = torch.tensor(result.probabilities)

    def _fold(self, source: Source, waiting: dict[int, torch.Tensor]) -> None:
        while True:
            before = self._moments.get(source)
            features = waiting.pop(before.count if before else 0, None)
            if features is None:
                return
            moments = moments_of(features)
            self._moments[source] = merge([before, moments]) if before else moments

    def bound(self) -> Bound:
        """Return the bound of all images, when all units are in."""
        parts = [self._parts[start] for start in sorted(self._parts)]
        return Bound(
            np.concatenate([part.prior for part in parts]),
            np.concatenate([part.terms for part in parts]),
            np.concatenate([part.mse for part in parts]),
        )

    def moments(self) -> dict[Source, Moments]:
        """Return the moments of each set of images, when all units are in."""
        return dict(self._moments)

    def probabilities(self) -> dict[Source, torch.Tensor]:
        """Return (n, classes) of each set whose classes were looked at, when all units are in."""
        return {
            source: torch.cat([parts[start] for start in sorted(parts)])
            for source, parts in self._probabilities.items()
        }


def bits_per_dim_metric(
    bound: Bound, config: RunConfig, weights: dict[str, Any], *, num_test_images: int
) -> dict[str, Any]:
    """Return bits/dim of the held-out images, its parts and its protocol.

    Args:
        bound: of the images.
        config: the run.
        weights: which weights these are.
        num_test_images: held-out images there are.

    Raises:
        DivergenceError: if the bound of an image is not finite.
    """
    total, wanted = bound.total, config.evaluate.num_likelihood_images
    count = len(total)
    if not np.isfinite(total).all():
        first = int(np.flatnonzero(~np.isfinite(total))[0])
        raise DivergenceError(
            f"the bound of held-out image {first} is {total[first]}: the network's prediction is "
            "no number there. Look at the training loss; train.precision=float32 may help"
        )
    return {
        "value": float(total.mean()),
        # Over the images; each has one draw of the noise per step.
        "standard_error": float(total.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        "prior": float(bound.prior.mean()),
        "rate": float(bound.terms[:, 1:].sum(axis=1).mean()),
        "decoder": float(bound.terms[:, 0].mean()),
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "bound": "variational, Ho et al. 2020 eq. 5, discretised Gaussian decoder (eq. 13)",
            "images": "held out, uint8 levels, no dequantisation",
            "num_images": count,
            "num_test_images": num_test_images,
            **identity.counted("diffusion", config.diffusion),  # every key of it changes the bound
            "timesteps": "every one, x_t drawn once for each image",
            "clip_x_0": True,
            "seed": config.evaluate.seed,
            # Of a folder that holds less than the published files: else the configuration knows.
            "warnings": [f"{wanted} images were asked for, and {num_test_images} are held out"]
            if num_test_images < wanted
            else [],
        },
    }


def frechet_metric(
    moments: dict[Source, Moments],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    network: dict[str, Any],
) -> dict[str, Any]:
    """Return the Frechet distances between samples, held-out and training images.

    `test_train` is the floor: what images that no model made measure at these numbers of images.

    Args:
        moments: of the features of the three sets.
        config: the run.
        weights: which weights made the samples.
        network: what to say of the feature network.
    """
    sample = config.sample
    samples_test = frechet_distance(moments["samples"], moments["test"])
    dim = moments["samples"].dim
    num_images = {source: moments[source].count for source in ("samples", "test", "train")}
    return {
        "value": samples_test,
        "samples_test": samples_test,
        "samples_train": frechet_distance(moments["samples"], moments["train"]),
        "test_train": frechet_distance(moments["test"], moments["train"]),
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "features": {**network, "dim": dim},
            "num_images": num_images,
            "images": "uint8, as they are stored",
            "covariance": "unbiased, float64",
            **describe(sample, config.diffusion.num_timesteps),
            **identity.counted("diffusion", config.diffusion),  # and the samples
            "warnings": [
                f"{count} {source} images for {dim} features: the covariance is barely "
                f"determined and the distance biased upwards; use at least {2 * dim}"
                for source, count in num_images.items()
                if count < 2 * dim
            ],
        },
    }


def no_frechet_metric(weights: dict[str, Any], *, reason: str) -> dict[str, Any]:
    """Return what stands for the Frechet distances where none can be measured.

    Args:
        weights: which weights made the samples.
        reason: why, and what to do.
    """
    return {
        "value": None,
        "samples_test": None,
        "samples_train": None,
        "test_train": None,
        "reason": reason,
        "protocol": {"version": PROTOCOL_VERSION, **weights},
    }


def inception_metric(
    probabilities: dict[Source, torch.Tensor],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    network: dict[str, Any],
) -> dict[str, Any] | None:
    """Return the inception score of the samples and of the held-out images; None without classes.

    Args:
        probabilities: of the classes, of both sets.
        config: the run.
        weights: which weights made the samples.
        network: what to say of the network whose classes these are.
    """
    if not probabilities:
        return None
    samples, test = probabilities["samples"], probabilities["test"]
    return {
        "value": inception_score(samples).value,
        "test": inception_score(test).value,
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "features": network,
            "num_classes": samples.shape[1],
            "num_images": {"samples": len(samples), "test": len(test)},
            "splits": 1,
            **describe(config.sample, config.diffusion.num_timesteps),
            **identity.counted("diffusion", config.diffusion),
        },
    }


def likelihood_artifact(bound: Bound) -> dict[str, Any]:
    """Return the curves over the timesteps and the values of the images, as JSON values."""
    terms, count = bound.terms, len(bound.prior)
    error = terms.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(terms.shape[1])
    return {
        "unit": "bits/dim; distortion: levels of 0...255; lists over t run from code t=0 to T-1",
        "terms": terms.mean(axis=0).tolist(),
        "terms_standard_error": error.tolist(),
        "rate": bound.rate().tolist(),
        # The paper does not say whether the root is taken before or after the mean over images.
        "distortion": bound.distortion().tolist(),
        "distortion_root_of_mean": rate_distortion(bound.as_tensors()).rmse_of_mean.tolist(),
        "images": {
            "total": bound.total.tolist(),
            "prior": bound.prior.tolist(),
            "decoder": terms[:, 0].tolist(),
        },
    }
