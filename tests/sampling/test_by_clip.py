"""An unconditional run whose samples CLIP guides to prompts, from files to what is written."""

import numpy as np
import pytest
import torch

from ddpm_core.api import Run
from ddpm_core.conditioning import Conditioning
from ddpm_core.config import ClipConfig, identity
from ddpm_core.config.model.network import NetworkConfig
from ddpm_core.errors import ConfigError
from ddpm_core.inference.denoiser import load_denoiser, load_guide
from ddpm_core.preflight import preflight
from ddpm_core.runs import chosen, results
from ddpm_core.runs.reference import trained_by
from ddpm_core.runs.run import open_run
from ddpm_core.runs.stages import stages_of
from ddpm_core.sampling import stage
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.plan import load_plan
from ddpm_core.sampling.units import first_images
from ddpm_core.text.tokens import encode
from tests.sampling.tiny import (
    classifier_config,
    clip_config,
    commit_random_weights,
    cpu,
    tiny_config,
)

FEW = {"sample.num_images": 4, "sample.num_grid_images": 4, "sample.num_strip_images": 2}
GUIDED = {"sample.guidance_by": "clip", "sample.guidance_scale": 40.0}
PROMPTS = {"sample.prompts": ["a one", "a two"]}


@pytest.fixture
def clipped(trained):
    """Give a store with a run without labels, and CLIP."""
    store, config = trained
    commit_random_weights(store, clip_config(), seed=5)
    open_run(store, clip_config())
    return store, config.replaced(FEW)


@pytest.mark.parametrize("num_steps", [None, 10])
def test_it_draws_what_the_prompts_say(clipped, in_process, recording_tracker, capsys, num_steps):
    """Catches: prompts that reach no worker, or the network instead of CLIP, a prompt of another
    image, the form of another sampler; prompts and guide that the results do not name."""
    store, config = clipped
    config = config.replaced({**GUIDED, **PROMPTS, "sample.num_steps": num_steps})
    stage.run_sample(store, config)
    assert ", guided by clip@10:ema " in capsys.readouterr().out
    samples = results.samples_of(store, config)
    assert (samples.body["guide"], samples.body["prompts"]) == ("clip@10:ema", ["a one", "a two"])
    assert load_plan(store, config).about(3) == {"prompt": "a two"}

    weights = chosen.require(store, config)
    denoiser = load_denoiser(store, config, weights.checkpoint, cpu())
    found = first_images(store, samples, config.sample, config.data.shape, 2)
    guide, form = load_guide(store, weights, cpu()), "mean" if num_steps is None else "eps"

    def drawn(*texts):
        given, settings = Conditioning(text=encode(texts, 16)), config.sample
        followed = guided(denoiser, given, settings, guide, form=form)
        x_0 = draw(followed, torch.arange(2), config.data.shape, sample=settings, seed=0)
        return to_u8(x_0).numpy()

    assert np.array_equal(found, drawn("a one", "a two"))
    assert not np.array_equal(found, drawn("a two", "a one"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (GUIDED, "'clip' is CLIP, which leads to what a text says, and sample.prompts=held_out"),
        ({**GUIDED, **PROMPTS, "sample.labels": [3]}, r"sample\.labels=\[3\] is a setting of"),
        ({**GUIDED, **PROMPTS, "sample.guidance_rescale": 0.5}, "'clip' is CLIP, which has none"),
        (
            {**GUIDED, **PROMPTS, "sample.guidance_by": "judge"},
            r'sample\.prompts=\["a one", "a two"\] is a setting .* and sample\.guidance_by=.judge',
        ),
    ],
)
def test_what_does_not_go_with_clip_is_refused_before_anything_is_drawn(clipped, changes, words):
    store, config = clipped
    commit_random_weights(store, classifier_config())
    open_run(store, classifier_config())
    with pytest.raises(ConfigError, match=words):
        preflight(store, config.replaced(changes), ("sample",), command=str, here=False)


def test_clip_of_another_noise_guides_nobody(clipped):
    store, config = clipped
    other = config.replaced({**GUIDED, **PROMPTS, "name": "b", "diffusion.beta_schedule": "cosine"})
    words = r"run 'clip' cannot guide run 'b', .*\n.*beta_schedule.*\nTrain CLIP of the same"
    with pytest.raises(ConfigError, match=words):
        trained_by(store, other, "guidance_by")


def test_prompts_of_no_guide_are_refused(clipped):
    with pytest.raises(ConfigError, match=r"or of sample\.guidance_by a run of model\.kind=clip"):
        clipped[1].replaced(PROMPTS)


def test_clip_is_sharded_trained_and_evaluated_and_draws_nothing(clipped):
    """Catches: images of a network that draws none, and a pipeline that ends at its sampling."""
    store, _ = clipped
    assert stages_of("train-ddpm", "clip") == ("shard", "train", "evaluate")
    for name in ("sample", "study"):
        with pytest.raises(
            ConfigError, match=rf"^{name} is of networks .* draws none .model\.kind"
        ):
            preflight(store, clip_config(), (name,), command=str, here=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.loss": "vlb"}, r"train\.loss=vlb is of networks .* how well an image fits a cap"),
        ({"train.preview_every": 5}, r"train\.preview_every=5 is of networks that draw"),
        (
            {"model.conditioning": "text"},
            r"conditioning=text is of other networks, and model\.kind",
        ),
        ({"model.known": True}, r"known=true is of other networks"),
        ({"model.patch_size": 3}, r"data\.height=8 is not a multiple of model\.patch_size=3"),
        ({"model.hidden_size": 20}, r"hidden_size=20 must be a multiple of 8 and at least 16"),
        (
            {"model.text_num_heads": 3},
            r"text_hidden_size=16 must be a multiple of text_num_heads=3",
        ),
        (
            {"compute.micro_batch_size": 4},
            r"compute\.micro_batch_size=4 .* the captions of the whole batch",
        ),
        (
            {"compute.cuda_graphs": True, "compute.num_workers": 2},
            r"compute\.cuda_graphs=true .* several workers",
        ),
    ],
)
def test_what_clip_has_no_use_for_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        clip_config(**changes)


def test_every_key_of_clip_counts():
    """Catches: two towers in one folder."""
    keys = set(identity.counted("model", clip_config().model))
    unused = NetworkConfig.model_fields.keys() - {"kind", "text_length"}
    assert keys == ClipConfig.model_fields.keys() - unused


def test_an_edit_that_clip_does_not_guide_is_of_its_class_as_ever(store):
    """Catches: guidance 0 that leaves out the label with CLIP."""
    config = tiny_config(name="classes").replaced({"model.conditioning": "label"})
    for one, seed in ((config, 0), (clip_config(), 5)):
        commit_random_weights(store, one, seed=seed)
        open_run(store, one)
    plain, by_clip = (
        Run.load("classes", root=store.uri, settings=settings, device="cpu")
        for settings in ({}, GUIDED | PROMPTS)
    )
    images = np.full((2, 8, 8, 1), 90, np.uint8)
    how = {"strength": 0.6, "labels": [3]}
    wanted = plain.edit(images, **how, guidance=1)
    assert not np.array_equal(wanted, plain.edit(images, **how, guidance=0))
    np.testing.assert_array_equal(by_clip.edit(images, **how, guidance=0), wanted)
