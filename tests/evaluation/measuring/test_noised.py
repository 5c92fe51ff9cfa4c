"""What a classifier of noised images makes of held-out ones, and the stage that measures it."""

import json
from contextlib import closing

import numpy as np
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier
from ddpm_core.evaluation.measuring.label_use import classifier_times
from ddpm_core.evaluation.measuring.noised import accuracy_metric, accuracy_part
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.inference.build import build_schedule
from ddpm_core.inference.denoiser import load_score
from ddpm_core.loading.loader import load_split
from ddpm_core.runs import chosen, results
from ddpm_core.runs.table import list_runs
from ddpm_core.shards.index import load_index
from ddpm_core.text.tokens import encode
from ddpm_core.verifying.verify import verify
from tests.sampling.tiny import classifier_config, clip_config, commit_random_weights, cpu

CONFIG = classifier_config()


def pointer(store, config):
    """Return folder and fingerprint of the data set of a run."""
    found = results.dataset_pointer(store, config.name)
    return found.folder, found.fingerprint


def test_each_image_is_looked_at_with_the_noise_of_each_time():
    """Catches: clean images, one noise for all times or images, a label of another row, a share of
    the wrong ones."""
    schedule, positions = build_schedule(CONFIG), torch.tensor([5, 0, 9])
    images_u8 = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    x_0, labels, seen = images_u8 / 127.5 - 1, torch.tensor([1, 0, 2]), []

    def network(x_t, t):
        seen.append((x_t, t))
        return torch.tensor([[0.0, 1, 2], [2, 1, 0], [0, 1, 2]]) * (1 + t[:, None])

    found = accuracy_part(
        Classifier(network), schedule, images_u8.to(torch.uint8), labels, positions, seed=3
    )
    times, key = classifier_times(21), seeding.key(3, "classifier")
    assert [int(t[0]) for _, t in seen] == times
    for draw, (x_t, t) in enumerate(seen):
        eps = seeding.normal(key, draw, positions, (1, 8, 8))
        torch.testing.assert_close(x_t, q_sample(schedule, x_0, t, eps))
    assert torch.equal(found["is_right"], torch.tensor([[0], [1], [1]]).expand(3, len(times)))
    last = torch.tensor([0.0, 1, 2]).double() * (1 + times[-1])
    torch.testing.assert_close(found["nats"][0, -1], -last.log_softmax(0)[1])


def test_the_number_is_the_mean_over_images_and_noises():
    """Catches: chance by the number of classes where one is commoner, the error over noises."""
    is_right = np.array([[1, 1], [1, 0], [0, 0]], dtype=np.uint8)
    found = accuracy_metric(
        is_right,
        np.ones((3, 2)),
        CONFIG.replaced({"diffusion.num_timesteps": 2, "diffusion.beta_schedule": "cosine"}),
        {},
        class_counts=np.array([2, 1]),
    )
    assert found["value"] == 0.5
    assert found["standard_error"] == 0.5 / np.sqrt(3)
    assert found["chance"] == 2 / 3
    assert [(one["t"], one["value"]) for one in found["by_noise"]] == [(0, 2 / 3), (1, 1 / 3)]


def test_clip_is_measured_by_the_captions_of_all_held_out_images(
    store, in_process, recording_tracker
):
    """Catches: captions of a unit alone to tell apart, equal ones that count as others, images that
    are held against another's, accuracy of the first images' captions in place of their own."""
    config = clip_config(**{"data.captions": "classes", "data.caption_templates": ["a {name}"]})
    commit_random_weights(store, config)
    numbers = run_evaluate(store, config)["noised_accuracy"]
    assert numbers["protocol"]["num_classes"] == 10
    assert numbers["protocol"]["classes"].startswith("the captions of these images")
    assert len(in_process.units) == 19

    weights = chosen.require(store, config)
    score = load_score(store, config, weights.checkpoint, cpu())
    index = load_index(store, *pointer(store, config))
    with closing(load_split(store, index, "test", eight_bits=True)) as images:
        labels = images.member("label", np.arange(297))
        x_0 = images.images(0, 297).float() / 127.5 - 1
    texts = encode([f"a {digit}" for digit in range(10)], 16)
    classifier, key, right = score.among(texts), seeding.key(0, "classifier"), []
    for draw, time in enumerate(classifier_times(21)):
        t, positions = torch.full((297,), time), torch.arange(297)
        eps = seeding.normal(key, draw, positions, (1, 8, 8))
        x_t = q_sample(build_schedule(config), x_0, t, eps)
        right.append((classifier.network(x_t, t).argmax(1) == labels).float().mean())
    by_noise = [one["value"] for one in numbers["by_noise"]]
    assert by_noise == pytest.approx([float(one) for one in right], abs=0.004)
    assert numbers["chance"] == float(labels.bincount().max()) / 297


def test_the_stage_measures_a_classifier_without_samples(store, in_process, recording_tracker):
    """Catches: an evaluation that asks for samples, a feature network or the bound; a classifier in
    the registry of models that draw; units that are measured twice."""
    commit_random_weights(store, CONFIG)
    config = CONFIG.replaced({"data.num_test_images": 297})
    numbers = run_evaluate(store, config)
    assert list(numbers) == ["noised_accuracy"]
    accuracy = numbers["noised_accuracy"]
    assert 0 < accuracy["value"] < 0.4
    assert accuracy["protocol"]["num_images"] == 297
    assert len(in_process.units) == 19
    committed = results.evaluation_of(store, config)
    assert set(committed.files) == {"metrics", "accuracy-figure", "loss-figure"}
    assert recording_tracker.metrics["eval/noised_value@10"] == accuracy["value"]
    assert recording_tracker.models == []
    assert json.loads(committed.read(store, "metrics")) == numbers
    run_evaluate(store, config)
    assert len(in_process.units) == 19
    assert not verify("judge", root=store.uri).unfinished
    assert f"{accuracy['value']:.3f}" in list_runs(store)
