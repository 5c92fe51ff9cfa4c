"""Runs that enlarge: held-out images, or samples of the run before, image i of image i."""

import shutil
from contextlib import closing

import numpy as np
import pytest
import torch

from ddpm_core import cluster
from ddpm_core.conditioning import Conditioning, LowRes, cat
from ddpm_core.config.captions import caption_of
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.low_resolution import enlarged, shrunk
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.evaluation.measuring.cascade import has_chain
from ddpm_core.evaluation.measuring.worker import likelihood_part
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.inference.build import build_schedule
from ddpm_core.inference.denoiser import load_denoiser
from ddpm_core.inference.networks import build_network
from ddpm_core.loading.loader import load_split
from ddpm_core.preflight import preflight
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.lower import lower_of
from ddpm_core.runs.numbers import metrics_shown
from ddpm_core.runs.reference import trained_by
from ddpm_core.runs.run import open_run
from ddpm_core.sampling import stage
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.loaded import Model, Wish
from ddpm_core.sampling.low import Enlarged
from ddpm_core.sampling.plan import load_plan
from ddpm_core.sampling.units import first_images
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from ddpm_core.verifying.verify import verify
from tests.models.adm_oracle import SMALL as SMALL_ADM
from tests.sampling.tiny import (
    classifier_config,
    commit_earlier,
    commit_random_weights,
    files_of,
    tiny_config,
)

pytestmark = pytest.mark.usefixtures("in_process", "recording_tracker")

LABELS = {
    "model.conditioning": "label",
    "diffusion.num_timesteps": 8,
    "diffusion.beta_schedule": "cosine",
}
FIRST = tiny_config(name="first", **LABELS)
SECOND = tiny_config(
    name="second",
    **LABELS,
    **{"data.height": 16, "data.width": 16, "model.low_size": [8, 8]},
    **{"sample.low_from": "first", "sample.num_images": 6},
)


def in_root(store, *configs):
    for seed, config in enumerate(configs):
        open_run(store, config)
        commit_random_weights(store, config, seed=seed)


@pytest.fixture(scope="module")
def cascade_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cascade") / "root"
    in_root(open_store(str(root)), FIRST, SECOND)
    return root


@pytest.fixture
def cascade(cascade_root, store):
    shutil.copytree(cascade_root, store.uri)
    return store


def images(store, config):
    samples = results.samples_of(store, config)
    return first_images(store, samples, config.sample, config.data.shape, 99)


def test_image_i_enlarges_image_i_with_its_label(cascade, in_process):
    """Catches low resolutions of another image or at another level, labels of the second run's own
    turn, and more drawn of the first than is enlarged."""
    config = SECOND.replaced({"sample.low_level": 0.25})
    folder = stage.run_sample(cascade, config)
    assert [(one.number, one.stop - one.start) for one in in_process.units] == [(0, 4), (1, 2)] * 2
    lower = lower_of(cascade, config)
    small = torch.from_numpy(images(cascade, lower)).permute(0, 3, 1, 2).float() / 127.5 - 1
    checkpoint = results.final_checkpoint(cascade, config)
    denoiser = load_denoiser(cascade, config, checkpoint, torch.device("cpu"))
    positions = torch.arange(2, 4)
    low = Enlarged(cascade, config).at(positions, seed=0)
    assert torch.equal(low.level, torch.full((2,), 2))  # a quarter of 8 steps
    clean = Enlarged(cascade, SECOND).at(positions, seed=0)
    assert torch.equal(clean.image, enlarged(small[2:4], (16, 16)))
    x_0 = draw(
        denoiser.given(Conditioning(label=positions, low=low)),
        positions,
        (1, 16, 16),
        sample=config.sample,
        seed=0,
    )
    assert np.array_equal(images(cascade, config)[2:4], to_u8(x_0).numpy())
    assert load_plan(cascade, config).about(3) == {"label": 3, "class": "3"}
    in_process.units.clear()
    assert stage.run_sample(cascade, config) == folder
    assert not in_process.units
    for run in ("first", "second"):
        assert verify(run, root=cascade.uri).unnamed == []


def test_a_cascade_that_is_killed_anywhere_ends_in_the_same_bytes(
    cascade, cascade_root, tmp_path, monkeypatch
):
    """Catches images of the second run that depend on when the first was drawn, and units of
    either that are drawn again."""
    stage.run_sample(cascade, SECOND)
    folders = [results.samples_of(cascade, one).folder for one in (SECOND, _first(cascade))]
    whole = [files_of(cascade, folder) for folder in folders]
    shutil.copytree(cascade_root, tmp_path / "other")
    other = open_store(str(tmp_path / "other"))
    drawn = []

    def killed(make_worker, payload, units, compute, *, on_done):
        worker = make_worker(payload, lambda: torch.device("cpu"))
        unit = units[0]
        on_done(unit, worker(unit))
        drawn.append(unit)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "map_units", killed)
        for _ in range(4):
            with pytest.raises(KeyboardInterrupt):
                stage.run_sample(other, SECOND)
    assert len(drawn) == 4
    assert stage.run_sample(other, SECOND) == folders[0]
    assert [files_of(other, folder) for folder in folders] == whole


def _first(store):
    return lower_of(store, SECOND)


def test_without_a_run_held_out_images_are_made_small(store, in_process):
    """Catches training images, labels in turn where the images have theirs, and a network of no
    labels that is given the images' all the same."""
    config = tiny_config(name="up", **{"model.low_size": [4, 4], "sample.num_images": 4})
    in_root(store, config)
    stage.run_sample(store, config)
    enlarges = Enlarged(store, config)
    held_out = enlarges._held_out
    low = enlarges.at(torch.tensor([1, len(held_out) + 1]), seed=0)
    image = held_out.images(1, 2).float() / 127.5 - 1
    expected = enlarged(shrunk(image, (4, 4)), (8, 8))
    assert torch.equal(low.image, expected.expand(2, -1, -1, -1))
    label = int(held_out.member("label", np.array([1]))[0])
    assert load_plan(store, config).about(1) == {"label": label, "class": str(label)}
    other = config.replaced({"sample.low_level": 0.5})
    weights = [results.weights_of(store, one) for one in (config, other)]
    assert len({layout.sample_set_fingerprint(one, w.sha256, w.guide)
                for one, w in zip((config, other), weights, strict=True)}) == 2  # fmt: skip


def test_bits_of_a_cascade_are_those_of_its_stages(cascade):
    """Catches a sum of bits/dim whatever the dimensions, the low resolution of another image or
    made otherwise than that of the stage above, labels that a stage is not given, and a protocol
    that speaks of balanced labels."""
    evaluated = {"evaluate.num_likelihood_images": 16, "evaluate.num_enlarged_images": 16}
    config = SECOND.replaced(evaluated)
    stage.run_sample(cascade, config)
    numbers = run_evaluate(cascade, config)
    chain = numbers["bits_per_dim_cascade"]
    first, seed = FIRST, config.evaluate.seed
    with closing(load_split(cascade, _index(cascade, config), "test")) as split:
        x_0 = split.images(0, 16).float() / 127.5 - 1
        labels = split.member("label", np.arange(16))
    small = ((shrunk(x_0, (8, 8)) + 1) * 127.5).round().to(torch.uint8)
    checkpoint = results.final_checkpoint(cascade, first)
    denoiser = load_denoiser(cascade, first, checkpoint, torch.device("cpu"))
    below = likelihood_part(
        denoiser.given(Conditioning(label=labels)), small, torch.arange(16), seed=seed
    )
    of_first = float((below["prior"] + below["terms"].sum(1)).mean())
    own = numbers["bits_per_dim"]["value"]
    assert [one["run"] for one in chain["stages"]] == ["second", "first"]
    assert chain["stages"][1]["bits_per_dim"] == pytest.approx(of_first, rel=1e-5)
    assert chain["stages"][0]["bits_per_dim"] == pytest.approx(own)
    assert chain["value"] == pytest.approx((256 * own + 64 * of_first) / 256, rel=1e-5)
    assert numbers["bits_per_dim"]["protocol"]["conditioning"].endswith("low resolution of 8x8")
    kept = numbers["low_resolution_consistency"]
    assert len(kept["by_level"]) == 5
    assert "low resolution kept to dB" in metrics_shown(numbers)
    drawn = numbers["frechet_distance"]["protocol"]
    assert (drawn["labels"], drawn["low_level"]) == ("of what is enlarged", 0.0)
    assert drawn["low_from"].startswith("first@10:ema#")
    assert kept["protocol"]["labels"] == "of what is enlarged"
    assert "low_from" not in kept["protocol"]


def _index(store, config):
    pointer = results.dataset_pointer(store, config.name)
    return load_index(store, pointer.folder, pointer.fingerprint)


def test_samples_are_called_by_what_they_enlarge(cascade):
    """Catches one folder for images that were made of others, and a reference of other bytes."""
    named = [SECOND, SECOND.replaced({"sample.low_from": None})]
    commit_earlier(cascade, FIRST, 5)
    named.append(SECOND.replaced({"sample.low_from": "first@5"}))
    weights = [results.weights_of(cascade, one) for one in named]
    folders = [
        places.samples(cascade, one, w).folder for one, w in zip(named, weights, strict=True)
    ]
    assert len(set(folders)) == 3
    pinned = weights[2].pinned_in(named[2])
    assert pinned.sample.low_from.startswith("first@5:ema#")
    again = results.weights_of(cascade, pinned)
    assert places.samples(cascade, pinned, again).folder == folders[2]


def test_guidance_leaves_the_label_out_and_not_the_low_resolution():
    """Catches a reference that draws an image of anything; and labels for a network of none."""
    low, seen = LowRes(torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 3])), []

    def network(x_t, _t, given):
        seen.append(given)
        return x_t * given.label[:, None, None, None]

    null = Conditioning(
        label=torch.tensor([10]), low=LowRes(torch.zeros(1, 1, 1, 1), torch.tensor([-1]))
    )
    denoiser = NetworkDenoiser(network, build_schedule(FIRST), null=null)
    sample = FIRST.sample.model_copy(update={"guidance_scale": 2.0})
    given = Conditioning(label=torch.tensor([3, 4]), low=low)
    guided(denoiser, given, sample).predict(torch.ones(2, 1, 8, 8), torch.tensor([5, 5])).x_0  # noqa: B018
    together = cat(seen)
    assert sorted(together.label.tolist()) == [3, 4, 10, 10]
    assert torch.equal(together.low.level, torch.tensor([0, 3, 0, 3]))
    assert bool((together.low.image == 0.5).all())


def refusal(store, config, stages=("sample",)):
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        preflight(store, config, stages, command=lambda one: f"run {one}", here=True)
    return str(caught.value)


def test_what_cannot_be_enlarged_is_refused_before_anything_starts(cascade):
    """Catches a cascade that ends after its first stage, and one in a circle."""

    def of(**keys):
        return SECOND.replaced({f"sample.{key}": value for key, value in keys.items()})

    assert "there is no run 'frist'" in refusal(cascade, of(low_from="frist"))
    assert "did you mean 'first'" in refusal(cascade, of(low_from="frist"))
    assert "not its own images" in refusal(cascade, of(low_from="second"))
    assert "no checkpoint of step 400" in refusal(cascade, of(low_from="first@400"))
    assert "leave sample.labels out" in refusal(cascade, of(labels=[3]))
    assert "holds" in refusal(cascade, of(low_from="first@10:ema#0123456789abcdef"))
    open_run(cascade, FIRST.replaced({"name": "sixteen", "data.height": 16}))
    assert "draws images of 16x8 in grey" in refusal(cascade, of(low_from="sixteen"))
    open_run(cascade, FIRST.replaced({"name": "of-nothing", "model.conditioning": "none"}))
    assert "run 'of-nothing' has none" in refusal(cascade, of(low_from="of-nothing"))
    assert "study measures networks that draw images from noise" in refusal(
        cascade, SECOND, ("sample", "study")
    )


def test_a_network_of_texts_is_given_those_of_what_it_enlarges(store):
    """Catches texts that are read as the stage before reads them, and of held-out images those of
    training images or none."""
    text = {"model.conditioning": "text", "model.text_length": 20, "data.captions": "classes"}
    up = tiny_config(name="up").replaced(SMALL_ADM | text | {"model.low_size": [4, 4]})
    open_run(store, up)
    run_shard(store, up)
    with closing(load_split(store, _index(store, up), "test")) as split:
        label = int(split.member("label", np.array([2]))[0])
    plan = load_plan(store, up)
    assert (plan.in_turn[2], plan.text_length) == (label, 20)
    assert plan.prompt(2) == caption_of(up.data.caption_templates[0], str(label))
    longer = up.replaced({"name": "longer", "model.text_length": 40, "sample.low_from": "draws"})
    draws = tiny_config(name="draws").replaced(SMALL_ADM | text)
    draws = draws.replaced({"sample.prompts": ["a seven"], "data.height": 4, "data.width": 4,
                            "model.attention_resolutions": [2]})  # fmt: skip
    open_run(store, draws)
    plan = load_plan(store, longer)
    assert (plan.prompt(5), plan.text_length) == ("a seven", 40)
    given = plan.conditioning(torch.arange(2), low=Enlarged(store, up).at(torch.arange(2), seed=0))
    network = build_network(longer)
    assert network(torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), given).shape == (2, 1, 8, 8)
    open_run(store, tiny_config(name="silent").replaced({"data.height": 4, "data.width": 4}))
    with pytest.raises(ConfigError, match="is given the text of each image, and run 'silent'"):
        lower_of(store, longer.replaced({"sample.low_from": "silent"}))


def test_a_run_that_draws_with_weights_of_another_is_enlarged_as_it_draws(cascade):
    """Catches a pinned reference that names the run whose weights these are, by whose section
    `sample` other images would be drawn."""
    borrows = FIRST.replaced({"name": "borrows", "sample.model": "first", "sample.seed": 5})
    open_run(cascade, borrows)
    config = SECOND.replaced({"sample.low_from": "borrows"})
    weights = results.weights_of(cascade, config)
    pinned = weights.pinned_in(config)
    again = results.weights_of(cascade, pinned)
    folders = [
        places.samples(cascade, one, w).folder for one, w in ((config, weights), (pinned, again))
    ]
    assert lower_of(cascade, pinned).name == "borrows"
    assert folders[0] == folders[1]


def test_images_that_are_drawn_by_request_are_of_what_they_enlarge(cascade):
    """Catches a label of image i beside the low resolution of another, where more are asked for
    than are enlarged, and a level or a run in a request that is not the one that is taken."""
    stage.run_sample(cascade, SECOND)
    weights = results.weights_of(cascade, SECOND)
    model = Model.load(cascade, SECOND, weights, torch.device("cpu"))
    wanted = Wish(settings={"low_level": 0.5})
    found = model.images([6], model.drawing(wanted), seed=0)
    position = torch.tensor([6])
    low = Enlarged(cascade, SECOND.replaced({"sample.low_level": 0.5})).at(position, seed=0)
    assert int(low.level) == 4
    x_0 = draw(
        model.denoiser.given(Conditioning(label=torch.tensor([0]), low=low)),
        position,
        (1, 16, 16),
        sample=SECOND.sample,
        seed=0,
    )
    assert np.array_equal(found, to_u8(x_0).numpy())
    with pytest.raises(ConfigError, match="low_from='first' names a run"):
        model.drawing(Wish(settings={"low_from": "first"}))


def test_what_a_classifier_leads_to_is_enlarged_by_its_label(store):
    """Catches held-out images that are enlarged without the class that the classifier needs."""
    changes = {"sample.guidance_by": "judge", "evaluate.num_enlarged_images": 8}
    config = tiny_config(name="up", **changes, **{"model.low_size": [4, 4]}).replaced(
        {"sample.num_images": 4, "evaluate.num_likelihood_images": 16}
    )
    in_root(store, classifier_config(name="judge"), config)
    stage.run_sample(store, config)
    numbers = run_evaluate(store, config)
    assert numbers["low_resolution_consistency"]["protocol"]["num_images"] == 8


def test_weights_that_were_shown_other_levels_are_others(store):
    """Catches a level that the run allows, and that the weights it names were never shown."""
    up = tiny_config(name="up", **{"model.low_size": [4, 4]})
    open_run(store, up.replaced({"name": "clean", "train.low_levels": [0, 0]}))
    for key in ("model", "guidance_by"):
        other = {f"sample.{key}": "clean", "sample.low_level": 0.5}
        scale = {} if key == "model" else {"sample.guidance_scale": 2}
        with pytest.raises(ConfigError, match=r"train.low_levels: \[0.0, 1.0\] here"):
            trained_by(store, up.replaced(other | scale), key)


def test_bits_of_a_stage_that_was_never_shown_no_noise_are_not_added(cascade):
    """Catches bits of a level that a stage in the middle was not trained at."""
    third = {"data.height": 32, "data.width": 32, "model.low_size": [16, 16]}
    noised = {"train.low_levels": [0.1, 0.5], "sample.low_level": 0.2}
    for name, changes in (("clean", {}), ("noised", noised)):
        open_run(cascade, SECOND.replaced({"name": name, **changes}))
        config = SECOND.replaced({"name": "third", **third, "sample.low_from": name})
        assert has_chain(cascade, config) == (name == "clean")
