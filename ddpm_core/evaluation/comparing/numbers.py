"""Two sets of images under one feature network: every number, in words and with its doubts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.config.measure import Metric
from ddpm_core.evaluation.distances import kernels, sliced
from ddpm_core.evaluation.distances import neighbours as balls
from ddpm_core.evaluation.distances.estimate import Estimate
from ddpm_core.evaluation.distances.frechet import frechet_estimate
from ddpm_core.evaluation.distances.moments import Moments, merge, moments_of
from ddpm_core.evaluation.distances.scores import inception_score
from ddpm_core.permutation import keyed_permutation

MAX_ROWS = 50_000
"""images of a set whose features are compared one by one, as many as most publish; drawn, where
there are more: sets often lie class by class"""
_SPLITS = 10
_ORDER = b"images that are compared"
_FEW_IMAGES = 1000
_FEW_FOR_SCORE = 5000


@dataclass(frozen=True)
class Looked:
    """What the network said of a set of images."""

    num_images: int
    """0: of statistics that do not say"""
    moments: Moments
    features: Tensor | None = None
    """(n, d) float32 of the images `rows`; None of statistics alone"""
    probabilities: Tensor | None = None
    """(n, K); None where the network has no classes"""
    spatial: Moments | None = None
    spatial_rows: Tensor | None = None
    rows: Tensor | None = None
    """(n,) which images those are, in ascending order"""


def compared(metric: Metric, made: Looked, real: Looked, *, seed: int) -> dict[str, Any]:
    """Return a number of two sets, or a pair of numbers, each with its interval; JSON values.

    Args:
        metric: which; of `intervals` the Frechet distance.
        made: the set that is judged.
        real: the set that it is judged by.
        seed: of subsets and directions.

    Raises:
        DataError: there are too few images for any number.
    """
    match metric:
        case "intervals":
            return frechet_estimate(
                made.moments, real.moments, made.features, real.features
            ).as_json()
        case "spatial_distance":
            if made.spatial is None or real.spatial is None:
                raise ValueError("no maps were looked at")
            return frechet_estimate(
                made.spatial, real.spatial, made.spatial_rows, real.spatial_rows
            ).as_json()
    x, y = _rows(made), _rows(real)
    match metric:
        case "kernel_distance":
            found = kernels.kernel_distance(x, y, seed=seed)
            return {
                **found.estimate.as_json(),
                "standard_deviation": found.standard_deviation,
                "num_subsets": found.num_subsets,
                "subset_size": found.subset_size,
            }
        case "gaussian_distance":
            return kernels.gaussian_distance(x, y).as_json()
        case "sliced_distance":
            lines = sliced.sliced_distance(x, y, seed=seed)
            return {**lines.mind.as_json(), "wasserstein": lines.wasserstein}
        case "precision_recall" | "density_coverage":
            near = balls.neighbours(x, y)
            names = metric.split("_")
            return {name: getattr(near, name).as_json() for name in names}
        case _:
            assert_never(metric)


def score_of(looked: Looked) -> dict[str, Any] | None:
    """Return the inception score in ten splits, as most publish it; None without classes.

    The images are shuffled, as torch-fidelity does: in splits of one class each it would be 1.
    """
    if looked.probabilities is None:
        return None
    count = len(looked.probabilities)
    splits = min(_SPLITS, count)
    order = keyed_permutation(_ORDER, count, np.arange(count))
    found = inception_score(looked.probabilities[torch.from_numpy(order)], splits=splits)
    return {
        **Estimate(found.value, found.interval).as_json(),
        "standard_deviation": found.standard_deviation,
        "splits": splits,
    }


def words_of(metric: Metric) -> dict[str, Any]:
    """Return what a protocol says of a number."""
    rows = {} if metric in _OF_MOMENTS else {"rows": f"{MAX_ROWS} drawn, where there are more"}
    return {**_WORDS[metric], **rows}


def doubts_of(metric: Metric, made: Looked, real: Looked) -> list[str]:
    """Return what these numbers of images cannot carry, a sentence each."""
    return list(_doubts(metric, made, real))


def frechet_doubts(made: Looked, real: Looked, *, spatial: bool = False) -> list[str]:
    """Return the doubts of a Frechet distance."""
    moments = made.spatial if spatial else made.moments
    dim = made.moments.dim if moments is None else moments.dim
    return [
        f"{one.num_images} {name} images for {dim} features: "
        + (
            "the covariance is singular, and the distance says little; "
            if one.num_images <= dim
            else "the covariance is barely determined and the distance biased upwards; "
        )
        + f"use at least {2 * dim}, or kernel_distance, which is unbiased"
        for name, one in (("made", made), ("real", real))
        if 0 < one.num_images < 2 * dim
    ]


def _doubts(metric: Metric, made: Looked, real: Looked) -> Iterator[str]:
    count = min(made.num_images, real.num_images)
    if metric in _OF_MOMENTS:
        yield from frechet_doubts(made, real, spatial=metric == "spatial_distance")
    if metric == "kernel_distance" and count < 2 * kernels.SUBSET_SIZE:
        yield (
            f"subsets of {max(2, count // 2)} images instead of {kernels.SUBSET_SIZE}: the mean is "
            "unbiased all the same, its interval wide"
        )
    if metric in ("precision_recall", "density_coverage") and count < _FEW_IMAGES:
        yield (
            f"{count} images: balls around so few reach far, and the shares depend on the number; "
            f"compare equal numbers, of at least {_FEW_IMAGES}"
        )
    compared_ones = [min(one.num_images, MAX_ROWS) for one in (made, real)]
    if metric in ("gaussian_distance", "sliced_distance") and len(set(compared_ones)) > 1:
        yield (
            f"{' and '.join(map(str, compared_ones))} images: the estimate is biased upwards by "
            "the smaller set; compare with numbers of equally many"
        )
    if metric in ("gaussian_distance", "sliced_distance") and count < _FEW_IMAGES:
        yield (
            f"{count} images: the estimate is biased upwards, also of two sets of real images; use "
            f"at least {_FEW_IMAGES}, or hold it against what as many real ones measure"
        )
    scored = 0 if made.probabilities is None else len(made.probabilities)
    if metric == "intervals" and 0 < scored < _FEW_FOR_SCORE:
        yield (
            f"{scored} images in {_SPLITS} splits: the inception score is biased downwards; use at "
            f"least {_FEW_FOR_SCORE}"
        )


def _rows(looked: Looked) -> Tensor:
    if looked.features is None:
        raise ValueError("statistics alone have no images to compare")
    return looked.features


_OF_MOMENTS = ("intervals", "spatial_distance")
_INTERVAL = "95 %, of the estimate at this number of images"
_WORDS: Mapping[Metric, Mapping[str, Any]] = {
    "intervals": {"interval": f"{_INTERVAL}: infinitesimal jackknife", "splits": _SPLITS},
    "spatial_distance": {
        "distance": "Frechet, of maps within the Inception (sFID)",
        "interval": f"{_INTERVAL}: infinitesimal jackknife",
    },
    "kernel_distance": {
        "distance": "squared maximum mean discrepancy, unbiased, mean over subsets (KID)",
        "kernel": "(x.y / d + 1)^3",
        "interval": f"{_INTERVAL}: delete-d jackknife over the subsets, and their draw",
    },
    "gaussian_distance": {
        "distance": "1000 times the squared maximum mean discrepancy, of least variance (CMMD)",
        "kernel": "exp(-|x - y|^2 / 200)",
        "interval": f"{_INTERVAL}: projection of the statistic on single images",
    },
    "sliced_distance": {
        "distance": "3 d times the squared sliced Wasserstein-2 distance (MIND)",
        "directions": sliced.NUM_DIRECTIONS,
        "interval": f"{_INTERVAL}: jackknife over 20 halves",
    },
    "precision_recall": {
        "k": balls.PRECISION_K,
        "interval": "95 %, Wilson's, of the images counted, with the balls as they are",
    },
    "density_coverage": {
        "k": balls.DENSITY_K,
        "interval": "95 %, of the images counted, with the balls as they are",
    },
}


def drawn(total: int, count: int) -> NDArray[np.int64]:
    """Return `count` different numbers below `total` in ascending order; all, if there are fewer.

    They are the same for the same.
    """
    if count >= total:
        return np.arange(total)
    return np.sort(keyed_permutation(_ORDER, total, np.arange(count)))


def looked_of(parts: Iterable[Mapping[str, Tensor]], total: int) -> Looked:
    """Return what was said of a set of images.

    Features are reduced to moments part by part, and those of `MAX_ROWS` images kept besides.

    Args:
        parts: of the images, in their order; see `network.looked_at`.
        total: images of all parts.
    """
    chosen = torch.from_numpy(drawn(total, MAX_ROWS))
    kept: dict[str, list[Tensor]] = {"features": [], "probabilities": [], "spatial": []}
    moments: dict[str, Moments] = {}
    count = 0
    for part in parts:
        stop = count + len(part["features"])
        mine = chosen[(chosen >= count) & (chosen < stop)] - count
        for name, rows in part.items():
            if name != "probabilities":
                own = moments_of(rows)
                moments[name] = merge([moments[name], own]) if name in moments else own
            kept[name].append(rows if name == "probabilities" else rows[mine])
        count = stop
    if count != total or not count:
        raise ValueError(f"{count} images of {total}")
    whole = {name: torch.cat(found) for name, found in kept.items() if found}
    return Looked(
        count,
        moments["features"],
        whole["features"],
        whole.get("probabilities"),
        moments.get("spatial"),
        whole.get("spatial"),
        chosen,
    )
