"""What an actor does: the bound of a chunk of held-out images, the features of a chunk of images.

Chunks are fixed: they do not depend on the number of workers. Results are put together in the
order of the chunks, not of their arrival, so that neither shows in the last bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.cluster import GetDevice
from ddpm_core.config import EvaluateConfig, RunConfig
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.likelihood import bits_per_dim
from ddpm_core.evaluation.desk import Desk
from ddpm_core.loading.loader import to_unit_range

Source = Literal["samples", "test", "train"]

_NUM_LIKELIHOOD_UNITS = 8
_MIN_LIKELIHOOD_IMAGES = 16
_FEATURE_UNIT_IMAGES = 2500


@dataclass(frozen=True)
class LikelihoodUnit:
    """The bound of the held-out images start ... stop - 1."""

    start: int
    stop: int


@dataclass(frozen=True)
class FeatureUnit:
    """The features of the images start ... stop - 1 of a set; of samples, one unit of them."""

    source: Source
    start: int
    stop: int


Unit = LikelihoodUnit | FeatureUnit


@dataclass(frozen=True)
class LikelihoodPart:
    """The parts of the bound of n images in bits/dim, and the errors, as `LikelihoodTerms`."""

    prior: NDArray[np.float64]
    """(n,)"""
    terms: NDArray[np.float64]
    """(n, T)"""
    mse: NDArray[np.float64]
    """(n, T)"""


@dataclass(frozen=True)
class FeaturePart:
    """Where the images of a unit lie, and, of samples and held-out images, what they show."""

    features: NDArray[np.float32]
    """(n, d)"""
    probabilities: NDArray[np.float32] | None
    """(n, classes); None if the network has no classes"""


Result = LikelihoodPart | FeaturePart


def likelihood_units(evaluate: EvaluateConfig, num_test_images: int) -> list[LikelihoodUnit]:
    """Cut the first `num_likelihood_images` held-out images into about eight chunks."""
    total = min(evaluate.num_likelihood_images, num_test_images)
    size = max(_MIN_LIKELIHOOD_IMAGES, ceil(total / _NUM_LIKELIHOOD_UNITS))
    size = min(size, evaluate.batch_size)
    return [LikelihoodUnit(start, min(start + size, total)) for start in range(0, total, size)]


def feature_units(config: RunConfig, num_train: int, num_test: int) -> list[FeatureUnit]:
    """Cut the training images, the held-out ones and the samples into chunks, in that order."""
    sizes: list[tuple[Source, int, int]] = [
        ("train", num_train, _FEATURE_UNIT_IMAGES),
        ("test", num_test, _FEATURE_UNIT_IMAGES),
        ("samples", config.sample.num_images, config.sample.unit_size),
    ]
    return [
        FeatureUnit(source, start, min(start + size, total))
        for source, total, size in sizes
        for start in range(0, total, size)
    ]


def likelihood_part(
    denoiser: Denoiser,
    images_u8: Tensor,
    positions: Tensor,
    *,
    seed: int,
) -> LikelihoodPart:
    """Return the bound of held-out images (n, c, h, w), each with noise of its own.

    Args:
        denoiser: on the device of `positions`.
        images_u8: uint8.
        positions: (n,) place of each image in the held-out split: the noise is a function of
            (seed, t, position), whatever stands beside the image.
        seed: of the noise.
    """
    key = seeding.key(seed, "likelihood")
    shape = tuple(images_u8.shape[1:])
    with torch.inference_mode():
        found = bits_per_dim(
            denoiser,
            to_unit_range(images_u8, positions.device),
            noise=lambda t: seeding.normal(key, t, positions, shape),
        )
    prior, terms, mse = (
        part.to("cpu", torch.float64).numpy() for part in (found.prior, found.terms, found.mse)
    )
    return LikelihoodPart(prior, terms, mse)


def make_worker(payload: dict[str, Any], get_device: GetDevice) -> Callable[[Unit], Result]:
    """Return the function that works on a unit; what it needs is read when it is first needed."""
    desk = Desk.of(payload, get_device())
    return lambda unit: work(desk, unit)


def work(desk: Desk, unit: Unit) -> Result:
    """Return what a unit finds."""
    match unit:
        case LikelihoodUnit(start, stop):
            return likelihood_part(
                desk.denoiser,
                desk.test.images(start, stop),
                torch.arange(start, stop, device=desk.device),
                seed=desk.config.evaluate.seed,
            )
        case FeatureUnit():
            classify = None if unit.source == "train" else desk.network.classify
            features, probabilities = [], []
            for images_u8 in _batches(desk, unit):
                features.append(desk.rows(desk.network.embed, images_u8).numpy())
                if classify is not None:
                    probabilities.append(desk.rows(classify, images_u8).numpy())
            return FeaturePart(
                np.concatenate(features), np.concatenate(probabilities) if probabilities else None
            )
        case _:
            assert_never(unit)


def _batches(desk: Desk, unit: FeatureUnit) -> Iterator[Tensor]:
    match unit.source:
        case "train":
            return desk.batches(desk.train, unit.start, unit.stop)
        case "test":
            return desk.batches(desk.test, unit.start, unit.stop)
        case "samples":
            return iter([desk.sampled(unit.start // desk.config.sample.unit_size)])
        case _:
            assert_never(unit.source)
