"""All numbers of a denoiser, gathered from what the units of an evaluation found."""

from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core.evaluation.features.judge import captions_at
from ddpm_core.evaluation.features.kept import describe_network, words_of_judge
from ddpm_core.evaluation.features.statistics import Statistics, network_of
from ddpm_core.evaluation.measuring.caption_use import matching_metric, numbers_of_captions
from ddpm_core.evaluation.measuring.cascade import chain_metric, configs_below
from ddpm_core.evaluation.measuring.enlarging import consistency_metric
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.evaluation.measuring.kept_statistics import keep_statistics
from ddpm_core.evaluation.measuring.label_use import classifier_metric, worth_metric
from ddpm_core.evaluation.measuring.worker import SOURCES, Kind
from ddpm_core.evaluation.numbers import metrics
from ddpm_core.evaluation.numbers.by_caption import Read, agreement_metric
from ddpm_core.evaluation.numbers.by_class import Judged, class_rows, judge_metric
from ddpm_core.evaluation.numbers.feature_metrics import (
    asked_for,
    looked_at_sets,
    metrics_of_classes,
)
from ddpm_core.evaluation.numbers.metrics import Bound
from ddpm_core.evaluation.numbers.seen import Seen, seen_of
from ddpm_core.evaluation.numbers.simplest_model import reference_bits, relative_metric
from ddpm_core.loading.loader import load_split
from ddpm_core.loading.texts import captions_of_data
from ddpm_core.sampling.plan import load_plan
from ddpm_core.shards.members import LABEL
from ddpm_core.units.ranges import Findings


def numbers_of(
    inputs: Inputs, findings: Findings[Kind], bound: Bound, known: Statistics | None
) -> dict[str, Any]:
    """Return the numbers of an evaluation, each with its protocol, as JSON values.

    Args:
        inputs: what was measured.
        findings: of all units but those that `known` stands for.
        bound: of the held-out images, as the units found it.
        known: moments of the training images that were kept; None: they are among the findings, and
            are kept now.
    """
    return {
        "bits_per_dim": metrics.bits_per_dim_metric(
            bound, inputs.config, inputs.weights, num_test_images=inputs.num_test
        ),
        "relative_to_gaussian": _relative(inputs, bound),
        **_of_flow(inputs, findings),
        **_of_low_resolutions(inputs, findings),
        **_of_cascade(inputs, findings, bound),
        **_of_features(inputs, findings, known),
        **_of_classes(inputs, findings, bound),
        **_of_captions(inputs, findings, bound),
    }


def _relative(inputs: Inputs, bound: Bound) -> dict[str, Any]:
    if not inputs.index.image.mean:
        reason = "mean and deviation of images that are used in place are not known"
        return {"value": None, "reason": reason}
    with closing(load_split(inputs.store, inputs.index, "test")) as held_out:
        images = held_out.images(0, len(bound.prior))
        is_binary = inputs.config.data.is_binary
        reference = reference_bits(images, inputs.index.image, is_binary=is_binary).numpy()
    return relative_metric(bound.total, reference, inputs.config, inputs.weights)


def _of_flow(inputs: Inputs, findings: Findings[Kind]) -> dict[str, Any]:
    """Return what is measured through the flow of a process in continuous time; {} of a chain."""
    if not findings.has("flow", "test"):
        return {}
    bits = findings.rows("flow", "test", "bits").numpy()
    return {"bits_per_dim_flow": metrics.flow_metric(bits, inputs.config, inputs.weights)}


def _of_low_resolutions(inputs: Inputs, findings: Findings[Kind]) -> dict[str, Any]:
    """Return whether what is enlarged has its low resolution; {} where that was not measured."""
    if not findings.has("enlarged", "test"):
        return {}
    own, other = (findings.rows("enlarged", "test", name).numpy() for name in ("own", "other"))
    found = consistency_metric(own, other, inputs.config, inputs.weights)
    return {"low_resolution_consistency": found}


def _of_cascade(inputs: Inputs, findings: Findings[Kind], bound: Bound) -> dict[str, Any]:
    """Return the bits of the whole cascade that a run ends; {} where it ends none."""
    if not findings.has("chain", "test"):
        return {}
    bits, config = findings.rows("chain", "test", "bits").numpy(), inputs.config
    below = configs_below(inputs.store, config)
    metric = chain_metric(bits, bound.total, config, below, inputs.weights)
    return {"bits_per_dim_cascade": metric}


def _of_features(
    inputs: Inputs, findings: Findings[Kind], known: Statistics | None
) -> dict[str, Any]:
    if inputs.recipe is None:
        reason = str(inputs.why_no_distance)
        return {
            "frechet_distance": metrics.no_frechet_metric(inputs.weights, reason=reason),
            "inception_score": None,
        }
    network = describe_network(inputs.store, inputs.recipe)
    parts = [part for part in SOURCES if known is None or part != "train"]
    seen = {part: seen_of(findings.each("features", part)) for part in parts}
    if known is not None:
        seen["train"] = Seen(known.moments, None, None)
    else:
        moments = seen["train"].moments
        statistics = Statistics(moments, None, moments.count, network_of(network))
        keep_statistics(inputs.store, inputs.index, inputs.recipe, statistics)
    config, weights = inputs.config, inputs.weights
    return {
        "frechet_distance": metrics.frechet_metric(seen, config, weights, network=network),
        "inception_score": metrics.inception_metric(seen, config, weights, network=network),
        **asked_for(inputs, findings, network, known),
    }


def _of_classes(inputs: Inputs, findings: Findings[Kind], bound: Bound) -> dict[str, Any]:
    """Return what is measured by class: of samples that have one, and a network of labels."""
    store, config, names = inputs.store, inputs.config, inputs.index.label.names
    plan = load_plan(store, config)
    drawn = plan.labels(torch.arange(config.sample.num_images))
    if drawn is None or plan.names not in ((), names):
        return {}  # of the classes of a classifier that has others than these images
    with closing(load_split(store, inputs.index, "test")) as held_out:
        labels = held_out.member(LABEL, np.arange(inputs.num_test)).numpy()
    judged = None
    if inputs.recipe is not None and config.evaluate.features == "trained":
        samples, test = (_most_probable(findings, part) for part in ("samples", "test"))
        judged = Judged(drawn.numpy(), samples), Judged(labels, test)
    used, classified, saved = _of_labels(inputs, findings, bound, labels)
    rows = class_rows(
        names,
        bound.total,
        labels[: len(bound.total)],
        judged,
        saved=saved,
        classified=classified,
    )
    if inputs.recipe is not None and config.evaluate.metrics:
        measured = metrics_of_classes(
            looked_at_sets(findings),
            config,
            drawn=drawn.numpy(),
            held_out=labels,
            num_classes=len(names),
        )
        rows = [row | own for row, own in zip(rows, measured, strict=True)]
    if judged is None or inputs.recipe is None:
        return {**used, "classes": rows}
    metric = judge_metric(
        *judged,
        config,
        inputs.weights,
        network=describe_network(store, inputs.recipe),
        num_classes=len(names),
    )
    return {"judge_accuracy": metric, **used, "classes": rows}


def _of_captions(inputs: Inputs, findings: Findings[Kind], bound: Bound) -> dict[str, Any]:
    """Return what is measured of captions: of samples of prompts, and of a network of texts."""
    store, config, weights = inputs.store, inputs.config, inputs.weights
    texts = captions_of_data(config, inputs.index)
    if texts is None or inputs.judge is None:
        return {}
    with closing(load_split(store, inputs.index, "test")) as held_out:
        own = texts.captions(held_out, np.arange(inputs.num_test))
    with closing(load_split(store, inputs.index, "train")) as images:
        train = captions_at(images, texts)
    plan = load_plan(store, config)
    count = config.sample.num_images
    prompts: list[tuple[str, ...]] = [(plan.prompt(index) or "",) for index in range(count)]
    samples, test = (
        findings.rows("words", part, "found").numpy().astype(bool) for part in ("samples", "test")
    )
    found: dict[str, Any] = {
        "caption_agreement": agreement_metric(
            Read(samples, prompts),
            Read(test, own),
            train,
            config,
            weights,
            words=words_of_judge(store, inputs.judge),
            network=describe_network(store, inputs.judge),
        )
    }
    if findings.has("captions", "test"):
        eps = findings.rows("captions", "test", "eps")
        found["caption_matching"] = matching_metric(eps, config, weights)
    if config.model.uses_text and findings.has("unlabelled", "test"):
        without = Bound.of(findings.each("unlabelled", "test")).total
        firsts = [one[0] if one else "" for one in own[: len(bound.total)]]
        found["caption_worth"] = worth_metric(
            without, bound.total, numbers_of_captions(firsts), config, weights, what="caption"
        )
    return found


def _of_labels(
    inputs: Inputs, findings: Findings[Kind], bound: Bound, labels: NDArray[np.int64]
) -> tuple[dict[str, Any], Judged | None, NDArray[np.float64] | None]:
    """Return what the network makes of labels, each image as it classifies it, and bits saved."""
    config, weights, num_classes = inputs.config, inputs.weights, inputs.config.num_classes
    found: dict[str, Any] = {}
    classified, saved = None, None
    if findings.has("classes", "test") and num_classes is not None:
        guesses = findings.rows("classes", "test", "eps").argmin(dim=1).numpy()
        classified = Judged(labels[: len(guesses)], guesses)
        is_right = classified.labels == classified.found
        found["diffusion_classifier"] = classifier_metric(
            is_right, config, weights, num_classes=num_classes
        )
    if findings.has("unlabelled", "test"):
        without, given = Bound.of(findings.each("unlabelled", "test")).total, bound.total
        saved = (without - given) * np.prod(config.data.shape)
        found["label_worth"] = worth_metric(without, given, labels[: len(given)], config, weights)
    return found, classified, saved


def _most_probable(findings: Findings[Kind], part: str) -> NDArray[np.int64]:
    found = [one["probabilities"].argmax(dim=1) for one in findings.each("features", part)]
    return torch.cat(found).numpy()
