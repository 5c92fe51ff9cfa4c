"""What `evaluate.metrics` asks for: numbers of features beside the Frechet distance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core.config import RunConfig, identity
from ddpm_core.config.measure import Metric
from ddpm_core.errors import DataError
from ddpm_core.evaluation.comparing.numbers import (
    Looked,
    compared,
    doubts_of,
    frechet_doubts,
    looked_of,
    score_of,
    words_of,
)
from ddpm_core.evaluation.distances.moments import frechet_distance
from ddpm_core.evaluation.features.statistics import (
    Statistics,
    network_of,
    require_reference,
    require_same_features,
)
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.evaluation.numbers.metrics import seen_as
from ddpm_core.output import say
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.sampling.sampler import describe
from ddpm_core.units.ranges import Findings

PAIRS = (("samples", "test"), ("samples", "train"), ("test", "train"))
"""which sets are compared; the last is the floor: what images that no model made measure"""
_OF_CLASSES: tuple[Metric, ...] = (
    "kernel_distance",
    "gaussian_distance",
    "sliced_distance",
    "precision_recall",
    "density_coverage",
)
"""what few images can carry, and so those of a class"""


def asked_for(
    inputs: Inputs, findings: Findings[Any], network: dict[str, Any], known: Statistics | None
) -> dict[str, Any]:
    """Return what `evaluate.metrics` and `evaluate.reference` ask for.

    Args:
        inputs: what was measured.
        findings: of the units.
        network: what a protocol says of the feature network.
        known: as of `looked_at_sets`.
    """
    config, weights, evaluate = inputs.config, inputs.weights, inputs.config.evaluate
    if not evaluate.metrics and evaluate.reference is None:
        return {}
    looked = looked_at_sets(findings, known)
    found = _metrics(looked, config, weights, network=network)
    if evaluate.reference is not None:
        reference = require_reference(evaluate.reference, str(evaluate.reference_sha256))
        require_same_features(
            reference,
            looked["samples"].moments.dim,
            network_of(network),
            origin=f"evaluate.reference={evaluate.reference!r}",
            features=f"evaluate.features={evaluate.features}",
        )
        found["frechet_distance_reference"] = _reference(
            looked, reference, config, weights, network=network
        )
    return found


def looked_at_sets(findings: Findings[Any], known: Statistics | None = None) -> dict[str, Looked]:
    """Return what the network said of each set of images.

    Args:
        findings: of the units.
        known: moments of the training images, of which there are then no units; None: there are.
    """
    parts = ("samples", "test", "train") if known is None else ("samples", "test")
    looked = {
        part: looked_of(findings.each("features", part), findings.num_images("features", part))
        for part in parts
    }
    if known is not None:
        looked["train"] = Looked(known.num_images or 0, known.moments)
    return looked


def _metrics(
    looked: Mapping[str, Looked],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    network: dict[str, Any],
) -> dict[str, Any]:
    """Return the numbers that `evaluate.metrics` names, each with its protocol.

    Args:
        looked: the three sets: samples, test and train.
        config: the run.
        weights: which weights made the samples.
        network: what to say of the feature network.

    Raises:
        DataError: there are too few images for one of them.
    """
    return {
        metric: _metric(metric, looked, _protocol(config, weights, network, looked), config)
        for metric in config.evaluate.metrics
    }


def _metric(
    metric: Metric, looked: Mapping[str, Looked], protocol: dict[str, Any], config: RunConfig
) -> dict[str, Any]:
    say(f"evaluate  {metric}")
    found: dict[str, Any] = {}
    for made, real in PAIRS:
        try:
            seed = config.evaluate.seed
            found[f"{made}_{real}"] = compared(metric, looked[made], looked[real], seed=seed)
        except DataError as error:
            raise DataError(
                f"evaluate.metrics has {metric}: {error}; draw more, or leave it out"
            ) from None
    if metric == "intervals":
        found["inception_score"] = score_of(looked["samples"])
    warnings = doubts_of(metric, looked["samples"], looked["test"])
    value = found["samples_test"].get("value")
    return {
        **({} if value is None else {"value": value}),
        **found,
        "protocol": {**protocol, **words_of(metric), "warnings": warnings},
    }


def _reference(
    looked: Mapping[str, Looked],
    reference: Statistics,
    config: RunConfig,
    weights: dict[str, Any],
    *,
    network: dict[str, Any],
) -> dict[str, Any]:
    """Return the Frechet distances of the samples to published statistics.

    Args:
        looked: the three sets.
        reference: the statistics, of the same network.
        config: the run.
        weights: which weights made the samples.
        network: what to say of the feature network.
    """
    samples = looked["samples"]
    published = Looked(reference.num_images or 0, reference.moments, spatial=reference.spatial)
    value = compared("intervals", samples, published, seed=config.evaluate.seed)
    spatial = None
    if samples.spatial is not None and reference.spatial is not None:
        spatial = frechet_distance(samples.spatial, reference.spatial)
    return {
        **value,
        "spatial_distance": spatial,
        "protocol": {
            **_protocol(config, weights, network, looked),
            "reference": {
                "sha256": config.evaluate.reference_sha256,
                "num_images": reference.num_images,
                "taken_as": "exact: the interval is of the samples alone",
            },
            "warnings": frechet_doubts(samples, published),
        },
    }


def _protocol(
    config: RunConfig,
    weights: dict[str, Any],
    network: dict[str, Any],
    looked: Mapping[str, Looked],
) -> dict[str, Any]:
    return {
        "version": PROTOCOL_VERSION,
        **weights,
        "features": {**network, "dim": looked["samples"].moments.dim},
        "num_images": {part: one.num_images for part, one in looked.items()},
        "images": seen_as(config),
        "seed": config.evaluate.seed,
        **describe(
            config.sample,
            config.diffusion.num_timesteps,
            num_classes=config.num_classes,
            takes_text=config.model.uses_text,
            enlarges=config.model.low_size is not None,
        ),
        **identity.counted("diffusion", config.diffusion),
    }


def metrics_of_classes(
    looked: Mapping[str, Looked],
    config: RunConfig,
    *,
    drawn: NDArray[np.int64],
    held_out: NDArray[np.int64],
    num_classes: int,
) -> list[dict[str, Any]]:
    """Return for each class what its samples measure against its held-out images.

    A number is None where the class has too few images for it.

    Args:
        looked: the three sets.
        config: the run.
        drawn: (n,) label of each sample.
        held_out: (m,) label of each held-out image.
        num_classes: of the data set.
    """
    chosen = [metric for metric in config.evaluate.metrics if metric in _OF_CLASSES]
    rows: list[dict[str, Any]] = []
    for label in range(num_classes):
        made = _only(looked["samples"], drawn == label)
        real = _only(looked["test"], held_out == label)
        rows.append({metric: _of_class(metric, made, real, config) for metric in chosen})
    return rows


def _of_class(
    metric: Metric, made: Looked | None, real: Looked | None, config: RunConfig
) -> dict[str, Any] | None:
    if made is None or real is None:
        return None
    try:
        return compared(metric, made, real, seed=config.evaluate.seed)
    except DataError:
        return None


def _only(looked: Looked, chosen: NDArray[np.bool_]) -> Looked | None:
    """Return the images of a class among those whose features are kept."""
    if looked.features is None:
        return None
    rows = looked.features[torch.from_numpy(chosen)[looked.rows]]
    return looked_of([{"features": rows}], len(rows)) if len(rows) else None
