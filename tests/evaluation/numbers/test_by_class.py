"""What is measured of each class, against numbers counted by hand and one small run of labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.errors import ConfigError
from ddpm_core.evaluation import stage
from ddpm_core.evaluation.measuring import inputs
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.evaluation.measuring.label_use import classifier_times, worth_metric
from ddpm_core.evaluation.measuring.worker import likelihood_part
from ddpm_core.evaluation.numbers.by_class import Judged, class_rows, judge_metric
from ddpm_core.inference.denoiser import load_denoiser
from ddpm_core.loading.loader import load_split
from ddpm_core.runs import results
from ddpm_core.sampling.stage import run_sample
from ddpm_core.shards.index import load_index
from ddpm_core.shards.members import ClassMember
from tests.sampling.tiny import commit_random_weights, tiny_config
from tests.study.small import context_of


def judged(labels, found):
    return Judged(np.array(labels), np.array(found))


def test_shares_are_those_counted_by_hand():
    """Catches recall taken for precision, and 0 for a class without images."""
    one = judged([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 1, 0])
    assert one.share() == 0.5
    assert [one.share(label) for label in range(4)] == [pytest.approx(2 / 3), 1.0, 0.0, None]


def test_each_class_has_the_bits_of_its_own_images():
    """Catches labels of other images, and the judge's numbers where there is none."""
    bits, labels = np.array([1.0, 2.0, 4.0]), np.array([1, 0, 1])
    samples, held_out = judged([0, 1], [0, 0]), judged([0, 1, 1], [0, 1, 0])
    rows = class_rows(["cat", "dog", "fox"], bits, labels, (samples, held_out))
    assert rows[1] == {
        "label": 1,
        "class": "dog",
        "bits_per_dim": 2.5,
        "num_likelihood_images": 2,
        "judged_right": 0.0,
        "num_samples": 1,
        "held_out_judged_right": 0.5,
    }
    assert rows[2]["bits_per_dim"] is None
    assert "judged_right" not in class_rows(["cat"], bits, labels, None)[0]


def test_a_judgement_says_of_what_it_is():
    config = tiny_config(**{"model.conditioning": "label", "sample.guidance_scale": 2.0})
    found = judge_metric(
        judged([0, 1], [0, 0]),
        judged([1], [1]),
        config,
        {"step": 10},
        network={"kind": "trained"},
        num_classes=10,
    )
    assert (found["value"], found["held_out"], found["chance"]) == (0.5, 1.0, 0.1)
    protocol = found["protocol"]
    assert (protocol["labels"], protocol["guidance_scale"]) == ("balanced", 2.0)
    assert protocol["num_images"] == {"samples": 2, "test": 1}
    assert protocol["prediction"] == config.diffusion.prediction


def test_a_data_set_of_more_classes_than_the_network_has_is_not_measured(store, monkeypatch):
    """Catches imported weights whose null row is given to the images of an eleventh class."""
    config = tiny_config(**{"model.conditioning": "label"})
    commit_random_weights(store, config)
    pointer = results.dataset_pointer(store, config.name)
    index = load_index(store, pointer.folder, pointer.fingerprint)
    monkeypatch.setattr(results, "samples_of", lambda *_: index.manifest)
    assert Inputs.of(store, config).index == index
    names, counts = (*index.label.names, "more"), index.label.counts
    more = replace(index, others={"label": ClassMember(names, counts)})
    monkeypatch.setattr(inputs, "load_index", lambda *_: more)
    with pytest.raises(ConfigError, match=r"set model\.num_classes=11"):
        Inputs.of(store, config)


def test_an_evaluation_of_a_run_of_labels(store, in_process, recording_tracker):
    """Catches a bound without the labels, or with those of other images, a judge that is shown
    other labels than were drawn, numbers that are not kept; a classifier with other noise for each
    class or one label for all, and a worth whose two bounds have noise of their own.
    """
    config = tiny_config(
        **{
            "model.conditioning": "label",
            "sample.batch_size": 4,
            "evaluate.num_classified_images": 12,
            "evaluate.label_worth": True,
        }
    )
    commit_random_weights(store, config)
    run_sample(store, config)
    numbers = stage.run_evaluate(store, config)
    committed = results.evaluation_of(store, config)
    assert json.loads(committed.read(store, "metrics")) == numbers
    assert committed.read(store, "classes-figure").startswith(b"\x89PNG")

    pointer = results.dataset_pointer(store, config.name)
    index = load_index(store, pointer.folder, pointer.fingerprint)
    test = load_split(store, index, "test")
    checkpoint = results.final_checkpoint(store, config)
    denoiser = load_denoiser(store, config, checkpoint, torch.device("cpu"))
    labels = test.member("label", np.arange(40))
    part = likelihood_part(
        denoiser.given(Conditioning(label=labels)),
        test.images(0, 40),
        torch.arange(40),
        seed=config.evaluate.seed,
    )
    bits = (part["prior"] + part["terms"].sum(dim=1)).numpy()
    assert numbers["bits_per_dim"]["value"] == pytest.approx(bits.mean(), rel=1e-4)
    assert numbers["bits_per_dim"]["protocol"]["conditioning"] == "the label of each image"
    nothing = likelihood_part(
        denoiser.given_nothing(),
        test.images(0, 40),
        torch.arange(40),
        seed=config.evaluate.seed,
    )
    saved = 64 * ((nothing["prior"] + nothing["terms"].sum(dim=1)).numpy() - bits)
    worth = numbers["label_worth"]
    assert worth["value"] == pytest.approx(saved.mean(), rel=1e-3)
    assert worth["standard_error"] == pytest.approx(saved.std(ddof=1) / 40**0.5, rel=1e-3)
    shares = np.bincount(labels) / 40
    assert worth["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())

    right = [classified(denoiser, test, i) == labels[i] for i in range(12)]
    own = numbers["diffusion_classifier"]
    assert own["value"] == pytest.approx(np.mean(right))
    assert own["protocol"]["num_images"] == 12
    rows = numbers["classes"]
    assert rows[3]["label_worth"] == pytest.approx(saved[labels.numpy() == 3].mean(), rel=1e-3)
    assert sum(row["num_classified_images"] for row in rows) == 12
    of_3 = bits[labels.numpy() == 3]
    assert rows[3]["class"] == index.label.names[3]
    assert rows[3]["bits_per_dim"] == pytest.approx(of_3.mean(), rel=1e-4)
    assert [row["num_samples"] for row in rows] == [2] * 6 + [1] * 4
    context = context_of(store, config)
    with torch.inference_mode():
        found = context.look(context.first_samples(16))["probabilities"].argmax(dim=1)
    is_right = (found == torch.arange(16) % 10).double()
    assert numbers["judge_accuracy"]["value"] == pytest.approx(float(is_right.mean()))
    assert [row["judged_right"] for row in rows] == [
        pytest.approx(float(is_right[label::10].mean())) for label in range(10)
    ]
    assert 0 < is_right.sum() < 16, "the judge tells labels apart"
    accuracy = numbers["judge_accuracy"]["protocol"]["judge"]["held_out_accuracy"]
    assert numbers["judge_accuracy"]["held_out"] == pytest.approx(accuracy)
    metrics = recording_tracker.metrics
    assert metrics["eval/judge_accuracy@10"] == numbers["judge_accuracy"]["value"]
    assert metrics["eval/diffusion_classifier@10"] == own["value"]
    assert metrics["eval/label_worth@10"] == worth["value"]


def classified(denoiser, images, i):
    """Return the class of image i by Li et al. 2023, algorithm 1, written out."""
    x_0 = images.images(i, i + 1).float() / 127.5 - 1
    errors, key = torch.zeros(10), seeding.key(0, "classifier")
    for draw in range(20):
        t = int((draw + 0.5) * 21 / 20)
        eps = seeding.normal(key, draw, torch.tensor([i]), (1, 8, 8))
        abar = denoiser.schedule.alphas_cumprod[t].float()
        x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
        labels = Conditioning(label=torch.arange(10))
        found = denoiser.network(x_t.repeat(10, 1, 1, 1), torch.full((10,), t), labels)
        errors += (found - eps).square().mean(dim=(1, 2, 3))
    return int(errors.argmin())


def test_images_are_classified_at_the_middles_of_equal_parts_of_the_chain():
    """Catches times of the first part of the chain alone, and one twice where it is short."""
    assert classifier_times(200)[:3] == [5, 15, 25]
    assert classifier_times(200)[-1] == 195
    assert classifier_times(4) == [0, 1, 2, 3]


def test_a_worth_above_the_entropy_of_a_label_is_a_shortcoming_of_the_null():
    """Catches a number that no label can be worth, and nothing that says so."""
    config = tiny_config(**{"model.conditioning": "label"})
    labels, given = np.array([0, 1, 0, 1]), np.zeros(4)
    for saved, is_possible in (([0.5, 0.6, 0.7, 0.6], True), ([2.5, 2.6, 2.7, 2.6], False)):
        found = worth_metric(np.array(saved) / 64, given, labels, config, {})
        assert (found["entropy"], found["protocol"]["warnings"] == []) == (1.0, is_possible)
    assert worth_metric(given[:1], given[:1], labels[:1], config, {}) is None


def test_what_needs_labels_is_refused_without():
    """Catches an evaluation that fails after the training."""
    for key, value in (("num_classified_images", 5), ("label_worth", True)):
        with pytest.raises(ConfigError, match=f"evaluate.{key}=.* setting of model.conditioning"):
            tiny_config(**{f"evaluate.{key}": value})
