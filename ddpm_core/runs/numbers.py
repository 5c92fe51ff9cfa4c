"""The headline numbers of a stage, read from its committed result. Knows no torch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ddpm_core.config.measure import Metric
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store


@dataclass(frozen=True)
class Number:
    """One number, as the table of runs and as a summary show it."""

    column: str
    """its heading in the table of runs"""
    value: str | None
    """what stands there; None: it was not measured"""
    name: str
    text: str
    """the value with what it was measured on, or why it was not"""


@dataclass(frozen=True)
class Numbers:
    """Which numbers a stage has."""

    title: str = ""
    """of the table of them in Prefect's UI"""
    columns: tuple[str, ...] = ()
    """every `Number.column` that there may be"""
    read: Callable[[Store, Manifest], list[Number]] = lambda *_: []
    """reads them from a result, verified; raises DamagedError if they are damaged"""


def of_metrics(metrics: Mapping[str, Any]) -> list[Number]:
    """Return the numbers of an evaluation's metrics.json to look at first."""
    if (accuracy := metrics.get("noised_accuracy")) is not None:
        return [_accuracy(accuracy)]
    if (said := metrics.get("hidden_bytes")) is not None:
        return [_hidden_bytes(said)]
    bits, distance = metrics["bits_per_dim"], metrics["frechet_distance"]
    error = bits.get("standard_error")
    value, spread = f"{bits['value']:.3f}", "" if error is None else f" ± {error:.3f}"
    count = bits["protocol"]["num_images"]
    text = f"{value}{spread}  (bound, {count} held-out images)"
    found = [Number("bits/dim", value, "bits/dim", text), _distance(distance)]
    if (score := metrics.get("inception_score")) is not None:
        value, classes = f"{score['value']:.2f}", score["protocol"]["num_classes"]
        text = f"{value}  (at most {classes}; held-out images {score['test']:.2f})"
        found.append(Number("inception", value, "inception score", text))
    if (judged := metrics.get("judge_accuracy")) is not None:
        value, count = f"{judged['value']:.3f}", judged["protocol"]["num_images"]["samples"]
        text = (
            f"{value}  (of {count} samples; held-out images {judged['held_out']:.3f}, chance "
            f"{judged['chance']:.3f})"
        )
        found.append(Number("judged", value, "judged right", text))
    if (agreed := metrics.get("caption_agreement")) is not None and agreed["value"] is not None:
        value = f"{agreed['value']:.3f}"
        found.append(Number("judged", value, "prompts shown", f"{value}  ({_beside(agreed)})"))
    for words, measured in metrics_shown(metrics).items():
        found.append(Number(words, f"{measured:.4g}", words, f"{measured:.4g}"))
    return found


def metrics_shown(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return what was measured of the samples against held-out images, by its words."""
    found: dict[str, float] = {}
    for metric in get_args(Metric):
        pair = numbers.get(metric, {}).get("samples_test")
        if pair is None or metric == "intervals":
            continue
        named = {metric: pair} if "value" in pair else pair
        found |= {name.replace("_", " "): one["value"] for name, one in named.items()}
    if (reference := numbers.get("frechet_distance_reference")) is not None:
        found["Frechet distance to the reference"] = reference["value"]
    if (chain := numbers.get("bits_per_dim_cascade")) is not None:
        found["bits/dim of the cascade"] = chain["value"]
    if (consistency := numbers.get("low_resolution_consistency")) is not None:
        found["low resolution kept to dB"] = consistency["value"]
        found["dB to another low resolution"] = consistency["shuffled"]
    return found


def _beside(agreed: Mapping[str, Any]) -> str:
    """Return what stands beside the share of samples that show their prompts."""
    shares = {
        "of words seen together": agreed["seen"],
        "of others": agreed["unseen"],
        "held-out images": agreed["held_out"]["value"],
        "shuffled prompts": agreed["shuffled"],
    }
    said = [f"{name} {share:.3f}" for name, share in shares.items() if share is not None]
    return f"of {agreed['num']['all']} samples; {', '.join(said)}"


def _accuracy(accuracy: Mapping[str, Any]) -> Number:
    value, count = f"{accuracy['value']:.3f}", accuracy["protocol"]["num_images"]
    least = accuracy["by_noise"][0]
    text = (
        f"{value}  (of {count} held-out images at every noise; {least['value']:.3f} at the least, "
        f"chance {accuracy['chance']:.3f})"
    )
    return Number("accuracy", value, "classified right", text)


def _hidden_bytes(said: Mapping[str, Any]) -> Number:
    name, column, count = "bits of a hidden byte", "bits/byte", said["protocol"]["num_captions"]
    if said["value"] is None:
        return Number(column, None, name, f"not measured: {count} captions have no byte")
    value = f"{said['value']:.3f}"
    text = f"{value}  (of {count} held-out captions; {said['by_frequency']:.3f} by frequency)"
    return Number(column, value, name, text)


def _distance(distance: Mapping[str, Any]) -> Number:
    if distance["value"] is None:  # of images of one class there is none
        return Number("Frechet", None, "Frechet distance", f"not measured: {distance['reason']}")
    value, counts = f"{distance['value']:.2f}", distance["protocol"]["num_images"]
    text = (
        f"{value}  (floor {distance['test_train']:.2f}; {counts['samples']} samples, "
        f"{counts['test']} held-out images)"
    )
    return Number("Frechet", value, "Frechet distance", text)


EVALUATION = Numbers(
    title="metrics",
    columns=("bits/dim", "Frechet", "inception", "judged", "accuracy", "bits/byte"),
    read=lambda store, result: of_metrics(json.loads(result.read(store, "metrics"))),
)
