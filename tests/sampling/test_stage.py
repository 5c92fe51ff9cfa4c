import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.__main__ import main
from ddpm_core.drawing import pictures
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.denoiser import load_denoiser
from ddpm_core.runs import layout, results
from ddpm_core.sampling import stage, worker
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.plan import Plan
from ddpm_core.sampling.units import first_images
from ddpm_core.store.commit import retire
from tests.sampling.tiny import commit_earlier, commit_random_weights, cpu, files_of, tiny_config


def picture(manifest, store, role) -> np.ndarray:
    with Image.open(io.BytesIO(manifest.read(store, role))) as image:
        return np.asarray(image)


def test_samples_are_what_draw_gives_for_their_indices(sampled):
    """Catches: units or batches that begin at 0 each, weights other than the averaged ones."""
    store, config = sampled
    samples, checkpoint = results.samples_of(store, config), results.final_checkpoint(store, config)
    found = first_images(store, samples, config.sample, config.data.shape, 16)
    denoiser = load_denoiser(store, config, checkpoint, torch.device("cpu"))
    for start in (0, 6, 14):
        x_0 = draw(
            denoiser,
            torch.arange(start, start + 2),
            config.data.shape,
            sample=config.sample,
            seed=config.sample.seed,
        )
        assert np.array_equal(found[start : start + 2], to_u8(x_0).numpy())


def test_samples_say_how_they_were_made_and_show_themselves(
    trained, in_process, recording_tracker, capsys
):
    """Catches: a protocol with holes, pictures of other images, a silent stage."""
    store, config = trained
    folder = stage.run_sample(store, config)
    samples, checkpoint = results.samples_of(store, config), results.final_checkpoint(store, config)
    assert samples.folder == folder
    body = samples.body
    assert body["num_images"] == 16
    assert body["ema_sha256"] == checkpoint.files["ema"].sha256
    assert (body["seed"], body["sampler"], body["num_steps"]) == (0, "ancestral", 21)
    assert (body["clip_x_0"], body["state"], body["step"]) == (True, "float32", 10)
    assert (body["prediction"], body["beta_schedule"]) == ("eps", "linear")
    assert body.items() >= config.diffusion.model_dump(mode="json", exclude={"kind"}).items()
    assert body["units"] == [samples.files[f"unit-{i:06d}"].sha256 for i in range(4)]
    assert [unit.number for unit in in_process.units] == [0, 1, 2, 3]

    for role in ("grid", "strip"):
        assert recording_tracker.files[f"pictures/{role}.png"] == samples.read(store, role)
    assert recording_tracker.tags["ddpm.samples_uri"] == store.uri_of(folder)
    assert recording_tracker.failed is False
    lines = capsys.readouterr().out.splitlines()
    assert "sample  0/16 images" in lines
    assert any(line.startswith("sample  16/16 images") for line in lines)


def test_the_grid_shows_the_first_images(sampled):
    """Catches: a grid of the last unit, or of as many images as there are."""
    store, config = sampled
    samples = results.samples_of(store, config)
    images = first_images(store, samples, config.sample, config.data.shape, 10)
    assert np.array_equal(picture(samples, store, "grid"), pictures.grid(images)[..., 0])


def test_the_strip_shows_the_first_images_and_ends_in_them(sampled):
    """Catches: the strip of the second batch, the noisy end for the clean one."""
    store, config = sampled
    samples = results.samples_of(store, config)
    strip = picture(samples, store, "strip")
    assert strip.shape == (48 + 3 * 49 + 1 + 12, 2 * (9 * 49 + 1) + 3 * 12)  # 9 moments, 3 images
    images = first_images(store, samples, config.sample, config.data.shape, 3)
    for row in range(3):
        image = pictures.sheet(
            images[row : row + 1], num_columns=1, scale=6, smooth=True, separator=0
        )
        top = 49 + row * 49
        for left in (13 + 8 * 49, 13 + 8 * 49 + 9 * 49 + 1 + 12):
            assert np.array_equal(strip[top : top + 48, left : left + 48], image[..., 0])
        first = strip[top : top + 48, 13 : 13 + 48].astype(float)
        assert abs(first - image[..., 0]).mean() > 20, "the first state is noise, not the image"


@pytest.mark.usefixtures("recording_tracker")
def test_a_restart_makes_only_what_is_missing(sampled, in_process):
    """Catches: drawing everything again, or trusting a unit whose file is gone."""
    store, config = sampled
    folder = results.samples_of(store, config).folder
    before = files_of(store, folder)
    tar = next(name for name in before if name.startswith("000002-"))
    for name in ("first-16.json", "000001.json", tar):
        store.delete(f"{folder}/{name}")
    assert stage.run_sample(store, config) == folder
    assert [unit.number for unit in in_process.units] == [1, 2]
    after = files_of(store, folder)
    assert {name: after[name] for name in before} == before


def test_complete_samples_are_recognised_and_logged_again(
    sampled, in_process, recording_tracker, capsys
):
    """Catches: a second run that draws, or that leaves MLflow without what it missed."""
    store, config = sampled
    assert stage.run_sample(store, config) == results.samples_of(store, config).folder
    assert in_process.units == []
    assert "pictures/grid.png" in recording_tracker.files
    assert all(recording_tracker.described)
    assert recording_tracker.described, "the description shows no grid"
    assert "done already" in capsys.readouterr().out


@pytest.mark.usefixtures("recording_tracker")
def test_a_unit_that_is_damaged_after_the_end_is_made_again(sampled, in_process):
    """Catches: complete samples that nothing can mend."""
    store, config = sampled
    folder = results.samples_of(store, config).folder
    before = files_of(store, folder)
    tar = next(name for name in before if name.startswith("000001-"))
    store.write(f"{folder}/{tar}", before[tar][:-512])
    stage.run_sample(store, config)
    assert [unit.number for unit in in_process.units] == [1]
    assert files_of(store, folder) == before


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_other_sampling_of_the_same_run_stands_beside_the_first(sampled):
    """Catches: samples of another seed taken for these."""
    store, config = sampled
    other = config.replaced({"sample.seed": 1})
    first = results.samples_of(store, config)
    assert stage.run_sample(store, other) != first.folder
    a, b = (
        first_images(store, results.samples_of(store, one), one.sample, config.data.shape, 8)
        for one in (config, other)
    )
    assert (a != b).mean() > 0.3


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_without_a_final_checkpoint_nothing_is_drawn(store):
    """Catches: sampling from the newest weights of an unfinished training."""
    config = tiny_config()
    commit_random_weights(store, config.replaced({"train.num_steps": 5}))
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 10 .* run the train stage"):
        stage.run_sample(store, config)


def test_weights_that_are_named_are_the_ones_that_are_drawn_from(
    sampled, in_process, recording_tracker, capsys
):
    """Catches: the last average whatever is named, two sets of samples in one folder, and a stage
    that does not say whose they are."""
    store, config = sampled
    before = results.samples_of(store, config)
    made = commit_earlier(store, config, 5)
    raw = config.replaced({"sample.model": "@5:raw"})
    folder = stage.run_sample(store, raw)
    digest = made.files["state"].sha256
    assert f"weights: tiny@5:raw {digest[:12]}" in capsys.readouterr().out.splitlines()
    assert folder != before.folder
    assert results.samples_of(store, config) == before
    samples = results.samples_of(store, raw)
    assert samples.body["weights_sha256"] == digest
    assert (samples.body["step"], samples.body["average"]) == (5, "raw")
    assert "ema_sha256" not in samples.body
    tags, metrics = recording_tracker.tags, recording_tracker.metrics
    assert (tags["ddpm.weights"], tags["ddpm.weights_sha256"]) == ("tiny@5:raw", digest)
    assert metrics == {"sample/num_images@5": 16}
    denoiser = load_denoiser(store, config, made, cpu(), average="raw")
    x_0 = draw(denoiser, torch.arange(2), config.data.shape, sample=config.sample, seed=0)
    found = first_images(store, samples, raw.sample, config.data.shape, 2)
    assert np.array_equal(found, to_u8(x_0).numpy())
    # The default, spelt out, is the default.
    assert stage.run_sample(store, config.replaced({"sample.model": "@10"})) == before.folder


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_weights_that_go_while_they_are_used_are_refused_and_what_was_made_is_kept(
    trained, monkeypatch
):
    """Catches: a checkpoint that retention deleted, quarantined as damaged; units that are lost."""
    store, config = trained
    made = commit_earlier(store, config, 5)
    named = config.replaced({"sample.model": "@5"})
    make = worker.make_worker

    def first_unit_only(payload, get_device):
        draw_unit = make(payload, get_device)

        def work(unit):
            if unit.number == 1:
                retire(store, made.folder)
                make(payload, get_device)  # as an actor does that takes the place of a lost one
            return draw_unit(unit)

        return work

    monkeypatch.setattr(stage, "make_worker", first_unit_only)
    with pytest.raises(CheckpointError, match=r"deleted while they were to be read.*is kept"):
        stage.run_sample(store, named)
    assert not store.exists(f"{made.folder}/quarantined.json")
    (folder,) = store.names("runs/tiny/samples")
    assert "000000.json" in store.names(f"runs/tiny/samples/{folder}")
    with pytest.raises(CheckpointError, match=r"were deleted by train\.keep_checkpoints"):
        stage.run_sample(store, named)


@pytest.mark.usefixtures("recording_tracker")
def test_the_newest_weights_that_go_before_they_are_loaded_are_followed_by_newer_ones(
    trained, in_process, monkeypatch, capsys
):
    """Catches: a sampling of @newest that fails because the training was faster than its start,
    and one of a step that was named that goes to another."""
    store, config = trained
    earlier, last = commit_earlier(store, config, 5), results.final_checkpoint(store, config)
    key, make = f"{last.folder}/manifest.json", worker.make_worker
    manifest_bytes = store.read(key)
    store.write(layout.run_json_key(config.name), config.to_json().encode())

    def overtaken(payload, get_device):
        if not store.exists(key):  # the training commits its last checkpoint, and deletes that one
            store.write(key, manifest_bytes)
            retire(store, earlier.folder)
        return make(payload, get_device)

    monkeypatch.setattr(stage, "make_worker", overtaken)
    arguments = ["sample", config.name, "--root", store.uri, "--model"]
    store.delete(key)
    assert main([*arguments, "@newest"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"weights: tiny@5:ema#\w+ went meanwhile; beginning anew with the newest", out)
    assert results.samples_of(store, config).body["step"] == 10
    assert main([*arguments, "@5"]) == CheckpointError.exit_code


def test_a_worker_refuses_weights_that_are_not_the_ones_in_its_payload(trained):
    """Catches: units of two trainings in one folder."""
    store, config = trained
    payload = worker.payload_of(store.uri, config, "runs/tiny/samples/x", "0" * 64, Plan())
    with pytest.raises(CheckpointError, match="trained again, exchanged or deleted"):
        worker.make_worker(payload, cpu)


@pytest.mark.gpu
def test_a_gpu_makes_the_samples_of_a_cpu(trained, in_process, recording_tracker, gpu, monkeypatch):
    """Catches pictures of CUDA tensors, and units whose images are others there.

    In float32: another rounding may turn single levels.
    """
    monkeypatch.setattr("ddpm_core.inference.denoiser.arithmetic_of", lambda *_: torch.float32)
    in_process.device = gpu
    store, config = trained
    stage.run_sample(store, config)
    samples, checkpoint = results.samples_of(store, config), results.final_checkpoint(store, config)
    found = first_images(store, samples, config.sample, config.data.shape, 16)
    denoiser = load_denoiser(store, config, checkpoint, torch.device("cpu"))
    x_0 = draw(
        denoiser, torch.arange(16), config.data.shape, sample=config.sample, seed=config.sample.seed
    )
    difference = np.abs(found.astype(int) - to_u8(x_0).numpy())
    assert difference.max() <= 1
    assert difference.mean() < 0.05
