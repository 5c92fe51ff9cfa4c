"""Images of one class: bits/dim is measured, and nothing that has no meaning beside it."""

import json
import logging
from contextlib import nullcontext

import pytest

from ddpm_core.evaluation import stage
from ddpm_core.evaluation.worker import FeatureUnit
from ddpm_core.runs import results
from ddpm_core.sampling.stage import run_sample
from ddpm_core.training import stage as training
from tests.sampling.one_class import commit_one_class, one_class_config


@pytest.fixture
def evaluated_once(store, tmp_path, in_process, recording_tracker):
    """Give a run of one class from its images to its numbers."""
    config = commit_one_class(store, tmp_path / "photos")
    run_sample(store, config)
    in_process.units.clear()
    return config, stage.run_evaluate(store, config)


def test_an_evaluation_of_one_class_has_no_distance_and_says_why(
    store, evaluated_once, in_process, recording_tracker
):
    """Catches: a distance between features of random weights, an accuracy of 1, an inception score
    of 1; a refusal after the training; a model that is never registered."""
    config, numbers = evaluated_once
    assert not any(isinstance(unit, FeatureUnit) for unit in in_process.units)
    distance = numbers["frechet_distance"]
    assert distance["value"] is None
    assert distance["samples_test"] is distance["samples_train"] is distance["test_train"] is None
    assert "one class" in distance["reason"]
    assert distance["protocol"]["version"] == numbers["bits_per_dim"]["protocol"]["version"]
    assert numbers["inception_score"] is None
    committed = results.evaluation_of(store, config)
    assert json.loads(committed.read(store, "metrics")) == numbers
    dataset = results.dataset_pointer(store, config.name).folder
    assert not [name for name in store.names(dataset) if name.startswith("features-")]

    value = numbers["bits_per_dim"]["value"]
    assert recording_tracker.metrics["eval/bits_per_dim@10"] == value
    assert not [name for name in recording_tracker.metrics if "frechet" in name]
    assert len(recording_tracker.models) == 1
    line = stage.summary(numbers)
    assert line.startswith(f"{value:.3f} ± ")
    assert "bits/dim, no Frechet distance: the training images are of one class" in line
    assert committed.body["summary"] == line


def test_it_is_done_then_and_a_file_gives_the_distance_later(store, evaluated_once, in_process):
    """Catches: numbers that are measured again each time; the lack of a distance that counts as
    the evaluation by features from outside, too."""
    config, numbers = evaluated_once
    in_process.units.clear()
    assert stage.run_evaluate(store, config) == numbers
    assert not in_process.units
    given = {"evaluate.features": "net.pt", "evaluate.features_sha256": "0" * 64}
    assert results.evaluation_of(store, config.replaced(given)) is None


def test_a_training_says_before_it_begins_that_there_will_be_no_distance(
    store, tmp_path, in_process, monkeypatch, caplog
):
    """Catches: days of training before anybody says so."""
    config = one_class_config(tmp_path / "photos")
    monkeypatch.setattr(training, "open_tracker", lambda *_, **__: nullcontext())
    said_before = []

    def train_group(worker, payload, compute, *, name):
        said_before.extend(record.getMessage() for record in caplog.records)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.group, "train_group", train_group)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        training.run_train(store, config)
    (line,) = [line for line in said_before if "no Frechet distance" in line]
    assert line.startswith("warning: no Frechet distance will be measured, bits/dim alone: ")
