"""Weights that guide others: looked up as those are, pinned, counted, and refused in time."""

import pytest

from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.preflight import preflight
from ddpm_core.recipes import ablation_runs
from ddpm_core.runs import chosen, deletion, places, results
from ddpm_core.runs.reference import trained_by
from ddpm_core.runs.run import open_run
from ddpm_core.store.commit import retire
from ddpm_core.store.storage import open_store
from ddpm_core.tracking.identity import changes_of
from flows import plan
from tests.flows.fakes import finish
from tests.runs.test_reference import checkpoint, half
from tests.sampling.tiny import tiny_config

__all__ = ["half"]
GUIDED = {"sample.guidance_scale": 2.0}
DEEP = {"data.name": "images", "data.grey": True}
WIDE = {"data.height": 32, "data.width": 32}


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "ro ot"))


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)


def by(config, text, **changes):
    return config.replaced({**GUIDED, "sample.guidance_by": text, **changes})


@pytest.fixture
def done(store, half):
    """Give the run of ten steps, trained to its end, and its earlier steps."""
    checkpoint(store, half, 10)
    return half


def look(store, config, *stages):
    preflight(store, config, stages, command=str, here=False)


def test_it_is_pinned_once_and_the_samples_hang_on_its_digest(store, done):
    """Catches: samples of another reference that pass for these, one that is resolved anew by each
    worker, and equal bytes under two names that are drawn twice."""
    plain = places.samples(store, done, chosen.require(store, done))
    config = chosen.pinned(store, by(done, "@2"))
    weights = chosen.require(store, config)
    digest = results.checkpoint_of(store, done, 2).files["ema"].sha256
    assert config.sample.guidance_by == f"tiny@2:ema#{digest[:16]}"
    assert config.sample.model is None, "only what is named is pinned"
    assert weights.digest["guide_sha256"] == digest
    folders = {
        text: places.samples(store, by(done, text), chosen.require(store, by(done, text))).folder
        for text in ("@2", config.sample.guidance_by, "@4", "@2:raw", "@2:slow")
    }
    assert folders["@2"] == folders[config.sample.guidance_by]
    assert len({plain.folder, *folders.values()}) == 5
    for stage, find in (("evaluate", results.evaluation_of), ("study", results.study_of)):
        finish(store, config, stage)
        assert find(store, config).body["guide"] == "tiny@2:ema"
        assert find(store, by(done, "@4")) is None
    store.delete(f"{weights.weaker.checkpoint.folder}/manifest.json")
    checkpoint(store, done, 2, text="trained again")
    with pytest.raises(CheckpointError, match=r"sample\.guidance_by=.* is pinned to weights"):
        chosen.require(store, config)


def test_what_is_not_there_is_refused_before_anything_starts(store, half):
    """Catches: days of training, and then nothing that guides the samples."""
    with pytest.raises(ConfigError, match=r"sample\.guidance_by='othr': there is no run 'othr'"):
        look(store, by(half, "othr"), "train", "sample")
    with pytest.raises(ConfigError, match=r"guidance_by='@7'.* makes no checkpoint of step 7"):
        look(store, by(half, "@7"), "train", "sample")
    with pytest.raises(ConfigError, match=r"'@4'.* give train\.keep_checkpoints=4 or more"):
        look(store, by(half, "@4"), "train", "sample")
    kept = by(half, "@4", **{"train.keep_checkpoints": 4})
    look(store, kept, "train", "sample")
    checkpoint(store, half, 10)
    with pytest.raises(CheckpointError, match=r"guidance_by='@6': run 'tiny' has no checkpoint"):
        look(store, by(half, "@6"), "sample")
    retire(store, results.checkpoint_of(store, half, 2).folder)
    with pytest.raises(CheckpointError, match=r"the files of tiny@2:ema .* were deleted"):
        look(store, by(half, "@2"), "sample")
    assert chosen.require_named(store, by(half, "@6"), "model").step == 10, "alone, as exported"


def test_a_guide_that_is_still_to_be_trained_is_waited_for(store, half):
    """Catches: weights of another run that are there, and a refusal since this run's own, which
    guide them, are trained first."""
    strong = half.replaced({"name": "strong"})
    open_run(store, strong)
    checkpoint(store, strong, 10)
    config = by(half, "@10", **{"sample.model": "strong"})
    look(store, config, "train", "sample")
    with pytest.raises(CheckpointError, match=r"guidance_by='@10': run 'tiny' has no checkpoint"):
        look(store, config, "sample")


def test_a_weaker_model_may_be_a_smaller_network_and_nothing_else(store, done):
    """Catches: noise, images or labels that mean something else to the one than to the other, and
    a refusal of what autoguidance is: another network."""
    smaller = {"name": "small", "model.base_channels": 16, "train.num_steps": 4, "train.seed": 7}
    for change, words in (
        ({}, None),
        ({"diffusion.prediction": "v"}, None),
        ({"diffusion.num_timesteps": 22}, "diffusion.num_timesteps: 21 here, 22 there"),
        ({"diffusion.beta_end": 0.01}, "diffusion.beta_end: 0.02 here, 0.01 there"),
        ({"diffusion.prediction": "x_prev"}, "prediction=x_prev: false here, true there"),
        ({"data.name": "mnist", **WIDE}, "shape of the images: [1, 8, 8] here"),
        ({**DEEP, "data.depth": 16}, "data.depth: 8 here, 16 there"),
        ({"model.conditioning": "label"}, "model.num_classes: null here, 10 there"),
    ):
        name = f"small-{words is None}-{list(change or ['same'])[-1].replace('.', '-')}"
        other = done.replaced({**smaller, **change, "name": name.lower()[:40]})
        open_run(store, other)
        checkpoint(store, other, 4, text=name)
        config = by(done, other.name)
        if words is None:
            assert chosen.require(store, config).weaker.trained == other
            continue
        with pytest.raises(ConfigError, match="cannot guide run 'tiny'") as refused:
            look(store, config, "sample")
        assert words in str(refused.value)


def test_a_weaker_model_may_be_trained_at_other_times(store, done):
    """Catches: a refusal since the noises are others, where only how often each is seen is."""
    config = done.replaced({"diffusion.kind": "vp"})
    other = config.replaced({"name": "small", "diffusion.times": "log_normal"})
    open_run(store, other)
    assert trained_by(store, by(config, "small"), "guidance_by") == other
    further = config.replaced({"name": "further", "diffusion.beta_max": 19.0})
    open_run(store, further)
    with pytest.raises(ConfigError, match=r"diffusion\.beta_max"):
        trained_by(store, by(config, "further"), "guidance_by")


def test_times_at_which_the_chain_has_its_steps_are_its_noise(store, done):
    """Catches: a step of the same number with other noise on it, for a weaker model as for a
    classifier, where diffusion.chain_times=training.
    """
    dense = {"diffusion.times": "log_normal", "diffusion.chain_times": "training"}
    config = done.replaced({"diffusion.kind": "vp", **dense})
    open_run(store, config.replaced({"name": "small", "diffusion.log_sigma_mean": -2.0}))
    with pytest.raises(ConfigError, match=r"log_sigma_mean: 0.0 here, -2.0 there"):
        trained_by(store, by(config, "small"), "guidance_by")


def test_other_guides_are_another_job_another_run_in_mlflow_and_pinned_for_a_flow(store, done):
    """Catches: the job of another guide joined, numbers of two guides in one MLflow run, and stages
    of one flow that use two."""
    configs = [done, by(done, "@2"), by(done, "@4")]
    assert len({plan.job_prefix(store, one, "sample") for one in configs}) == 3
    assert changes_of(store, configs[1], "sample") == {
        "sample.guidance_by": "tiny@2:ema",
        "sample.guidance_scale": 2.0,
    }
    begun = by(done.replaced({"name": "begun"}), "tiny@4")
    open_run(store, begun)
    assert changes_of(store, chosen_by(store, begun), "sample") == {}
    assert changes_of(store, begun.replaced(NOT_GUIDED), "sample") == {
        "sample.guidance_by": None,
        "sample.guidance_scale": 1.0,
    }
    named = plan.with_weights(store, begun, {})["sample.guidance_by"]
    assert named == str(results.named_weights(store, begun, "guidance_by").pinned)
    assert plan.with_weights(store, by(done, "@2"), {}) == {}, "its own training comes first"
    assert "begun" in deletion.delete_run(store, "tiny", confirmed=True)


NOT_GUIDED = {"sample.guidance_by": None, "sample.guidance_scale": 1.0}


def chosen_by(store, config):
    """Return the configuration with its guide pinned."""
    named = results.named_weights(store, config, "guidance_by")
    return config.replaced({"sample.guidance_by": named.pinned})


def test_the_six_ablations_are_not_guided(store):
    """Catches: table 2 of samples that this run's weights lead away from."""
    with pytest.raises(ConfigError, match="leave it and its settings out for the ablations"):
        ablation_runs(by(tiny_config(), "@2"))
