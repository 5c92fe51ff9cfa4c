"""Runs from Python."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.api import Run, grid
from ddpm_core.api_arguments import How
from ddpm_core.config.sample import SampleConfig
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.images import png
from ddpm_core.runs import results
from ddpm_core.runs.run import open_run
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sampling.units import read_pictures, units_of
from tests.sampling.tiny import (  # noqa: F401 - fixtures
    _trained_root,
    classifier_config,
    commit_earlier,
    commit_random_weights,
    in_process,
    one_thread,
    recording_tracker,
    store,
    tiny_config,
    trained,
)

SHAPE = (8, 8, 1)


@pytest.fixture
def run(trained):  # noqa: F811
    where, config = trained
    open_run(where, config)
    return Run.load("tiny", root=where.uri)


def test_its_images_are_those_of_the_stage(run, trained, in_process, recording_tracker):  # noqa: F811
    """Catches: other weights, another seed or another chain than `ddpm sample` draws with."""
    where, config = trained
    run_sample(where, config)
    samples = results.samples_of(where, config)
    made = [
        png.decode(content, SHAPE, origin=name)
        for unit in units_of(config.sample)
        for name, content in read_pictures(where, samples, unit)
    ]
    np.testing.assert_array_equal(run.sample(4), np.stack(made[:4]))
    np.testing.assert_array_equal(run.sample([3, 2]), np.stack([made[3], made[2]]))
    assert (run.sample(4, seed=1) != np.stack(made[:4])).any()


def test_another_sampler_has_its_own_defaults(trained):  # noqa: F811
    """Catches: settings tuned to the run's sampler that another one refuses or takes for its own,
    and a request that is drawn as the run draws."""
    where, config = trained
    by = {"sample.sampler": "ddim", "sample.num_steps": 7, "sample.eta": 0.5}
    open_run(where, config)
    run = Run.load("tiny", root=where.uri, settings=by)
    plain = run.sample(2)
    np.testing.assert_array_equal(run.sample(2, sampler="ddim", steps=7, eta=0.5), plain)
    assert (run.sample(2, steps=5) != plain).any()
    assert len(list(run.stream(1, sampler="heun"))) == config.diffusion.num_timesteps
    run.sample(1, sampler="langevin")
    with pytest.raises(ConfigError, match="num_steps"):
        run.sample(1, sampler="unipc", steps=500)
    with pytest.raises(ConfigError, match="of no class"):
        run.sample(1, labels=[3])


def test_a_stream_ends_with_the_images_and_may_be_left(run):
    """Catches: an x_0_hat given for the image, steps counted wrongly, a thread that draws on."""
    moments = list(run.stream(2, steps=6, sampler="unipc", every=2))
    assert [(one.step, one.num_steps) for one in moments] == [(2, 6), (4, 6), (6, 6)]
    np.testing.assert_array_equal(moments[-1].images, run.sample(2, steps=6, sampler="unipc"))
    assert (moments[0].images != moments[-1].images).any()
    left = run.stream(1)
    next(left)
    left.close()
    assert "drawing" not in {thread.name for thread in threading.enumerate()}


def test_what_is_not_masked_keeps_its_values(run):
    """Catches: a mask that is inverted, and one that is passed over."""
    images = run.sample(2)
    mask = np.zeros(SHAPE[:2], bool)
    mask[2:5, 1:] = True
    edited = run.edit(images, mask=mask, steps=5, sampler="ddim", seed=3)
    np.testing.assert_array_equal(edited[:, ~mask], images[:, ~mask])
    assert (edited[:, mask] != images[:, mask]).any()
    assert (run.edit(images, strength=0.5) != images).any()
    with pytest.raises(ConfigError, match="give a mask, or a strength"):
        run.edit(images)
    with pytest.raises(DataError, match=r"\(n, 8, 8, 1\) uint8"):
        run.edit(images[..., 0], strength=0.5)


def test_a_way_without_noise_begins_and_ends_with_the_two_images(run):
    """Catches: ends exchanged, or mixed in other shares than said."""
    first, last = run.sample(2)
    way = run.interpolate(first, last, 5, depth=0)
    np.testing.assert_array_equal(way[0], first)
    np.testing.assert_array_equal(way[-1], last)
    np.testing.assert_allclose(way[2], (first / 2 + last / 2), atol=1)
    assert run.interpolate(first, last, 3).shape == (3, *SHAPE)


def test_a_code_begins_with_nothing_and_ends_near_the_image(run):
    """Catches: bits counted from the wrong end, and moments in another order than said."""
    image = run.sample(1)[0]
    received = run.code(image, 4)
    bits = [one.bits_per_dim for one in received]
    assert bits == sorted(bits)
    assert 0 <= bits[0] < 0.1 * bits[-1]
    last = received[-1]
    assert last.image.shape == image.shape
    # A random network is no model of the image, but little noise hides little of it.
    assert last.rmse < received[0].rmse
    found = np.sqrt(np.mean((last.image.astype(float) - image) ** 2))
    assert found == pytest.approx(last.rmse, abs=1)


def test_files_become_what_the_model_sees(run, tmp_path):
    """Catches: an image that is squeezed, and an array that people cannot look at."""
    Image.new("RGB", (40, 20), (200, 200, 200)).save(tmp_path / "wide.png")
    seen = run.read(tmp_path / "wide.png")
    assert seen.shape == SHAPE
    assert set(seen.ravel()) == {200}
    assert grid(np.stack([seen] * 3)).size[0] > 100
    with pytest.raises(DataError, match="cannot be read"):
        run.read(tmp_path / "none.png")


def test_what_is_not_there_is_refused_in_words(trained):  # noqa: F811
    where, config = trained
    open_run(where, config)
    with pytest.raises(ConfigError, match=r"there is no run 'tini' below .* did you mean 'tiny'"):
        Run.load("tini", root=where.uri)
    with pytest.raises(CheckpointError, match="400"):
        Run.load("tiny", root=where.uri, model="@400")
    assert Run.load("tiny", root=where.uri).metrics is None


def test_an_edit_of_nothing_is_guided_and_thresholded_as_said(trained):  # noqa: F811
    """Catches: a weaker model and a threshold that are passed over where no label is given, a
    classifier that is passed over in silence, and noise that depends on the batch."""
    where, config = trained
    open_run(where, config)
    commit_earlier(where, config, 5)
    plain = Run.load("tiny", root=where.uri)
    images = plain.sample(3)
    edited = plain.edit(images, strength=0.5)
    weaker = {"sample.guidance_by": "@5", "sample.guidance_scale": 3}
    for settings in ({"sample.threshold_percentile": 50}, weaker):
        run = Run.load("tiny", root=where.uri, settings=settings)
        assert (run.edit(images, strength=0.5) != edited).any(), settings
    np.testing.assert_array_equal(plain.edit(images[:1], strength=0.5), edited[:1])
    judge = classifier_config()
    commit_random_weights(where, judge)
    open_run(where, judge)
    by = {"sample.guidance_by": "judge", "sample.guidance_scale": 5}
    run = Run.load("tiny", root=where.uri, settings=by)
    with pytest.raises(ConfigError, match="give a label"):
        run.edit(images, strength=0.5)
    np.testing.assert_array_equal(run.edit(images, strength=0.5, guidance=0), edited)
    assert (run.edit(images, strength=0.5, labels=[3]) != edited).any()
    late = {**by, "sample.guidance_interval": [5, 99]}
    run = Run.load("tiny", root=where.uri, settings=late)
    with pytest.raises(ConfigError, match="nothing would be guided"):
        run.edit(images, strength=0.2, labels=[3])


def test_drawn_labels_are_of_the_seed_too(trained):  # noqa: F811
    """Catches: labels=training drawn by the run's seed under the noise of another."""
    where, config = trained
    classes = {"model.conditioning": "label", "sample.labels": "training", "train.num_steps": 11}
    labelled = config.replaced({"name": "labelled", **classes})
    commit_random_weights(where, labelled)
    open_run(where, labelled)
    run = Run.load("labelled", root=where.uri)
    of_seed = Run.load("labelled", root=where.uri, settings={"sample.seed": 5})
    np.testing.assert_array_equal(run.sample(8, steps=3, seed=5), of_seed.sample(8, steps=3))


def test_a_stream_that_fails_may_be_left_too(run, monkeypatch):
    """Catches: a thread that waits for ever to hand over its error."""
    on_the_way = threading.Event()

    def draw(_denoiser, positions, shape, *, on_step, **_of):
        on_step(2, torch.zeros(1), torch.zeros(len(positions), *shape))
        on_step(1, torch.zeros(1), torch.zeros(len(positions), *shape))
        on_the_way.set()
        raise DataError("fails")

    monkeypatch.setattr("ddpm_core.sampling.loaded.draw", draw)
    left = run.stream(1)
    next(left)
    assert on_the_way.wait(60)
    left.close()
    failing = run.stream(1)
    next(failing), next(failing)
    with pytest.raises(DataError, match="fails"):
        next(failing)


def test_numbers_are_numpys_too(run):
    """Catches: an array taken for a truth value, and a number that JSON does not know."""
    images = run.sample(np.arange(2), steps=np.int64(5))
    np.testing.assert_array_equal(images, run.sample(np.int64(2), steps=5))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_images": [2**63]}, "below 2"),
        ({"num_images": 2.5}, "num_images=2.5 must be a whole number"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"seed": 2**63}, "must be from 0 to"),
        ({"every": 0}, "every=0 must be at least 1"),
        ({"model": "@5"}, "is read when this one is loaded"),
        ({"guidance_by": "@5", "guidance": 3}, "is read when this one is loaded"),
        ({"labels": "37"}, r"labels=\['37'\]: the images of this model are of no class"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(run, wrong, words):
    """Catches: settings that are passed over, and what ends in a traceback of another library."""
    with pytest.raises(ConfigError, match=words):
        run.stream(**wrong)


def test_what_is_no_image_is_refused_in_words(run, trained):  # noqa: F811
    images = run.sample(2, steps=2)
    with pytest.raises(DataError, match=r"the image is \(4, 8, 1\) uint8"):
        run.interpolate(images[0], images[0, :4])
    with pytest.raises(DataError, match=r"the image is \(2, 8, 8, 1\) uint8"):
        run.code(images)
    for wrong in (images[0], images[:0], images.astype(float)):
        with pytest.raises(DataError, match="at least one"):
            grid(wrong)
    with pytest.raises(ConfigError, match="device='nowhere' cannot be used"):
        Run.load("tiny", root=trained[0].uri, device="nowhere")


def test_a_network_of_single_steps_sends_all_of_them(run, monkeypatch):
    """Catches: a chain that is shortened for a network that cannot leave steps out."""
    monkeypatch.setattr("ddpm_core.editing.arrays._LONGEST_CODE", 5)
    image = run.sample(1, steps=2)[0]
    with pytest.raises(ConfigError, match="from 2 to 5"):
        run.code(image, 21)
    monkeypatch.setattr("ddpm_core.editing.arrays.is_of_one_step", lambda _prediction: True)
    assert len(run.code(image, 21)) == 21


def test_every_key_that_changes_an_image_can_be_given():
    """Catches: a key of the section `sample` that the API's types do not have, or one that is gone.

    The others are spelt otherwise there, count images and batches, or name weights.
    """
    spelt = {"num_steps", "labels", "guidance_scale", "sampler", "seed"}
    counted = {key for key in SampleConfig.model_fields if key.startswith("num_")}
    others = spelt | counted | {"unit_size", "batch_size", "model", "guidance_by", "low_from"}
    ours = {"steps", "labels", "guidance", "sampler", "seed"}
    assert How.__annotations__.keys() - ours == SampleConfig.model_fields.keys() - others
