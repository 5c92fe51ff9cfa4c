"""What `evaluate.metrics` asks for, from the units of an evaluation to its numbers."""

import json

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.evaluation import stage
from ddpm_core.evaluation.comparing import compared
from ddpm_core.evaluation.feature_metrics import looked_at_sets
from ddpm_core.recipes import digits
from ddpm_core.runs import results
from ddpm_core.shards.one_class import require_no_metrics
from ddpm_core.units.ranges import Findings
from ddpm_core.units.units import Units

METRICS = ["kernel_distance", "precision_recall", "gaussian_distance", "intervals"]


def test_what_is_asked_for_stands_beside_the_numbers_that_there_are(
    evaluated, in_process, recording_tracker
):
    """Catches: sets exchanged, a floor that is none, a number without its protocol, one that is
    kept and not shown, and other numbers than without.
    """
    store, config = evaluated
    before = stage.run_evaluate(store, config)
    config = config.replaced({"evaluate.metrics": METRICS})
    found = stage.run_evaluate(store, config)
    assert {name: found[name] for name in before} == before
    assert set(found) - set(before) == set(METRICS)

    committed = results.evaluation_of(store, config)
    units = [unit for unit in in_process.units if unit.kind == "features"]
    looked = looked_at_sets(Findings(Units(store, committed.folder), units))
    assert {part: one.num_images for part, one in looked.items()} == {
        "samples": 16,
        "test": 297,
        "train": 1500,
    }
    for metric in METRICS:
        for pair in ("samples_test", "samples_train", "test_train"):
            sets = [looked[part] for part in pair.split("_")]
            assert found[metric][pair] == compared(metric, *sets, seed=0), (metric, pair)
        protocol = found[metric]["protocol"]
        assert protocol["features"] == before["frechet_distance"]["protocol"]["features"]
        assert protocol["num_images"] == {"samples": 16, "test": 297, "train": 1500}
        assert protocol["interval"].startswith("95 %")
        assert protocol["warnings"], "sixteen samples carry none of these"
    distance = before["frechet_distance"]
    for pair in ("samples_test", "samples_train", "test_train"):
        assert found["intervals"][pair]["value"] == distance[pair]
    assert found["intervals"]["samples_test"]["interval"] is None, "16 samples for 64 features"
    low, high = found["intervals"]["test_train"]["interval"]
    assert low < distance["test_train"] < high
    assert found["intervals"]["inception_score"]["splits"] == 10
    # Held-out images are like training images; sixteen samples of an untrained network are not.
    assert found["kernel_distance"]["value"] > 10 * found["kernel_distance"]["test_train"]["value"]

    told = recording_tracker.metrics
    assert told["eval/kernel_distance@10"] == found["kernel_distance"]["value"]
    assert (
        told["eval/precision@10"] == found["precision_recall"]["samples_test"]["precision"]["value"]
    )
    assert ", kernel distance " in committed.body["summary"]
    assert json.loads(committed.read(store, "metrics")) == found


def test_metrics_count_whatever_their_order_and_leave_what_was_measured_before():
    """Catches: an evaluation of an earlier version under another fingerprint; two of one."""
    from ddpm_core.config import identity

    plain = digits()
    assert "metrics" not in identity.evaluation(plain)
    a, b = (
        plain.replaced({"evaluate.metrics": names})
        for names in (["kernel_distance", "intervals"], ["intervals", "kernel_distance"])
    )
    assert identity.evaluation(a) == identity.evaluation(b) != identity.evaluation(plain)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate.metrics": ["spatial_distance"]}, "give features=inception"),
        ({"evaluate.metrics": ["intervals", "intervals"]}, "names one twice"),
        ({"evaluate.metrics": ["fid"]}, "kernel_distance"),
        ({"evaluate.metrics": ["precision_recall"], "sample.num_images": 5}, "at least 6 images"),
        ({"evaluate.reference": "a.npz", "evaluate.reference_sha256": "0" * 64}, "own; give"),
        ({"evaluate.reference": "a.npz", "evaluate.features": "inception"}, "go together"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(changes, said):
    """Catches: a refusal after the training."""
    with pytest.raises(ConfigError, match=said):
        digits().replaced(changes)


def test_metrics_without_features_are_refused_with_what_would_do():
    """Catches: metrics.json without what was asked for, and nothing said."""
    config = digits().replaced({"evaluate.metrics": ["kernel_distance"]})
    require_no_metrics(config, None)
    with pytest.raises(ConfigError, match="kernel_distance, and none can be measured: one class"):
        require_no_metrics(config, "one class")
    require_no_metrics(digits(), "one class")
