"""Any two sets of images under one feature network, on this machine: a table of all numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ddpm_core.config import EvaluateConfig
from ddpm_core.config.feature_networks import KNOWN
from ddpm_core.config.measure import Metric
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.evaluation.comparing.numbers import (
    Looked,
    compared,
    doubts_of,
    drawn,
    looked_of,
    score_of,
    words_of,
)
from ddpm_core.evaluation.comparing.sides import Side
from ddpm_core.evaluation.features import foreign
from ddpm_core.evaluation.features.kept import (
    describe_network,
    feature_recipe,
    kept_network,
    load_network,
)
from ddpm_core.evaluation.features.network import FeatureNetwork, extract, in_colour, looked_at
from ddpm_core.evaluation.features.statistics import network_of, require_same_features
from ddpm_core.progress import Progress
from ddpm_core.runs.protocol import PROTOCOL_VERSION

METRICS: tuple[Metric, ...] = ("intervals", *(m for m in get_args(Metric) if m != "intervals"))
"""all, and the Frechet distance first"""
_WITHOUT_CLASSES = ("intervals", "spatial_distance")


@dataclass(frozen=True)
class Request:
    """What is to be measured of two sets."""

    features: EvaluateConfig
    """which network, and the seed"""
    metrics: tuple[Metric, ...] = METRICS
    limit: int | None = None
    """images of each set, drawn from it; None: all"""
    by_class: bool = False


@torch.inference_mode()
def compare(a: Side, b: Side, request: Request, *, device: torch.device) -> dict[str, Any]:
    """Return what set A measures against set B, as JSON values.

    B is the reference: precision is A's within B, recall B's within A. What cannot be measured is
    None, with the reason in `left_out`.

    Raises:
        ConfigError: the feature network is not there, or the sets have nothing in common.
        DataError: an image cannot be used.
        StorageError: a place does not answer.
    """
    if a.statistics is not None and b.statistics is not None:
        raise ConfigError(
            "A and B are both statistics, of which nobody knows the network; give images for one"
        )
    said, network = _network(a, b, request.features, device)
    _require_same_features(a, b, said, network, request, device)
    sides: list[Looked] = []
    classes: list[list[str]] = []
    sizes: list[set[tuple[int, int]]] = []
    for name, side in (("A", a), ("B", b)):
        looked, labels, found = _looked(name, side, network, request, device)
        sides.append(looked)
        classes.append(labels)
        sizes.append(found)
    made, real = sides
    numbers, left_out, warnings = _numbers(made, real, request)
    if all(sizes) and sizes[0] != sizes[1]:
        warnings.append(
            f"A has images of {_sizes(sizes[0])} pixels and B of {_sizes(sizes[1])}: part of every "
            "distance is their resizing"
        )
    return {
        "a": a.said,
        "b": b.said,
        "numbers": numbers,
        "inception_score": {"a": score_of(made), "b": score_of(real)},
        **({"classes": _by_class(made, real, classes, request)} if request.by_class else {}),
        "left_out": left_out,
        "warnings": warnings,
        "protocol": {
            "version": PROTOCOL_VERSION,
            "features": {**said, "dim": made.moments.dim},
            "num_images": {"a": made.num_images or None, "b": real.num_images or None},
            "images": "uint8, as they are stored, 16 bits rounded; transparent pixels on white",
            **({} if request.limit is None else {"limit": f"{request.limit} drawn of each"}),
            "seed": request.features.seed,
            "metrics": {metric: words_of(metric) for metric in numbers},
        },
    }


def _require_same_features(
    a: Side,
    b: Side,
    said: Mapping[str, Any],
    network: FeatureNetwork,
    request: Request,
    device: torch.device,
) -> None:
    """Refuse statistics of other features before a set is looked at: by one image of it.

    Raises:
        ConfigError: as `require_same_features`.
    """
    for side, other in ((a, b), (b, a)):
        if side.statistics is not None:
            images_u8, _ = next(other.batches(np.arange(1)))
            require_same_features(
                side.statistics,
                extract(network.embed, images_u8, batch_size=1, device=device).shape[1],
                network_of(said),
                origin=side.said,
                features=f"--features {request.features.features}",
            )


def _numbers(
    made: Looked, real: Looked, request: Request
) -> tuple[dict[Metric, Any], dict[str, str], list[str]]:
    numbers: dict[Metric, Any] = {}
    left_out: dict[str, str] = {}
    warnings: list[str] = []
    for metric in request.metrics:
        if metric == "spatial_distance" and (made.spatial is None or real.spatial is None):
            left_out[metric] = "of maps within the Inception alone: --features inception"
        elif metric not in _WITHOUT_CLASSES and (made.features is None or real.features is None):
            left_out[metric] = "statistics have no single images"
        else:
            try:
                numbers[metric] = compared(metric, made, real, seed=request.features.seed)
            except DataError as error:
                left_out[metric] = str(error)
                continue
            warnings += [one for one in doubts_of(metric, made, real) if one not in warnings]
    return numbers, left_out, warnings


def _looked(
    name: str, side: Side, network: FeatureNetwork, request: Request, device: torch.device
) -> tuple[Looked, list[str], set[tuple[int, int]]]:
    if side.statistics is not None:
        known = side.statistics
        return Looked(known.num_images or 0, known.moments, spatial=known.spatial), [], set()
    numbers = drawn(side.num_images, request.limit or side.num_images)
    total = len(numbers)
    views = {"features", "probabilities"}
    if "spatial_distance" in request.metrics:
        views.add("spatial")
    labels: list[str] = []
    sizes: set[tuple[int, int]] = set()

    def parts() -> Iterator[Mapping[str, Tensor]]:
        for images_u8, names in side.batches(numbers):
            sizes.add((images_u8.shape[3], images_u8.shape[2]))
            labels.extend(names)
            yield looked_at(
                network,
                images_u8,
                views=views,
                batch_size=request.features.batch_size,
                device=device,
            )
            Progress("compare", len(labels), total, "images", f"of {name}").show()

    return looked_of(parts(), total), labels, sizes


def _network(
    a: Side, b: Side, evaluate: EvaluateConfig, device: torch.device
) -> tuple[dict[str, Any], FeatureNetwork]:
    """Return what a protocol says of the network, and the network."""
    if evaluate.features != "trained":
        found = foreign.fetch(evaluate)
        said = {"kind": evaluate.feature_kind, "sha256": evaluate.pinned, **found.about}
        return said, foreign.load(evaluate.feature_kind, found.data, device)
    for side in (b, a):
        if side.of is None:
            continue
        store, index = side.of
        run = side.config or a.config or b.config
        # Of how many steps; a run that was measured by another network has the default's at best.
        asked = evaluate if run is None or run.evaluate.features != "trained" else run.evaluate
        recipe = feature_recipe(asked, index.manifest.folder, index.fingerprint)
        if kept_network(store, recipe) is None:
            continue

        def missing() -> Any:  # noqa: ANN401 - never returns
            raise ConfigError("the trained features went meanwhile; run evaluate again")

        _, network = load_network(
            store, recipe, load_train=missing, load_test=missing, device=device
        )
        return describe_network(store, recipe), _of_images_alike(network, index.image.shape)
    raise ConfigError(
        "--features trained are those of a data set that a run of it was evaluated on, and neither "
        f"A nor B is one; give --features {', '.join(KNOWN)}, transformers:FOLDER or a TorchScript "
        "file"
    )


def _of_images_alike(network: FeatureNetwork, shape: tuple[int, int, int]) -> FeatureNetwork:
    """Return a trained network for images of the shape of its data set, grey ones in colour too."""
    channels, height, width = shape

    def fitted(images_u8: Tensor) -> Tensor:
        grey = images_u8[:, :1]
        is_grey = channels > 1 or bool((images_u8 == grey).all())
        if tuple(images_u8.shape[2:]) != (height, width) or not is_grey:
            raise ConfigError(
                f"--features trained are of {'grey ' if channels == 1 else ''}images of "
                f"{width}x{height} pixels, and one of {images_u8.shape[3]}x{images_u8.shape[2]}"
                f"{'' if is_grey else ' in colour'} is compared; give --features {', '.join(KNOWN)}"
            )
        return in_colour(images_u8) if channels > 1 else grey

    classify = network.classify
    return FeatureNetwork(
        lambda images_u8: network.embed(fitted(images_u8)),
        None if classify is None else lambda images_u8: classify(fitted(images_u8)),
    )


def _by_class(
    made: Looked, real: Looked, classes: Sequence[Sequence[str]], request: Request
) -> dict[str, Any]:
    """Return the numbers of each class that both sets have, of what few images can carry."""
    kept = [
        [] if one.rows is None else [labels[i] for i in one.rows.tolist()]
        for one, labels in zip((made, real), classes, strict=True)
    ]
    common = sorted((set(kept[0]) & set(kept[1])) - {""})
    if not common or made.features is None or real.features is None:
        raise ConfigError(
            "--by-class: A and B have no class in common; classes are the folders of a folder or "
            "archive, and those of a data set or of a run of labels"
        )
    found: dict[str, Any] = {}
    for name in common:
        own = [
            looked_of([{"features": features[_where(labels, name)]}], labels.count(name))
            for features, labels in zip((made.features, real.features), kept, strict=True)
        ]
        chosen = tuple(m for m in request.metrics if m not in _WITHOUT_CLASSES)
        few = Request(request.features, chosen)
        numbers, left_out, _ = _numbers(own[0], own[1], few)
        found[name] = {
            "num_images": {"a": own[0].num_images, "b": own[1].num_images},
            **numbers,
            **({"left_out": left_out} if left_out else {}),
        }
    return found


def _where(labels: Sequence[str], name: str) -> Tensor:
    return torch.tensor([label == name for label in labels])


def _sizes(found: set[tuple[int, int]]) -> str:
    shown = ", ".join(f"{width}x{height}" for width, height in sorted(found)[:3])
    return shown + (" and more" if len(found) > 3 else "")
