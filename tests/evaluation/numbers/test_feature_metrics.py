"""What `evaluate.metrics` asks for, from the units of an evaluation to its numbers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_core.config import identity
from ddpm_core.errors import ConfigError
from ddpm_core.evaluation import stage
from ddpm_core.evaluation.comparing import numbers
from ddpm_core.evaluation.comparing.numbers import Looked, compared, looked_of
from ddpm_core.evaluation.distances import kernels
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.evaluation.features import check
from ddpm_core.evaluation.features.statistics import Statistics, to_npz
from ddpm_core.evaluation.numbers import feature_metrics
from ddpm_core.evaluation.numbers.feature_metrics import looked_at_sets
from ddpm_core.recipes import digits
from ddpm_core.runs import results
from ddpm_core.shards.one_class import require_no_metrics
from ddpm_core.store.storage import sha256_of
from ddpm_core.units.ranges import Findings
from ddpm_core.units.units import Units
from tests.evaluation.distances.sets import drawn

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


def sets_of(seed: int, *, count: int = 60, dim: int = 4) -> Looked:
    features = drawn(count, dim, seed=seed, shift=0.1 * seed)
    spatial = drawn(count, 3, seed=seed + 10)
    return looked_of(
        [
            {"features": part, "spatial": s}
            for part, s in zip(features.split(25), spatial.split(25), strict=True)
        ],
        count,
    )


def given(path: Path, statistics: Statistics, **changes):
    path.write_bytes(to_npz(statistics))
    digest = sha256_of(path.read_bytes())
    named = {"evaluate.reference": str(path), "evaluate.reference_sha256": digest}
    return digits().replaced({"evaluate.features": "inception", **named, **changes})


def test_samples_are_held_to_published_statistics(tmp_path, monkeypatch):
    """Catches: the held-out images in place of the reference, an interval that counts its images,
    maps held to pooled features, a reference that is no part of the fingerprint.
    """
    looked = {part: sets_of(i) for i, part in enumerate(("samples", "test", "train"))}
    published = Statistics(looked["train"].moments, looked["train"].spatial, None)
    config = given(tmp_path / "s.npz", published)
    inputs = SimpleNamespace(config=config, weights={"ema_sha256": "0"})
    monkeypatch.setattr(feature_metrics, "looked_at_sets", lambda _findings, _known: looked)
    (found,) = feature_metrics.asked_for(inputs, None, {"sha256": "0"}, None).values()
    value = frechet_distance(looked["samples"].moments, looked["train"].moments)
    assert found["value"] == pytest.approx(value, rel=1e-12)
    spatial = frechet_distance(looked["samples"].spatial, looked["train"].spatial)
    assert found["spatial_distance"] == pytest.approx(spatial, rel=1e-12)
    low, high = found["interval"]
    both = compared("intervals", looked["samples"], looked["train"], seed=0)["interval"]
    assert both[0] < low < value < high < both[1]
    other = config.replaced({"evaluate.reference_sha256": "0" * 64})
    assert identity.evaluation(config) != identity.evaluation(other)
    moved = config.replaced({"evaluate.reference": "elsewhere.npz"})
    assert identity.evaluation(config) == identity.evaluation(moved)


def test_statistics_of_other_features_are_refused_before_the_training(tmp_path):
    """Catches: a refusal after days; statistics of 2048 numbers beside 1024."""
    config = given(tmp_path / "s.npz", Statistics(sets_of(0).moments, None, 60))
    with pytest.raises(
        ConfigError, match=r"is of 4 features, and evaluate\.features=inception has"
    ):
        check.check_reference(config)
    other = Statistics(moments_of(torch.zeros(2, 2048)), None, 60, "1" * 64)
    with pytest.raises(ConfigError, match=r"is of the network 1{16}\.\.\., and evaluate\.features"):
        check.check_reference(given(tmp_path / "o.npz", other))
    wrong = config.replaced({"evaluate.reference_sha256": "0" * 64})
    with pytest.raises(ConfigError, match="reference_sha256 is 0000"):
        check.check_reference(wrong)


def test_maps_have_a_distance_of_their_own():
    """Catches: sFID of the pooled features."""
    a, b = sets_of(0), sets_of(1)
    found = compared("spatial_distance", a, b, seed=0)
    assert found["value"] == pytest.approx(frechet_distance(a.spatial, b.spatial), rel=1e-12)
    low, high = found["interval"]
    assert low < found["value"] < high


def test_sets_that_lie_class_by_class_are_seen_whole(monkeypatch):
    """Catches: the first images of a set for all of it, splits of one class each, and labels of
    other images than those whose features are kept.
    """
    monkeypatch.setattr(numbers, "MAX_ROWS", 100)
    labels = np.arange(1000) // 100
    features = torch.from_numpy(labels + np.arange(1000) / 1000)[:, None].float()
    parts = zip(features.split(64), torch.eye(10)[torch.from_numpy(labels)].split(64), strict=True)
    looked = looked_of([{"features": x, "probabilities": p} for x, p in parts], 1000)
    assert len(looked.features) == 100
    assert len(looked.features.floor().unique()) == 10
    assert torch.equal(looked.features, features[looked.rows])
    assert looked.moments.count == 1000
    assert numbers.score_of(looked)["value"] > 9
    (row,) = feature_metrics.metrics_of_classes(
        {"samples": looked, "test": looked},
        digits().replaced({"evaluate.metrics": ["gaussian_distance"]}),
        drawn=labels - 9,
        held_out=labels,
        num_classes=1,
    )
    own = [features[looked.rows][labels[looked.rows] == label] for label in (9, 0)]
    expected = kernels.gaussian_distance(*own).value
    assert row["gaussian_distance"]["value"] == pytest.approx(expected, rel=1e-9)


def test_classes_are_measured_by_their_own_images():
    """Catches: labels of samples used for held-out images, a class of few images that ends all."""
    looked = {part: sets_of(i) for i, part in enumerate(("samples", "test", "train"))}
    config = digits().replaced({"evaluate.metrics": ["kernel_distance", "precision_recall"]})
    drawn_labels = np.arange(60) % 2
    held_out = np.where(np.arange(60) < 57, (np.arange(60) // 3) % 2, 2)
    rows = feature_metrics.metrics_of_classes(
        looked, config, drawn=drawn_labels, held_out=held_out, num_classes=3
    )
    for label in (0, 1):
        own = [
            looked_of([{"features": features}], len(features))
            for features in (
                looked["samples"].features[torch.from_numpy(drawn_labels == label)],
                looked["test"].features[torch.from_numpy(held_out == label)],
            )
        ]
        for metric in ("kernel_distance", "precision_recall"):
            assert rows[label][metric] == compared(metric, *own, seed=0)
    assert rows[2] == {"kernel_distance": None, "precision_recall": None}
