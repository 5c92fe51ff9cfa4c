"""What image i is of: by its index alone; and how it is drawn, shown and written beside it."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.errors import ConfigError
from ddpm_core.inference.denoiser import load_denoiser
from ddpm_core.runs import layout, results
from ddpm_core.sampling import stage
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.export import export_samples
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.plan import Plan, load_plan, plan_of
from ddpm_core.sampling.units import first_images, units_of
from ddpm_core.shards.classes import Classes
from ddpm_core.shards.index import load_index
from ddpm_core.store.storage import open_store
from tests.diffusion.chains import SHORT, normal
from tests.sampling.tiny import commit_random_weights, tiny_config

LABELLED = {"model.conditioning": "label", "sample.batch_size": 4}
ALL = torch.arange(10_000)


@pytest.fixture(scope="module")
def labelled_root(tmp_path_factory):
    """Give a root with a run of labels and random weights."""
    root = tmp_path_factory.mktemp("labelled") / "root"
    commit_random_weights(open_store(str(root)), tiny_config(**LABELLED))
    return root


@pytest.fixture
def labelled(labelled_root, store):
    shutil.copytree(labelled_root, store.uri)
    return store


def index_of(store, config):
    pointer = results.dataset_pointer(store, config.name)
    return load_index(store, pointer.folder, pointer.fingerprint)


def classes_of(store, config):
    return Classes.of(index_of(store, config))


def test_classes_come_in_turn_by_default_and_as_listed(labelled):
    """Catches labels that begin anew in each batch, and names that are taken for numbers."""
    config = tiny_config(**LABELLED)
    classes = classes_of(labelled, config)
    plan = plan_of(config, classes)
    assert plan.labels(torch.tensor([7, 0, 23])).tolist() == [7, 0, 3]
    assert plan.about(23) == {"label": 3, "class": classes.names[3]}
    assert plan_of(config, None).about(23) == {"label": 3}, "no second spelling of the class"
    listed = config.replaced({"sample.labels": [5, classes.names[2]]})
    assert plan_of(listed, classes).labels(torch.arange(5)).tolist() == [5, 2, 5, 2, 5]
    assert plan_of(tiny_config(), classes) == Plan()
    assert Plan().conditioning(ALL) is NOTHING


def test_as_in_the_training_set_is_a_training_image_drawn_for_each_index():
    """Catches equal shares, a class without images that is drawn, and a draw that depends on what
    stands beside it.
    """
    plan = Plan(counts=(1, 0, 3), seed=5)
    labels = plan.labels(ALL)
    assert torch.equal(plan.labels(ALL[[77, 3]]), labels[[77, 3]])
    assert sorted(labels.unique().tolist()) == [0, 2]
    share = float((labels == 2).double().mean())
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / len(ALL)) ** 0.5
    assert not torch.equal(Plan(counts=(1, 0, 3), seed=6).labels(ALL), labels)


def test_the_plan_of_a_configuration_counts_the_training_images(labelled):
    """Catches the counts of the held-out images."""
    config = tiny_config(**LABELLED, **{"sample.labels": "training", "sample.seed": 3})
    index = index_of(labelled, config)
    assert plan_of(config, Classes.of(index)) == Plan(
        (), index.label.counts["train"], index.label.names, 3
    )
    assert sum(index.label.counts["train"]) == index.num_images["train"]


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([3, 10], "has 10, and the 10 classes have the numbers 0 to 9"),
        ([-1], "has -1"),
        ([], "balanced, training, or a list of 1 to"),
        ([1.5], "balanced, training, or a list"),
        ([True], "balanced, training, or a list"),
        ("even", 'labels="even" must be balanced, training'),
    ],
)
def test_labels_that_cannot_be_are_refused_by_the_configuration(labels, match):
    with pytest.raises(ConfigError, match=match):
        tiny_config(**LABELLED, **{"sample.labels": labels})


def test_names_are_refused_that_no_class_has_and_where_none_is_known(labelled):
    config = tiny_config(**LABELLED, **{"sample.labels": ["cat"]})
    with pytest.raises(ConfigError, match="'cat', which is no class of the images; they are 0"):
        plan_of(config, classes_of(labelled, config))
    with pytest.raises(ConfigError, match="give the number of the class"):
        plan_of(config, None)


@pytest.mark.parametrize("key", ["sample.labels", "sample.guidance_scale"])
def test_a_network_without_labels_refuses_what_they_say(key):
    value = [3] if key.endswith("labels") else 2.0
    with pytest.raises(ConfigError, match=f"{key}=.* is a setting of model.conditioning=label"):
        tiny_config(**{key: value})


# -- guidance ------------------------------------------------------------------------------------


class Counting:
    """A network of labels that counts the images passing through it."""

    def __init__(self) -> None:
        self.num_images = 0

    def __call__(self, x_t, t, conditioning=NOTHING):
        self.num_images += len(x_t)
        return 0.5 * x_t + conditioning.label.double()[:, None, None, None] * 0.1


def test_scales_1_and_0_are_no_guidance_at_half_the_cost_and_2_goes_as_far_again():
    """Catches w - 1 for w, the two predictions exchanged, and a second call that changes nothing.

    Of a network whose output is linear in its label, guidance is the label moved: from the null 10
    by w times the way to 3.
    """
    network, x_t, t = Counting(), normal(2, 1, 2, 2), torch.tensor([3, 30])
    null, three = (Conditioning(label=torch.tensor([label])) for label in (10, 3))
    denoiser = NetworkDenoiser(network, SHORT, null=null)
    found = {
        w: guided(denoiser, three, SampleConfig(guidance_scale=w)).predict(x_t, t).eps
        for w in (0.0, 1.0, 2.0)
    }
    assert network.num_images == 2 * (1 + 1 + 2)
    assert torch.equal(found[1.0], denoiser.given(three).predict(x_t, t).eps)
    assert torch.equal(found[0.0], denoiser.given_nothing().predict(x_t, t).eps)
    for w, label in ((0.0, 10.0), (2.0, -4.0)):
        expected = 0.5 * x_t + 0.1 * label
        torch.testing.assert_close(found[w], expected, rtol=1e-9, atol=1e-9)
    assert guided(denoiser, NOTHING, SampleConfig()) is denoiser


# -- the stage -----------------------------------------------------------------------------------


def beside(samples, store, config):
    """Return what is written beside each image, in order."""
    found = []
    for unit in units_of(config.sample):
        with tarfile.open(fileobj=io.BytesIO(samples.read(store, unit.role))) as archive:
            names = [name for name in archive.getnames() if name.endswith(".json")]
            found += [json.load(archive.extractfile(name)) for name in names]
    return found


def test_each_image_is_of_its_label_which_lies_beside_it(
    labelled, in_process, recording_tracker, tmp_path
):
    """Catches units that begin with class 0 each, a guidance that is not applied, a label beside
    another image, and one in the samples of a network without labels.
    """
    config = tiny_config(**LABELLED, **{"sample.guidance_scale": 2.0})
    in_process.reverse = True
    stage.run_sample(labelled, config)
    samples = results.samples_of(labelled, config)
    names = index_of(labelled, config).label.names
    assert beside(samples, labelled, config) == [
        {"class": names[i % 10], "index": i, "label": i % 10, "seed": 0} for i in range(16)
    ]
    assert (samples.body["labels"], samples.body["guidance_scale"]) == ("balanced", 2.0)
    checkpoint = results.final_checkpoint(labelled, config)
    denoiser = load_denoiser(labelled, config, checkpoint, torch.device("cpu"))
    found = first_images(labelled, samples, config.sample, config.data.shape, 16)
    positions = torch.arange(12, 16)
    given = Conditioning(label=positions % 10)
    expected = draw(
        guided(denoiser, given, config.sample),
        positions,
        config.data.shape,
        sample=config.sample,
        seed=0,
    )
    assert np.array_equal(found[12:], to_u8(expected).numpy())
    plain = draw(denoiser.given(given), positions, config.data.shape, sample=config.sample, seed=0)
    assert not np.array_equal(found[12:], to_u8(plain).numpy())
    export_samples(labelled, config, tmp_path / "few")
    lines = (tmp_path / "few/labels.csv").read_text().splitlines()
    assert (lines[0], lines[13]) == ("index,label,class", f"12,2,{names[2]}")
    assert len(lines) == 17
    (tmp_path / "few/labels.csv").write_text("\n".join(lines[:5]) + "\n")  # of an export of four
    export_samples(labelled, config, tmp_path / "few")
    assert (tmp_path / "few/labels.csv").read_text().splitlines() == lines
    # Ten classes of 8x8 in rows, and their names: higher than wide, not a square of four by four.
    with Image.open(io.BytesIO(samples.read(labelled, "grid"))) as grid:
        assert grid.height > 0.8 * grid.width


def test_another_scale_or_other_labels_are_other_samples(labelled):
    """Catches samples of one class that pass for those of another."""
    config = tiny_config(**LABELLED)
    ema = "e" * 64
    changes = ({}, {"sample.labels": [3]}, {"sample.labels": [4]}, {"sample.guidance_scale": 2.0})
    folders = {layout.sample_fingerprint(config.replaced(one), ema) for one in changes}
    assert len(folders) == 4
    assert load_plan(labelled, config).names == index_of(labelled, config).label.names
