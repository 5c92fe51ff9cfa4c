"""An unconditional run whose samples a classifier guides, from files to what is measured."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.evaluation.numbers import gathered
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.inference.denoiser import load_denoiser, load_guide
from ddpm_core.runs import chosen, results
from ddpm_core.runs.run import open_run
from ddpm_core.sampling import stage
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.plan import load_plan
from ddpm_core.sampling.units import first_images
from tests.sampling.tiny import classifier_config, commit_random_weights, cpu, files_of


@pytest.fixture
def judged(trained):
    """Give a store and a run without labels that a classifier guides."""
    store, config = trained
    commit_random_weights(store, classifier_config(), seed=5)
    open_run(store, classifier_config())
    few = {"sample.num_images": 8, "sample.num_grid_images": 8, "sample.num_strip_images": 2}
    guide = {"sample.guidance_by": "judge", "sample.guidance_scale": 40.0}
    return store, config.replaced({**guide, **few})


def test_it_draws_classes_and_they_are_measured(judged, in_process, recording_tracker, capsys):
    """Catches: labels that reach no worker, or the network instead of the classifier; samples that
    depend on the order of the units; labels and guide that the results do not name, and samples of
    classes whose judge is not asked."""
    store, config = judged
    stage.run_sample(store, config)
    assert ", guided by judge@10:ema " in capsys.readouterr().out
    samples = results.samples_of(store, config)
    assert (samples.body["guide"], samples.body["labels"]) == ("judge@10:ema", "balanced")
    assert samples.body["guidance_scale"] == 40.0

    weights, positions = chosen.require(store, config), torch.arange(4)
    denoiser = load_denoiser(store, config, weights.checkpoint, cpu())
    found = first_images(store, samples, config.sample, config.data.shape, 4)
    guide, size = load_guide(store, weights, cpu()), config.sample.batch_size

    def drawn(labels):
        parts = [
            draw(
                guided(denoiser, Conditioning(label=labels[at : at + size]), config.sample, guide),
                positions[at : at + size],
                config.data.shape,
                sample=config.sample,
                seed=0,
            )
            for at in (0, 2)
        ]
        return to_u8(torch.cat(parts)).numpy()

    assert np.array_equal(found, drawn(torch.arange(4)))
    assert not np.array_equal(found, drawn(torch.arange(4) + 5))

    before = files_of(store, samples.folder)
    for name in before:
        store.delete(f"{samples.folder}/{name}")
    in_process.reverse = True
    stage.run_sample(store, config)
    assert files_of(store, samples.folder) == before

    numbers = run_evaluate(store, config)
    protocol = numbers["judge_accuracy"]["protocol"]
    assert (protocol["guide"], protocol["labels"]) == ("judge@10:ema", "balanced")
    assert numbers["frechet_distance"]["protocol"]["labels"] == "balanced"
    assert [row["class"] for row in numbers["classes"]] == [str(label) for label in range(10)]


def test_classes_that_the_images_do_not_have_are_not_judged(judged, monkeypatch):
    """Catches: a share judged right by a judge of other classes."""
    store, config = judged
    plan = replace(load_plan(store, config), names=tuple("abcdefghij"))
    monkeypatch.setattr(gathered, "load_plan", lambda *_: plan)

    index = SimpleNamespace(label=SimpleNamespace(names=tuple("0123456789")))
    inputs = SimpleNamespace(store=store, config=config, index=index)
    assert gathered._of_classes(inputs, None, None) == {}
