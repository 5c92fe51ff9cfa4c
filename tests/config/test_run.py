"""The configuration refuses what cannot be, names key, value, rule and remedy, and knows itself."""

import json
from typing import get_args

import pytest

from ddpm_core.canonical import canonical_json, parse_json
from ddpm_core.config import RunConfig, identity
from ddpm_core.diffusion.choices import BetaSchedule
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.errors import ConfigError
from ddpm_core.inference.build import build_schedule
from ddpm_core.recipes import digits, mnist, recipe


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train": 5}, ["train=5", "a section", "train.KEY=VALUE"]),
        ({"train.num_stps": 5}, ["train.num_stps", "did you mean 'num_steps'"]),
        ({"trian.num_steps": 5}, ["'trian'", "did you mean 'train'"]),
        (
            {"train.num_steps": "1e3"},
            ["train.num_steps", '"1e3"', "integer (optimiser steps; e.g. 800000)"],
        ),
        ({"train.num_steps": True}, ["train.num_steps=true", "integer"]),
        ({"train.num_steps": 0}, ["train.num_steps=0", "greater than or equal to 1"]),
        ({"train.learning_rate": -1.0}, ["train.learning_rate=-1.0", "greater than 0"]),
        ({"model.num_classes": 10}, ["num_classes=10", "of conditioning=label", "none"]),
        ({"train.label_dropout": 0.2}, ["label_dropout=0.2", "model.conditioning=label"]),
        ({"train.text_dropout": 0.2}, ["text_dropout=0.2", "model.conditioning=text"]),
        (
            {"model.conditioning": "label", "model.num_classes": 9},
            ["model.num_classes=9", "digits has 10 classes"],
        ),
        ({"compute.num_workers": 3}, ["global_batch_size=64", "num_workers=3", "change one"]),
        ({"compute.micro_batch_size": 33, "compute.num_workers": 2}, ["32 images", "leave it out"]),
        *(
            ({f"compute.{key}": True, "compute.checkpoint_activations": True}, [f"{key}=true"])
            for key in ("cuda_graphs", "compile")
        ),
        *(
            (
                {"model": {"kind": kind}, "compute.checkpoint_activations": True},
                [f"{kind} has none"],
            )
            for kind in ("mlp", "multiscale")
        ),
        (
            {"model.attention_resolutions": 16},
            ["attention_resolutions=16", "(heights, in pixels", "; write [16])"],
        ),
        ({"model.channel_mults": [1, "2"]}, ['channel_mults.1="2"', "e.g. [1, 2, 2, 2])"]),
        ({"model.attention_resolutions": [16]}, ["16", "never occurs", "[8, 4]"]),
        ({"model.base_channels": 36}, ["num_groups=8", "does not divide", "36"]),
        ({"model.channel_mults": [1, 2, 2, 2, 2]}, ["data.height=8", "halved 4 times"]),
        ({"data.num_test_images": 1797}, ["num_test_images=1797", "has 1797 images"]),
        ({"data.num_test_images": None}, ["num_test_images=null", "no split of its own"]),
        ({"data.source": "/x"}, ["source='/x'", "bundled with scikit-learn", "'default'"]),
        ({"data.height": 4, "data.width": 16}, ["height=4", "never cropped"]),
        (
            {"data.name": "imagenet"},
            ["data.name", "'digits', 'coloured_digits', 'mnist', 'fashion_mnist'", "(any)"],
        ),
        ({"data.grey": True}, ["grey=True", "collections of image files", "digits has no use"]),
        ({"data.on_bad": "skip"}, ["on_bad=skip", "collections of image files", "leave on_bad"]),
        ({"data.background": [0, 0, 256]}, ["data.background.2=256", "less than or equal to 255"]),
        ({"data.max_bad_share": 1.0}, ["data.max_bad_share=1.0", "less than 1"]),
        ({"data.max_megapixels": 8}, ["data.max_megapixels=8", "greater than or equal to 16"]),
        ({"data.max_megapixels": 10**12}, ["data.max_megapixels", "less than or equal to 1024"]),
        ({"data.max_megapixels": 100}, ["max_megapixels=100", "collections of image files"]),
        ({"data.depth": 16}, ["depth=16", "collections of image files", "leave depth out"]),
        ({"data.source_sha256": "ab"}, ["data.source_sha256", "64 digits 0-9 and a-f"]),
        ({"diffusion.num_timesteps": 20}, ["num_timesteps=20", "below 1", "at least 21"]),
        ({"diffusion.beta_start": 0.03}, ["beta_start=0.03", "above beta_end"]),
        (
            {"diffusion.beta_schedule": "const", "diffusion.beta_end": 0.5},
            ["num_timesteps=200", "below 1", "at least 501"],
        ),
        ({"diffusion.beta_schedule": "cos"}, ["diffusion.beta_schedule", "'cosine'"]),
        ({"diffusion.prediction": "epsilon"}, ["diffusion.prediction", "'eps'", "'x_prev'"]),
        ({"diffusion.variance": "fixed"}, ["diffusion.variance", "'fixed_small'", "'learned'"]),
        ({"train.loss": "l2"}, ["train.loss", "'simple', 'vlb' or 'hybrid'"]),
        ({"train.weighting": "snr"}, ["train.weighting", "'none', 'min_snr' or 'p2'"]),
        ({"train.min_snr_gamma": 0.0}, ["train.min_snr_gamma=0.0", "greater than 0"]),
        (
            {"diffusion.zero_terminal_snr": True},
            ["diffusion: prediction=eps", "zero_terminal_snr=true", "predict v or x_0"],
        ),
        (
            {"diffusion.beta_schedule": "jsd"},
            ["diffusion: prediction=eps", "beta_schedule=jsd", "predict v or x_0"],
        ),
        (
            {"diffusion.variance": "learned"},
            ["diffusion and train", "loss=simple", "variance=learned", "use loss=hybrid or vlb"],
        ),
        (
            {"train.loss": "hybrid"},
            ["diffusion and train", "loss=hybrid", "variance=fixed_small", "a learned variance"],
        ),
        (
            {"train.loss": "vlb", "train.weighting": "p2"},
            ["diffusion and train", "weighting=p2", "loss=vlb", "use weighting=none"],
        ),
        (
            {"diffusion.prediction": "x_prev", "train.weighting": "min_snr"},
            ["diffusion and train", "weighting=min_snr", "prediction=x_prev", "weighting=none"],
        ),
        ({"sample.batch_size": 33}, ["unit_size=64", "batch_size=33", "change one"]),
        ({"sample.num_strip_images": 65}, ["num_strip_images=65", "unit_size=64", "first unit"]),
        ({"evaluate.features": "net.pt"}, ["features_sha256 is not given", "SHA-256"]),
        (
            {"evaluate.features": "s3://b/net.pt", "evaluate.features_sha256": "0" * 64},
            ["features='s3://b/net.pt'", "a path or an https URL", "download"],
        ),
        (
            {"evaluate.features": "http://b/net.pt", "evaluate.features_sha256": "0" * 64},
            ["features='http://b/net.pt'", "https URL"],
        ),
        ({"evaluate.features_sha256": "0" * 64}, ["features='trained' is no file", "leave both"]),
        (
            {"evaluate.features_sha256": "abc"},
            ["evaluate.features_sha256", "64 digits 0-9 and a-f"],
        ),
        ({"study.swept_steps": [10, 1]}, ["swept_steps=[10, 1]", "different", "at least 2"]),
        ({"study.swept_steps": [10, 20, 10]}, ["swept_steps=[10, 20, 10]", "different numbers"]),
        ({"study.swept_steps": []}, ["study.swept_steps", "at least 1 item"]),
        ({"study.swept_steps": 10}, ["study.swept_steps=10", "; write [10]"]),
        ({"study.ddim_steps": [10, 1]}, ["ddim_steps=[10, 1]", "different", "at least 2"]),
        ({"study.ddim_steps": [20, 201]}, ["study.ddim_steps has 201", "200 steps of the chain"]),
        (
            {"study.ddim_steps": [20], "diffusion.prediction": "x_prev"},
            ["study.ddim_steps has 20", "single steps of the chain"],
        ),
        ({"study.num_images": 0}, ["study.num_images=0", "greater than or equal to 1"]),
        ({"study.ode_tolerance": 0.0}, ["study.ode_tolerance=0.0", "greater than 0"]),
        ({"study.ablation_steps": 0}, ["study.ablation_steps=0", "greater than or equal to 1"]),
        ({"model.base_channels": 2, "model.num_groups": 1}, ["base_channels=2", "at least 4"]),
        ({"model.base_channels": 9, "model.num_groups": 3}, ["base_channels=9", "even"]),
        ({"model.num_res_blocks": 10**9}, ["num_res_blocks=1000000000", "equal to 1000 ("]),
        ({"model.channel_mults": [1] * 17}, ["channel_mults", "at most 16 items"]),
        (
            {"model.base_channels": 65536, "model.num_res_blocks": 100},
            ["1.3e+14 parameters, over 2e+10", "every worker holds all of it"],
        ),
        (
            {"data.height": 2**20, "data.width": 2**20, "model.attention_resolutions": []},
            ["over 67108864 pixels", "lower them"],
        ),
        (
            {
                "train.global_batch_size": 10**9,
                "model.attention_resolutions": [],
                "data.height": 32,
            },
            ["238 GiB of pixels", "lower it or raise these"],
        ),
        ({"train.num_steps": 10**30}, ["train.num_steps=1" + "0" * 30, "or equal to 1000000000 ("]),
        ({"sample.num_images": 10**12}, ["sample.num_images=1000000000000", "less than or equal"]),
        ({"sample.num_images": 10**9}, ["over 500000 units", "raise unit_size"]),
        ({"diffusion.num_timesteps": 10**7}, ["num_timesteps=10000000", "equal to 1000000 ("]),
        ({"compute.num_workers": 10**6}, ["num_workers=1000000", "less than or equal to 65536"]),
        ({"train.lr": 1e-3}, ["no key 'train.lr'", "did you mean 'train.learning_rate'?"]),
        ({"train.epochs": 5}, ["'train.num_steps' (a step is a batch, not an epoch)?"]),
        ({"data.size": 32}, ["did you mean 'data.height' and 'data.width'?"]),
        ({"sample.steps": 10}, ["did you mean 'sample.num_steps'?"]),
        ({"train.dropout": 0.1}, ["did you mean 'model.dropout'?"]),
        ({"num_steps": 10}, ["did you mean 'train.num_steps' or 'sample.num_steps'?"]),
        ({"lrate": 10}, ["no key 'lrate'"]),
        ({"name": "Foo"}, ["name", "pattern", "(name of the run: at most 63 of a-z", "e.g. run)"]),
        ({"name": "../up"}, ["name", "pattern"]),
        ({"name": "a..b"}, ["name='a..b'", "dot"]),
    ],
)
def test_impossible_settings_are_refused_with_key_value_and_rule(changes, parts):
    """Catches: a rule that is not checked before anything starts, and a message without remedy."""
    with pytest.raises(ConfigError) as caught:
        digits().replaced(changes)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("num_timesteps", [2, 3, 7, 20, 21, 250, 4000])
@pytest.mark.parametrize("name", get_args(BetaSchedule))
def test_every_chain_that_is_accepted_can_be_built(name, num_timesteps):
    """Catches: a chain that only a worker refuses, after a cluster was started for it: at the edge
    one rounding decides.
    """
    edge, accepted = num_timesteps / 1000, 0
    for beta_end in (edge, edge * (1 - 1e-15), edge * (1 + 1e-15), 0.5 * edge, 0.02):
        changes = {
            "diffusion.beta_schedule": name,
            "diffusion.num_timesteps": num_timesteps,
            "diffusion.beta_end": min(beta_end, 0.05),
            "diffusion.prediction": "v",
        }
        try:
            config = digits().replaced(changes)
        except ConfigError:
            with pytest.raises(ConfigError):
                make_betas(name, num_timesteps, 1e-4, changes["diffusion.beta_end"])
            continue
        accepted += 1
        for rescaled in (False, True):
            config = config.replaced({"diffusion.zero_terminal_snr": rescaled})
            assert build_schedule(config).ends_in_pure_noise == (rescaled or name == "jsd")
    assert accepted >= 2


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_only_the_test_split_is_held_out(name):
    """Catches: a limit that counts the training images, which are never held out."""
    assert recipe(name).replaced({"data.num_test_images": 10_000}).data.max_test_images == 10_000
    with pytest.raises(ConfigError, match="test split only, which has 10000"):
        recipe(name).replaced({"data.num_test_images": 10_001})


def test_what_is_given_for_features_may_be_a_path_or_an_https_url():
    """Catches: a rule that refuses the usual ways too."""
    for features in ("net.pt", "/data/net.pt", "https://host/net.pt"):
        changes = {"evaluate.features": features, "evaluate.features_sha256": "0" * 64}
        assert digits().replaced(changes).evaluate.features == features


def test_names_from_a_file_cannot_steer_the_terminal():
    """Catches: an escape sequence of a foreign run.json that reaches the terminal as it is."""
    for values in ({"train": {"\x1b[2Jnum": 1}}, {"\x1b[2J": 1}, {"name": "a\x1b[2J"}):
        with pytest.raises(ConfigError) as caught:
            RunConfig.from_dict(values)
        assert "\x1b" not in str(caught.value)
        assert "[2J" in str(caught.value)
    with pytest.raises(ConfigError, match=r"gives \\x1b\[2J more than once"):
        parse_json('{"\\u001b[2J": 1, "\\u001b[2J": 2}', origin="run.json")


def test_all_wrong_keys_are_listed_at_once():
    """Catches: stopping at the first error, so that a user learns of them one run at a time."""
    with pytest.raises(ConfigError) as caught:
        digits().replaced({"train.num_steps": 0, "sample.num_images": 0})
    assert "train.num_steps=0" in str(caught.value)
    assert "sample.num_images=0" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"name": "a", "name": "b"}', "name more than once"),
        ('{"train": {"learning_rate": NaN}}', "contains NaN"),
        ('{"train": {"learning_rate": Infinity}}', "contains Infinity"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested deeper"),
        (" " * (2**20 + 1), "at most"),
        ("[1]", "one JSON object"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        ('{"name": ' + "1" * 5000 + "}", "not JSON"),
    ],
)
def test_json_from_outside_is_bounded_and_unambiguous(text, part):
    """Catches: json.loads as it is, which keeps the last of two keys, takes NaN, and recurses."""
    with pytest.raises(ConfigError, match=part):
        parse_json(text, origin="run.json")


def test_the_experiment_ignores_names_places_and_workers():
    """Catches: a fingerprint that changes with the number of workers or the path of the data."""
    ours = mnist()
    other = ours.replaced({"name": "x", "compute.num_workers": 4, "data.source": "/elsewhere"})
    assert identity.experiment(ours) == identity.experiment(other)
    assert ours.differences(other) == ['name: "mnist" -> "x"']


@pytest.mark.parametrize(
    "change",
    [{"train.seed": 1}, {"model.dropout": 0.1}, {"diffusion.variance": "fixed_large"}],
)
def test_the_experiment_changes_with_what_changes_the_weights(change):
    """Catches: a section that was left out of the fingerprint."""
    assert identity.experiment(digits()) != identity.experiment(digits().replaced(change))


def test_canonical_json_has_one_spelling():
    """Catches: an order of keys that depends on how the mapping was built."""
    assert canonical_json({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}'
    assert canonical_json({"a": [1.5, None], "b": 1}) == canonical_json({"b": 1, "a": [1.5, None]})


def test_sections_are_frozen():
    """Catches: a configuration that code can change after it was written to run.json."""
    with pytest.raises(ValueError, match="frozen"):
        digits().train.num_steps = 1  # type: ignore[misc]


def test_run_json_reads_like_it_was_declared():
    """Catches: sorted or compact run.json, which nobody reviews."""
    text = digits().to_json()
    assert text.index('"data"') < text.index('"model"') < text.index('"train"')
    assert json.loads(text)["train"]["num_steps"] == digits().train.num_steps


# -- samplers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample.eta": 0.5}, "eta=0.5 is a setting of sampler=ddim and sampler=ancestral"),
        ({"sample.churn": 1.0, "sample.sampler": "ddim"}, "a setting of sampler=heun"),
        ({"sample.ode_method": "rk4"}, "a setting of sampler=ode"),
        ({"train.p2_k": 2.0}, "p2_k=2.0 is a setting of weighting=p2 and weighting=none"),
        (
            {"train.weighting": "p2", "train.min_snr_gamma": 4.0},
            "a setting of weighting=min_snr and weighting=p2",
        ),
        ({"sample.corrector_snr": 0.2}, "a setting of sampler=predictor_corrector"),
        ({"sample.sampler": "langevin"}, "set clip_x_0=false"),
        ({"sample.num_steps": 201}, "num_steps=201 is more than the 200 steps"),
        ({"sample.num_steps": 1}, "sample.num_steps=1"),
        (
            {"diffusion.prediction": "x_prev", "sample.num_steps": 100},
            "cannot ask it; use sampler=ancestral with all steps",
        ),
        (
            {"diffusion.prediction": "x_prev", "sample.sampler": "unipc"},
            "cannot ask it; use sampler=ancestral with all steps",
        ),
        (
            {
                "diffusion.prediction": "v",
                "diffusion.zero_terminal_snr": True,
                "sample.sampler": "dpm_solver",
            },
            "sampler=dpm_solver divides by the signal",
        ),
        (
            {"diffusion.variance": "fixed_large", "sample.num_steps": 100},
            "variance=fixed_large leave noise",
        ),
        (
            {
                "diffusion.variance": "learned",
                "train.loss": "vlb",
                "sample.num_steps": 20,
            },
            "variance=learned is that of a single step",
        ),
    ],
)
def test_what_cannot_draw_or_is_not_used_is_refused_before_anything_starts(changes, message):
    """Catches: samples of noise after hours of training, and settings that nobody reads."""
    with pytest.raises(ConfigError) as told:
        digits().replaced(changes)
    assert message in str(told.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample.sampler": "ddim", "sample.num_steps": 20, "sample.eta": 1.0},
        {"sample.num_steps": 20},
        {"sample.sampler": "langevin", "sample.clip_x_0": False},
        {"diffusion.prediction": "v", "diffusion.zero_terminal_snr": True},
        {"diffusion.variance": "fixed_large", "sample.sampler": "unipc", "sample.num_steps": 10},
        {"diffusion.variance": "learned", "train.loss": "vlb"},
        {"diffusion.variance": "learned_range", "train.loss": "hybrid", "sample.num_steps": 20},
    ],
)
def test_a_sampler_that_can_is_taken(changes):
    """Catches rules that are too broad."""
    assert digits().replaced(changes).flat().items() >= changes.items()


@pytest.mark.parametrize("name", ["digits", "images"])
def test_a_run_json_of_before_is_read_and_is_the_same_run(name):
    """Catches a new key, or another default of one, that makes a finished run another one.

    Before, run.json had no data.max_megapixels, and said data.on_bad=fail of every data set.
    """
    config = recipe(name)
    before = json.loads(config.to_json())
    del before["data"]["max_megapixels"]
    before["data"]["on_bad"] = "fail"
    found = type(config).from_json(json.dumps(before).encode(), origin="run.json")
    assert found.data.on_bad == "fail"
    assert identity.experiment(found) == identity.experiment(config)
    assert found.differences(config) == []
    assert not {"on_bad", "max_bad_share", "max_megapixels"} & identity.data(found.data).keys()
