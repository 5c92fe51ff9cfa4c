"""The evaluate stage: bits/dim and Frechet distance on held-out images, figures, the model."""

import json
from contextlib import closing
from typing import Any

import numpy as np

from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.evaluation.delivery import METRICS_ROLE, deliver_evaluation
from ddpm_core.evaluation.features.statistics import Statistics
from ddpm_core.evaluation.measuring.cascade import has_chain
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.evaluation.measuring.kept_statistics import is_of_training_images, statistics_for
from ddpm_core.evaluation.measuring.masked import bytes_metric
from ddpm_core.evaluation.measuring.measure import measure, set_aside_damaged
from ddpm_core.evaluation.measuring.noised import accuracy_metric
from ddpm_core.evaluation.measuring.worker import Kind, make_worker, units_of, uses_network
from ddpm_core.evaluation.numbers import figures, metrics
from ddpm_core.evaluation.numbers.gathered import numbers_of
from ddpm_core.evaluation.numbers.metrics import Bound
from ddpm_core.loading.loader import load_split
from ddpm_core.output import say
from ddpm_core.progress import Progress
from ddpm_core.runs.numbers import metrics_shown
from ddpm_core.sampling.stage import deliver_own_curve, deliver_samples
from ddpm_core.sampling.units import first_images
from ddpm_core.shards.one_class import require_no_metrics
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_files
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.tracking import open_tracker
from ddpm_core.training.storing.checkpoint import Curve
from ddpm_core.units.ranges import Findings

_NUM_COMPARED = 100


def run_evaluate(store: Store, config: RunConfig) -> dict[str, Any]:
    """Measure the weights that `sample.model` names and their samples, and return the numbers.

    Finished units are verified and kept, damaged ones are measured again. If all is there nothing
    is measured, and what MLflow may have missed is sent.

    Returns:
        `{"bits_per_dim": {"value": ..., "protocol": ...}, "frechet_distance": {...},
        "inception_score": {...}, "relative_to_gaussian": {...}}`, as in the file of the role
        `metrics`; of a process in continuous time also `bits_per_dim_flow`. The score is None where
        the feature network has no classes; `relative_to_gaussian` has the value None, and a
        `reason`, of images that are used in place. Of a network that takes labels there are
        `classes`, a row of each, `judge_accuracy` if the features are trained, and
        `diffusion_classifier` and `label_worth` if `evaluate` asks for them; of samples of texts
        `caption_agreement`, and of a network of texts `caption_matching` and `caption_worth` too.
        Where there is no feature network the distance has the value None and a `reason`.

        Of a classifier there is `noised_accuracy` alone, which needs no samples; of CLIP too, and
        its classes are the captions of the held-out images. Of a language model of captions there
        is `hidden_bytes` alone.

    Raises:
        CheckpointError: the weights are not there, or deleted before all is measured.
        ConfigError: `evaluate.metrics` are of features, and there are none.
        DataError: the data set or the samples are not there, or too few for what is asked for.
        ClusterError: workers were lost too often; what they finished is kept.
    """
    inputs = Inputs.of(store, config)
    config = inputs.config
    require_no_metrics(config, inputs.why_no_distance)
    say(f"weights: {inputs.of_weights.said}")
    has_features = inputs.recipe is not None
    units = units_of(
        config,
        inputs.num_train,
        inputs.num_test,
        has_features=has_features,
        has_chain=has_chain(store, config),
        has_judge=inputs.judge is not None,
    )
    with open_tracker(store, config, stage="evaluate") as tracker:
        place = inputs.place
        committed = manifest.intact(store, place.folder, place.expected)
        note = f", done already: {store.uri_of(committed.folder)}" if committed else ""
        if committed is not None:
            set_aside_damaged(inputs, committed.folder, units)
        else:
            # Now: a training that goes on may delete it while the units are measured.
            history = inputs.history()
            known = statistics_for(inputs)
            findings = measure(
                inputs,
                place.folder,
                [unit for unit in units if known is None or not is_of_training_images(unit)],
                uses_network,
                make_worker,
                stage="evaluate",
                begin=tracker.begin,
            )
            committed = _publish(inputs, findings, history, known)
        numbers: dict[str, Any] = json.loads(committed.read(store, METRICS_ROLE))
        # Of a training that was killed after its last checkpoint, only a later stage can.
        deliver_own_curve(tracker, store, config, inputs.of_weights)
        if inputs.drawn is not None:
            deliver_samples(tracker, store, config, inputs.of_weights, inputs.drawn)
        deliver_evaluation(tracker, inputs, committed)
        total = len(units)
        Progress("evaluate", total, total, "units", summary(numbers) + note).show()
    return numbers


def summary(numbers: dict[str, Any]) -> str:
    """Return the numbers in one line."""
    if (accuracy := numbers.get("noised_accuracy")) is not None:
        least = accuracy["by_noise"][0]
        return (
            f"{100 * accuracy['value']:.1f} % of the noised images classified right, "
            f"{100 * least['value']:.1f} % at t = {least['t']}"
        )
    if (said := numbers.get("hidden_bytes")) is not None:
        if said["value"] is None:
            return "no held-out caption has a byte that could be hidden"
        return (
            f"{said['value']:.3f} bits for each hidden byte of the held-out captions "
            f"({said['by_frequency']:.3f} by frequency), {100 * said['accuracy']:.1f} % said right"
        )
    bits, distance = numbers["bits_per_dim"], numbers["frechet_distance"]
    score, judged = numbers.get("inception_score"), numbers.get("judge_accuracy")
    own = numbers.get("diffusion_classifier")
    agreed = (numbers.get("caption_agreement") or {}).get("value")
    error = f" ± {bits['standard_error']:.3f}" if bits["standard_error"] is not None else ""
    if flow := numbers.get("bits_per_dim_flow"):
        error += f" (flow: {flow['value']:.3f})"
    if distance["value"] is None:
        return f"{bits['value']:.3f}{error} bits/dim, no Frechet distance: {distance['reason']}"
    return (
        f"{bits['value']:.3f}{error} bits/dim, Frechet distance {distance['value']:.2f} "
        f"(floor {distance['test_train']:.2f})"
        + (f", inception score {score['value']:.2f}" if score else "")
        + "".join(f", {words} {value:.4g}" for words, value in metrics_shown(numbers).items())
        + (f", {100 * judged['value']:.1f} % of the samples judged right" if judged else "")
        + (f", {100 * own['value']:.1f} % of images classified by the network" if own else "")
        + ("" if agreed is None else f", {100 * agreed:.1f} % of the samples show their prompts")
    )


def _publish(
    inputs: Inputs,
    findings: Findings[Kind],
    history: Curve | None,
    known: Statistics | None,
) -> Manifest:
    """Compute numbers, curves and figures from the results of the units, and commit them.

    Of weights that were deleted before the stage began there is no `history`, and no loss figure.
    """
    if inputs.config.role == "text":
        return _commit(inputs, _of_bytes(inputs, findings), history)
    if inputs.config.role != "denoiser":
        return _commit(inputs, _of_guide(inputs, findings), history)
    bound = Bound.of(findings.each("bound", "test"))
    numbers = numbers_of(inputs, findings, bound, known)
    contents = {
        METRICS_ROLE: (".json", _json(numbers)),
        "likelihood": (".json", _json(metrics.likelihood_artifact(bound))),
        "likelihood-figure": (".png", figures.likelihood_figure(bound)),
        "rate-distortion-figure": (".png", figures.rate_distortion_figure(bound)),
        "comparison-figure": (".png", _comparison(inputs)),
    }
    if "classes" in numbers:
        contents["classes-figure"] = (".png", figures.classes_figure(numbers["classes"]))
    return _commit(inputs, contents, history)


def _of_guide(inputs: Inputs, findings: Findings[Kind]) -> dict[str, tuple[str, bytes]]:
    """Return the files of the evaluation of a network that guides others."""
    rows = {name: findings.rows("accuracy", "test", name).numpy() for name in ("is_right", "nats")}
    if inputs.config.role == "clip":
        counts = np.bincount(findings.rows("accuracy", "test", "caption").numpy())
    else:
        counts = np.array(inputs.index.label.counts["test"])
    metric = accuracy_metric(
        **rows, config=inputs.config, weights=inputs.weights, class_counts=counts
    )
    return {
        METRICS_ROLE: (".json", _json({"noised_accuracy": metric})),
        "accuracy-figure": (".png", figures.accuracy_figure(metric)),
    }


def _of_bytes(inputs: Inputs, findings: Findings[Kind]) -> dict[str, tuple[str, bytes]]:
    """Return the files of the evaluation of a language model."""
    names = ("nats", "num_right", "num_hidden", "counts")
    rows = [findings.rows("bytes", "test", name).numpy() for name in names]
    metric = bytes_metric(*rows, config=inputs.config, weights=inputs.weights)
    return {METRICS_ROLE: (".json", _json({"hidden_bytes": metric}))}


def _commit(
    inputs: Inputs, contents: dict[str, tuple[str, bytes]], history: Curve | None
) -> Manifest:
    """Write the files of an evaluation and the figure of its training, and commit them."""
    store = inputs.store
    if history is not None:
        label = figures.loss_label(inputs.of_weights.trained)
        if inputs.config.role == "text":  # whose images have no noise, of one time or another
            history = [{key: point[key] for key in ("step", "loss")} for point in history]
        contents["loss-figure"] = (".png", figures.loss_figure(history, label=label))
    numbers, place = json.loads(contents[METRICS_ROLE][1]), inputs.place
    files = write_files(store, place.folder, contents)
    said = {**place.expected.body, **place.expected.noted, **place.expected.if_written}
    return commit(store, place.folder, files, {**said, "summary": summary(numbers)})


def _comparison(inputs: Inputs) -> bytes:
    store, config = inputs.store, inputs.config
    samples = first_images(store, inputs.samples, config.sample, config.data.shape, _NUM_COMPARED)
    with closing(load_split(store, inputs.index, "test", eight_bits=True)) as held_out:
        held_out_u8 = held_out.images(0, _NUM_COMPARED).permute(0, 2, 3, 1).numpy()
    return figures.comparison_figure(samples, held_out_u8, num_images=_NUM_COMPARED)


def _json(values: dict[str, Any]) -> bytes:
    canonical_json(values)  # refuses NaN and infinity, which are no JSON
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
