"""What MLflow is shown of an evaluation: its numbers and figures, and the model they are of."""

import json
from typing import Any

from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.reporting.write import page_of
from ddpm_core.runs.numbers import metrics_shown
from ddpm_core.store.manifest import Manifest
from ddpm_core.tracking import Tracker

METRICS_ROLE = "metrics"
"""of the file with the numbers of an evaluation"""


def deliver_evaluation(tracker: Tracker, inputs: Inputs, committed: Manifest) -> None:
    """Log what was measured and register the model, unless MLflow is known to have it."""
    tracker.deliver(committed, lambda: _log(tracker, inputs, committed))


def _log(tracker: Tracker, inputs: Inputs, committed: Manifest) -> None:
    store, weights = inputs.store, inputs.of_weights
    numbers: dict[str, Any] = json.loads(committed.read(store, METRICS_ROLE))
    values = _values(numbers)
    tracker.log_metrics({k: v for k, v in values.items() if v is not None}, step=weights.step)
    for role, record in committed.files.items():
        if record.name.endswith(".png"):
            tracker.log_image(f"{role}.png", committed, role)
        else:
            tracker.log_artifact(f"evaluation/{role}.json", committed, role)
    tracker.log_made("report.html", lambda: page_of(store, inputs.config))
    tracker.set_tags({"ddpm.evaluation_uri": store.uri_of(committed.folder)})
    # Of images that a client sends nothing is known here: `upscale` and the API take them.
    enlarges = inputs.config.model.low_size is not None
    if tracker.registers and inputs.config.role == "denoiser" and not enlarges:
        # Last, so that the model gets the numbers that describe it.
        tracker.register_model(weights, numbers)


def _of_captions(numbers: dict[str, Any]) -> dict[str, float | None]:
    """Return what was measured of captions by its names in MLflow; {} of no captions."""
    if (agreed := numbers.get("caption_agreement")) is None:
        return {}
    matching = numbers.get("caption_matching") or {"value": None, "mean_reciprocal_rank": None}
    worth = numbers.get("caption_worth") or {"value": None, "entropy": None}
    return {
        "eval/caption_agreement": agreed["value"],
        "eval/caption_agreement_seen": agreed["seen"],
        "eval/caption_agreement_unseen": agreed["unseen"],
        "eval/caption_agreement_shuffled": agreed["shuffled"],
        "eval/caption_agreement_held_out": agreed["held_out"]["value"],
        "eval/caption_matching": matching["value"],
        "eval/caption_reciprocal_rank": matching["mean_reciprocal_rank"],
        "eval/caption_worth": worth["value"],
        "eval/caption_entropy": worth["entropy"],
    }


def _values(numbers: dict[str, Any]) -> dict[str, float | None]:
    """Return the numbers by their names in MLflow; None: not measured."""
    if (accuracy := numbers.get("noised_accuracy")) is not None:
        return {f"eval/noised_{key}": accuracy[key] for key in ("value", "cross_entropy")} | {
            "eval/noised_standard_error": accuracy["standard_error"]
        }
    if (said := numbers.get("hidden_bytes")) is not None:
        names = ("value", "standard_error", "accuracy", "by_frequency")
        return {f"eval/hidden_bytes_{name}": said[name] for name in names}
    bits, distance = numbers["bits_per_dim"], numbers["frechet_distance"]
    score = numbers.get("inception_score") or {"value": None, "test": None}
    judged = numbers.get("judge_accuracy") or {"value": None, "held_out": None}
    own = numbers.get("diffusion_classifier") or {"value": None}
    worth = numbers.get("label_worth") or {"value": None, "entropy": None}
    return {
        "eval/bits_per_dim": bits["value"],
        "eval/bits_per_dim_standard_error": bits["standard_error"],
        "eval/bits_per_dim_prior": bits["prior"],
        "eval/bits_per_dim_rate": bits["rate"],
        "eval/bits_per_dim_decoder": bits["decoder"],
        "eval/relative_to_gaussian": numbers.get("relative_to_gaussian", {}).get("value"),
        "eval/bits_per_dim_flow": numbers.get("bits_per_dim_flow", {}).get("value"),
        "eval/frechet_distance_test": distance["samples_test"],
        "eval/frechet_distance_train": distance["samples_train"],
        "eval/frechet_distance_floor": distance["test_train"],
        "eval/inception_score": score["value"],
        "eval/inception_score_test": score["test"],
        "eval/judge_accuracy": judged["value"],
        "eval/judge_accuracy_held_out": judged["held_out"],
        "eval/diffusion_classifier": own["value"],
        "eval/label_worth": worth["value"],
        **_of_captions(numbers),
        "eval/label_entropy": worth["entropy"],
        **{f"eval/{words.replace(' ', '_')}": v for words, v in metrics_shown(numbers).items()},
    }
