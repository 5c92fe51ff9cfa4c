"""From the results of the units to numbers, each with the protocol by which it was measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core.config import BinomialConfig, ContinuousConfig, RunConfig, identity
from ddpm_core.diffusion.measures.likelihood import LikelihoodTerms
from ddpm_core.diffusion.measures.rate_distortion import rate_distortion
from ddpm_core.errors import DivergenceError
from ddpm_core.evaluation.distances.moments import frechet_distance
from ddpm_core.evaluation.numbers.seen import Seen
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.sampling.sampler import describe
from ddpm_core.units.ranges import Arrays


@dataclass(frozen=True)
class Bound:
    """The variational bound of n images in bits/dim; row i is image i."""

    prior: NDArray[np.float64]
    """(n,)"""
    terms: NDArray[np.float64]
    """(n, T); column 0 is the decoder's"""
    mse: NDArray[np.float64]
    """(n, T), of the predicted x_0, where images span [-1, 1]"""

    @classmethod
    def of(cls, parts: Iterator[Arrays]) -> Self:
        """Return the bound that `likelihood_part` found in parts, in the order of the images."""
        rows = list(parts)
        return cls(
            *(torch.cat([row[name] for row in rows]).numpy() for name in ("prior", "terms", "mse"))
        )

    @property
    def total(self) -> NDArray[np.float64]:
        """(n,)"""  # noqa: D415
        total: NDArray[np.float64] = self.prior + self.terms.sum(axis=1)
        return total

    def as_tensors(self) -> LikelihoodTerms:
        """Return the same for the functions of `diffusion.measures.rate_distortion`."""
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
            **_bound_of(config),
            **given_as(config),
            "num_images": count,
            "num_test_images": num_test_images,
            **identity.counted("diffusion", config.diffusion),  # every key of it changes the bound
            **(
                {"chain": "num_timesteps steps, at equal distances in the path's time"}
                if isinstance(config.diffusion, ContinuousConfig)
                else {}
            ),
            "timesteps": "every one, x_t drawn once for each image",
            **({} if isinstance(config.diffusion, BinomialConfig) else {"clip_x_0": True}),
            "seed": config.evaluate.seed,
            # Of a folder that holds less than the published files: else the configuration knows.
            "warnings": [f"{wanted} images were asked for, and {num_test_images} are held out"]
            if num_test_images < wanted
            else [],
        },
    }


def _bound_of(config: RunConfig) -> dict[str, str]:
    """Return which bound is measured, and of what."""
    if isinstance(config.diffusion, BinomialConfig):
        return {
            "bound": "variational, Sohl-Dickstein et al. 2015 eq. 14, independent bits",
            "images": "held out, bits",
        }
    return {
        "bound": "variational, Ho et al. 2020 eq. 5, discretised Gaussian decoder (eq. 13)",
        "images": f"held out, {config.data.dtype} levels, no dequantisation",
    }


def flow_metric(
    bits: NDArray[np.float64], config: RunConfig, weights: dict[str, Any]
) -> dict[str, Any]:
    """Return bits/dim of the held-out images through the probability flow, and its protocol.

    Args:
        bits: (n,) of each image.
        config: the run, in continuous time.
        weights: which weights these are.

    Raises:
        DivergenceError: if that of an image is not finite.
    """
    count = len(bits)
    if not np.isfinite(bits).all():
        first = int(np.flatnonzero(~np.isfinite(bits))[0])
        raise DivergenceError(
            f"bits/dim of held-out image {first} through the probability flow are {bits[first]}: "
            "the network's prediction is no number on the way; train.precision=float32 may help"
        )
    return {
        "value": float(bits.mean()),
        # Over the images; each has one dequantisation and one probe.
        "standard_error": float(bits.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "likelihood": "probability flow, Song et al. 2021 eqs. 39 and 40, from the path's "
            "beginning to N(0, 1 + sigma_max**2)",
            "images": "held out, uniformly dequantised in bins of equal width",
            **given_as(config),
            "num_images": count,
            **identity.counted("diffusion", config.diffusion),
            "solver": "Runge and Kutta's of order 4, sigma**(1/7) at equal steps, float64",
            "steps": config.evaluate.ode_steps,
            "divergence": "Hutchinson's estimate, one Rademacher probe",
            "clip_x_0": False,
            "seed": config.evaluate.seed,
        },
    }


def frechet_metric(
    seen: Mapping[str, Seen],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    network: dict[str, Any],
) -> dict[str, Any]:
    """Return the Frechet distances between samples, held-out and training images.

    `test_train` is the floor: what images that no model made measure at these numbers of images.

    Args:
        seen: the three sets: samples, test and train.
        config: the run.
        weights: which weights made the samples.
        network: what to say of the feature network.
    """
    sample = config.sample
    moments = {source: seen[source].moments for source in ("samples", "test", "train")}
    samples_test = frechet_distance(moments["samples"], moments["test"])
    dim = moments["samples"].dim
    num_images = {source: one.count for source, one in moments.items()}
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
            "images": seen_as(config),
            "covariance": "unbiased, float64",
            **describe(
                sample,
                config.diffusion.num_timesteps,
                num_classes=config.num_classes,
                takes_text=config.model.uses_text,
                enlarges=config.model.low_size is not None,
            ),
            **identity.counted("diffusion", config.diffusion),  # and the samples
            "warnings": [
                f"{count} {source} images for {dim} features: the covariance is barely "
                f"determined and the distance biased upwards; use at least {2 * dim}"
                for source, count in num_images.items()
                if count < 2 * dim
            ],
        },
    }


def given_as(config: RunConfig) -> dict[str, str]:
    """Return what a protocol says of what the network is given of each image; {}: nothing."""
    given = []
    if config.model.uses_text:
        given.append("the first caption of each image")
    elif config.num_classes is not None:
        given.append("the label of each image")
    if config.model.low_size is not None:
        (height, width), level = config.model.low_size, config.sample.low_level
        noise = f", noised for {level:g} of the process" if level else ""
        given.append(f"its low resolution of {height}x{width}{noise}")
    return {"conditioning": ", and ".join(given)} if given else {}


def seen_as(config: RunConfig) -> str:
    """Return what a protocol says of how the images of a run reach a feature network."""
    if config.data.depth == 8:
        return "uint8, as they are stored"
    return f"uint8, rounded from {config.data.depth} bits"


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
    seen: Mapping[str, Seen],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    network: dict[str, Any],
) -> dict[str, Any] | None:
    """Return the inception score of the samples and of the held-out images; None without classes.

    Args:
        seen: both sets: samples and test.
        config: the run.
        weights: which weights made the samples.
        network: what to say of the network whose classes these are.
    """
    samples, test = seen["samples"], seen["test"]
    if samples.score is None:
        return None
    return {
        "value": samples.score,
        "test": test.score,
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "features": network,
            "num_classes": samples.num_classes,
            "num_images": {"samples": samples.moments.count, "test": test.moments.count},
            "splits": 1,
            **describe(
                config.sample,
                config.diffusion.num_timesteps,
                num_classes=config.num_classes,
                takes_text=config.model.uses_text,
                enlarges=config.model.low_size is not None,
            ),
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
