"""The numbers by which an evaluation sums itself up."""

import json

from ddpm_core.runs.numbers import EVALUATION, of_metrics
from tests.flows.fakes import METRICS


def test_numbers_of_an_evaluation_say_what_they_were_measured_on():
    """Catches: a bound that passes for a likelihood, a distance without its floor."""
    score = {"value": 7.5, "test": 9.0, "protocol": {"num_classes": 10}}
    images = {"num_images": {"samples": 80, "test": 297}}
    judged = {"value": 0.96, "held_out": 0.98, "chance": 0.1, "protocol": images}
    metrics = {**json.loads(METRICS), "inception_score": score, "judge_accuracy": judged}
    told = {"value": 0.71, "chance": 0.11, "by_noise": [{"value": 0.97}]}
    accuracy = {**told, "protocol": {"num_images": 297}}
    said = {"value": 1.25, "by_frequency": 4.5, "protocol": {"num_captions": 297}}
    found = of_metrics(metrics) + of_metrics({"noised_accuracy": accuracy})
    found += of_metrics({"hidden_bytes": said})
    assert [(one.column, one.value) for one in found] == [
        ("bits/dim", "3.250"), ("Frechet", "12.50"), ("inception", "7.50"),
        ("judged", "0.960"), ("accuracy", "0.710"),
        ("bits/byte", "1.250"),
    ]  # fmt: skip
    assert tuple(one.column for one in found) == EVALUATION.columns
    assert [one.text for one in found] == [
        "3.250 ± 0.500  (bound, 8 held-out images)",
        "12.50  (floor 1.50; 80 samples, 297 held-out images)",
        "7.50  (at most 10; held-out images 9.00)",
        "0.960  (of 80 samples; held-out images 0.980, chance 0.100)",
        "0.710  (of 297 held-out images at every noise; 0.970 at the least, chance 0.110)",
        "1.250  (of 297 held-out captions; 4.500 by frequency)",
    ]


def test_bound_of_one_image_has_no_spread():
    """Catches: a format of None."""
    metrics = json.loads(METRICS)
    metrics["bits_per_dim"]["standard_error"] = None
    assert of_metrics(metrics)[0].text.startswith("3.250  (")


def test_images_of_one_class_say_why_there_is_no_distance():
    """Catches: a flow that ends in a traceback at a finished evaluation, or nan as a distance."""
    nothing = {"value": None, "test_train": None, "reason": "of one class; give a file"}
    metrics = {**json.loads(METRICS), "frechet_distance": nothing, "inception_score": None}
    _, distance = of_metrics(metrics)
    assert (distance.name, distance.value) == ("Frechet distance", None)
    assert distance.text == "not measured: of one class; give a file"
