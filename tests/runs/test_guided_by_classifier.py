"""A classifier's run: which stages it has, whom it may guide, and what its samples hang on."""

import pytest

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.preflight import preflight
from ddpm_core.runs import chosen, layout, places
from ddpm_core.runs.run import open_run
from ddpm_core.runs.stages import needs_of, stages_of
from ddpm_core.sampling.plan import load_plan
from ddpm_core.shards.classes import labelled_classes
from ddpm_core.store.storage import open_store
from tests.runs.test_reference import checkpoint, half
from tests.sampling.tiny import classifier_config, commit_random_weights

__all__ = ["half"]


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "ro ot"))


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)


@pytest.fixture
def judged(store, half):
    """Give a trained run without labels, whose samples a trained classifier guides."""
    checkpoint(store, half, 10)
    commit_random_weights(store, classifier_config())
    open_run(store, classifier_config())
    return half.replaced({"sample.guidance_by": "judge"})


def look(store, config, *stages):
    preflight(store, config, stages, command=str, here=False)


def test_a_classifier_is_sharded_trained_and_evaluated_and_nothing_else(store):
    """Catches: images of a network that draws none, and a pipeline that ends at its sampling."""
    assert stages_of("train-ddpm", "classifier") == ("shard", "train", "evaluate")
    assert needs_of("evaluate", "classifier") == ("train",)
    assert needs_of("evaluate", "denoiser") == ("train", "sample")
    look(store, classifier_config(), *stages_of("train-ddpm", "classifier"))
    for stage in ("sample", "study", "ablations"):
        with pytest.raises(ConfigError, match=f"^{stage} is of networks .* has the stages shard"):
            look(store, classifier_config(), stage)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.loss": "vlb", "diffusion.variance": "learned"}, r"train\.loss=vlb is of networks"),
        ({"diffusion.variance": "learned"}, r"set diffusion\.variance=fixed_small"),
        ({"train.preview_every": 5}, r"train\.preview_every=5 is of networks that draw"),
        ({"sample.guidance_by": "tiny"}, r"sample\.guidance_by=tiny is of networks"),
        ({"evaluate.label_worth": True}, r"label_worth=True is of networks"),
        (
            {"data.name": "images", "data.grey": True, "data.class_folders": False},
            r"model\.kind=classifier goes by the classes",
        ),
        (
            {"data.name": "images", "data.grey": True},
            r"kind=classifier .* needs model\.num_classes",
        ),
        ({"model.conditioning": "label"}, r"set model\.conditioning=none"),
        ({"diffusion.kind": "binomial", "train.loss": "vlb"}, "bits"),
    ],
)
def test_what_a_classifier_has_no_use_for_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        classifier_config(**changes)


def test_samples_of_classes_hang_on_the_classifier(store, judged):
    """Catches: an unconditional run whose images are of nothing, samples of another classifier
    that pass for these, and classes by the base's data set instead of the classifier's."""
    look(store, judged, "sample", "evaluate")
    config = chosen.pinned(store, judged)
    weights = chosen.require(store, config)
    assert config.sample.guidance_by.startswith("judge@10:ema#")
    assert weights.is_guided_by_class
    plan = load_plan(store, config)
    assert plan.in_turn == tuple(range(10))
    assert plan.names == labelled_classes(store, classifier_config()).names
    named = load_plan(store, judged.replaced({"sample.labels": ["7", 3]}))
    assert named.in_turn == (7, 3)
    plain = judged.replaced({"sample.guidance_by": None})
    own = judged.replaced({"sample.guidance_by": "@10:raw", "sample.guidance_scale": 2.0})
    folders = {
        places.samples(store, one, chosen.require(store, one)).folder
        for one in (plain, config, own, config.replaced({"sample.guidance_scale": 2.0}))
    }
    assert len(folders) == 4
    said = places.measured_weights(config, weights, "d" * 64)
    assert (said["guide"], said["labels"]) == ("judge@10:ema", "balanced")
    of_labels = config.replaced({"model.conditioning": "label"})
    assert "labels" not in places.measured_weights(of_labels, weights, "d" * 64)


def test_what_does_not_go_with_the_classifier_is_refused_before_anything(store, judged):
    """Catches: a gradient at other noise or of images of another size, labels that nothing leads
    to, settings of guidance away from a reference, and weights of the other role."""
    for change, words in (
        ({"diffusion.num_timesteps": 22}, r"num_timesteps: 21 here, 22 there"),
        ({"diffusion.beta_end": 0.01}, r"beta_end: 0.02 here, 0.01 there"),
        ({"data.name": "mnist", "data.height": 32, "data.width": 32}, r"shape of the images"),
        ({"diffusion.prediction": "v"}, None),
        ({"diffusion.prediction": "x_prev"}, None),
    ):
        name = f"judge-{next(iter(change.values()))}"
        other = classifier_config(**change, name=name.replace("_", "-"))
        open_run(store, other)
        checkpoint(store, other, 10, text=name)
        config = judged.replaced({"sample.guidance_by": other.name})
        if words is None:
            look(store, config, "sample")
            continue
        with pytest.raises(ConfigError, match=words) as refused:
            look(store, config, "sample")
        assert "Train a classifier of the same images" in str(refused.value)
    for changes, words in (
        ({"sample.labels": [11]}, "sample.labels has 11, and the 10 classes have the numbers 0"),
        ({"sample.labels": ["ten"]}, "'ten', which is no class"),
        ({"sample.guidance_rescale": 0.5}, "guidance_rescale=0.5 is stated for guidance away"),
        (
            {"sample.guidance_by": None, "sample.model": "judge"},
            "are of model.kind=classifier, .* give sam",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            look(store, judged.replaced(changes), "sample")
    weaker = judged.replaced({"name": "weaker", "sample.guidance_by": None})
    open_run(store, weaker)
    checkpoint(store, weaker, 10)
    by_weaker = judged.replaced({"sample.guidance_by": "weaker"})
    with pytest.raises(ConfigError, match=r"with sample\.guidance_scale=1 there is none"):
        look(store, by_weaker, "sample")
    with pytest.raises(ConfigError, match=r"and of guidance by a classifier, and .* is neither"):
        look(
            store,
            by_weaker.replaced({"sample.guidance_scale": 2.0, "sample.labels": [3]}),
            "sample",
        )


def test_a_chain_that_ends_in_pure_noise_is_guided_in_the_mean_alone(store, half):
    """Catches: a refusal once the images are to be drawn, that speaks of another prediction."""
    ends = {"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"}
    for config in (classifier_config(**ends), half.replaced({"name": "base", **ends})):
        open_run(store, config)
        checkpoint(store, config, 10)
    config = config.replaced({"sample.guidance_by": "judge"})
    look(store, config, "sample")
    few = {"sample.num_steps": 5, "diffusion.variance": "fixed_small"}
    for change in ({"sample.sampler": "ddim"}, few):
        with pytest.raises(ConfigError, match=r"ends in pure noise .* sample.num_steps=null"):
            look(store, config.replaced(change), "train", "sample")
    with pytest.raises(ConfigError, match="ends in pure noise"):
        look(store, config, "sample", "study")


def test_classes_of_the_two_must_be_the_same(store, judged):
    """Catches: a base of labels that is led to other classes than it is given."""
    labelled = judged.replaced({"model.conditioning": "label", "name": "labelled"})
    of_images = {"model.num_classes": 7, "data.name": "images", "data.grey": True}
    open_run(store, classifier_config(name="seven").replaced(of_images))
    with pytest.raises(ConfigError, match=r"model\.num_classes: 10 here, 7 there"):
        look(store, labelled.replaced({"sample.guidance_by": "seven"}), "train", "sample")
    store.delete(layout.dataset_pointer_key("judge"))
    with pytest.raises(DataError, match="'judge' has no data set any more"):
        load_plan(store, judged)
