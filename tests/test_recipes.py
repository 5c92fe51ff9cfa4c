"""The recipes against the paper: the constants of its data sets, and the ablations of table 2."""

import pytest
import torch
from torch import nn

from ddpm_core.config import RunConfig
from ddpm_core.diffusion.choices import is_learned
from ddpm_core.errors import ConfigError
from ddpm_core.inference.networks import build_network
from ddpm_core.recipes import (
    PAPER_TABLE_2,
    RECIPES,
    ablation_runs,
    ablations,
    cifar10,
    digits,
    is_recipe,
    recipe,
)
from ddpm_core.runs.layout import experiment_fingerprint
from ddpm_core.runs.run import configure
from ddpm_core.training.stepping.optimiser import Optimiser

# Ho et al. 2020, arXiv:2006.11239, appendix B, and where that is silent the scripts of the authors'
# own code (hojonathanho/diffusion at 1e0dceb: run_cifar.py, utils.py, tpu_utils.py, nn.py).
CIFAR10 = {
    # network: run_cifar.py 37-41; the groups are TensorFlow's default
    "data.name": "cifar10",
    "data.height": 32,
    "data.width": 32,
    "model.base_channels": 128,
    "model.channel_mults": [1, 2, 2, 2],
    "model.num_res_blocks": 2,
    "model.attention_resolutions": [16],
    "model.dropout": 0.1,
    "model.num_groups": 32,
    # diffusion: run_cifar.py 135-136, diffusion_utils_2.py 23-27
    "diffusion.num_timesteps": 1000,
    "diffusion.beta_schedule": "linear",
    "diffusion.beta_start": 1e-4,
    "diffusion.beta_end": 0.02,
    "diffusion.zero_terminal_snr": False,
    "diffusion.prediction": "eps",
    "diffusion.variance": "fixed_large",
    # training: run_cifar.py 46-53 and 134, utils.py 145-159, tpu_utils.py 89-103 and 164
    "train.num_steps": 800_000,
    "train.loss": "simple",
    "train.weighting": "none",
    "train.global_batch_size": 128,
    "train.learning_rate": 2e-4,
    "train.warmup_steps": 5000,
    "train.grad_clip": 1.0,
    "train.ema_decay": 0.9999,
    "train.random_flip": True,
    # samples behind IS and FID: table 1
    "sample.num_images": 50_000,
}


# What all of 256x256 pixels have in common: run_celebahq.py 42-46, run_lsun.py 51-55 and 118,
# diffusion_utils.py 82 and 165-177 (the variance); and the steps of appendix B.
AT_256 = {
    **{key: CIFAR10[key] for key in CIFAR10 if key.startswith(("diffusion.", "train."))},
    "data.height": 256,
    "data.width": 256,
    "data.grey": False,
    "model.base_channels": 128,
    "model.channel_mults": [1, 1, 2, 2, 4, 4],
    "model.num_res_blocks": 2,
    "model.attention_resolutions": [16],
    "model.dropout": 0.0,
    "model.num_groups": 32,
    "diffusion.variance": "fixed_small",
    "train.global_batch_size": 64,
    "train.learning_rate": 2e-5,
    "sample.num_images": 50_000,
}
LARGE = {
    "celebahq": {"data.name": "celebahq", "train.num_steps": 500_000},
    # "all but LSUN Bedroom" are mirrored, says appendix B
    "lsun-bedroom": {
        "data.name": "lsun_bedroom",
        "train.num_steps": 2_400_000,
        "train.random_flip": False,
    },
    # 192 channels are what 256 M parameters come to, which is all that appendix B says
    "lsun-bedroom-large": {
        "data.name": "lsun_bedroom",
        "train.num_steps": 1_150_000,
        "train.random_flip": False,
        "model.base_channels": 192,
    },
    "lsun-church": {"data.name": "lsun_church", "train.num_steps": 1_200_000},
    "lsun-cat": {"data.name": "lsun_cat", "train.num_steps": 1_800_000},
}


@pytest.mark.parametrize("name", LARGE)
def test_the_large_recipes_have_the_constants_of_the_paper(name):
    """Catches: CIFAR-10's learning rate, variance or dropout at 256x256, and another length."""
    found = RunConfig.from_json(recipe(name).to_json()).flat()
    expected = AT_256 | LARGE[name]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [("celebahq", 113_673_219), ("lsun-church", 113_673_219), ("lsun-bedroom-large", 255_677_955)],
)
def test_the_large_networks_have_as_many_parameters_as_the_paper_s(name, num_parameters):
    """Catches: another width, depth or attention; appendix B says 114 and 256 million."""
    with torch.device("meta"):
        network = build_network(recipe(name))
    assert sum(weight.numel() for weight in network.parameters()) == num_parameters


# Dhariwal and Nichol 2021, arXiv:2105.05233, table 11 (ImageNet 64), and section 4 (250 steps).
ADM = {
    "data.height": 64,
    "data.width": 64,
    "model.kind": "adm",
    "model.base_channels": 192,
    "model.channel_mults": [1, 2, 3, 4],
    "model.num_res_blocks": [3],
    "model.attention_resolutions": [32, 16, 8],
    "model.head_channels": 64,
    "model.dropout": 0.1,
    "diffusion.num_timesteps": 1000,
    "diffusion.beta_schedule": "cosine",
    "diffusion.prediction": "eps",
    "diffusion.variance": "learned_range",
    "train.loss": "hybrid",
    "train.num_steps": 540_000,
    "train.global_batch_size": 2048,
    "train.learning_rate": 3e-4,
    "train.warmup_steps": 0,
    "train.ema_decay": 0.9999,
    "sample.num_steps": 250,
}
# Nichol et al. 2021, arXiv:2112.10741, section 4; its code (openai/glide-text2im at 69b5307:
# model_creation.py) for the length of captions, dropout and the features of a head.
GLIDE = ADM | {
    "model.base_channels": 512,
    "model.conditioning": "text",
    "model.text_length": 128,
    "model.text_hidden_size": 2048,
    "model.text_num_layers": 24,
    "model.text_num_heads": 2048 // 64,
    "model.text_pool": "last",
    "train.num_steps": 2_500_000,
    "train.learning_rate": 1e-4,  # ours: none is published
    "train.text_dropout": 0.2,
    "sample.guidance_scale": 3.0,
}


@pytest.mark.parametrize(
    ("name", "expected", "num_parameters"),
    [
        ("adm", ADM, 295_904_454 - 1000 * 768),
        ("adm-classes", ADM | {"model.num_classes": 1000}, 295_904_454 + 768),
        ("glide", GLIDE, None),
    ],
)
def test_guided_diffusion_and_glide_have_the_constants_of_their_papers(
    name, expected, num_parameters
):
    """Catches: another width, schedule or length; a network that is not the published one: 296 M
    with rows for 1000 classes, and one more here; 3.5 G, of which the captions' encoder 1.2.
    """
    config = recipe(name)
    found = RunConfig.from_json(config.to_json()).flat()
    assert {key: found[key] for key in expected} == expected
    if num_parameters is not None:
        assert config.num_parameters == num_parameters
    else:
        encoder = config.model.num_parameters_of_text
        assert config.num_parameters == pytest.approx(3.5e9, abs=0.05e9)
        assert encoder == pytest.approx(1.2e9, abs=0.05e9)


def test_the_released_glide_has_its_parameters():
    """Catches: an encoder or attention of another size than in its code: 385 M, of which the table
    of 50,257 pieces of words is here one of 259 bytes (its model card).
    """
    sizes = {"model.base_channels": 192, "model.text_hidden_size": 512, "model.text_num_layers": 16}
    count = recipe("glide").replaced(sizes | {"model.text_num_heads": 8}).num_parameters
    assert count + (50_257 - 259) * 512 == pytest.approx(385e6, abs=0.5e6)


# Song et al. 2020, arXiv:2010.02502: S of table 1; the network and training of DDPM (appendix D.1),
# quadratic steps for CIFAR-10 (D.2), equations without clipping (D.3). Its headline of 10 to 50
# times as fast is S = 20 to 100.
DDIM = {
    **CIFAR10,
    "sample.sampler": "ddim",
    "sample.eta": 0.0,
    "sample.num_steps": 50,
    "sample.spacing": "quadratic",
    "sample.clip_x_0": False,
    "study.ddim_steps": [10, 20, 50, 100, 1000],
    "study.num_images": 50_000,
}


def test_cifar10_by_ddim_has_the_constants_of_its_paper():
    """Catches: another training than DDPM's, S of another column, linear steps."""
    found = RunConfig.from_json(recipe("cifar10-ddim").to_json()).flat()
    assert {key: found[key] for key in DDIM} == DDIM


@pytest.mark.parametrize("base", ["digits", "cifar10"])
def test_ddim_has_no_training_of_its_own(base):
    """Catches: a recipe whose weights are not those of the recipe that it draws from."""
    ours, theirs = recipe(base), recipe(f"{base}-ddim")
    assert experiment_fingerprint(ours) == experiment_fingerprint(theirs)


@pytest.mark.parametrize("key", CIFAR10)
def test_cifar10_has_the_constants_of_the_paper(key):
    """Catches: a drifted default. The whole network is counted in tests/models/test_unet.py."""
    # By way of JSON, where tuples are lists.
    assert RunConfig.from_json(cifar10().to_json()).flat()[key] == CIFAR10[key]


def test_adam_has_the_constants_of_the_paper():
    """Catches: another beta, epsilon or weight decay; utils.py 154-159. Gradients as small as
    epsilon show it; the recursion is algorithm 1 of Kingma & Ba 2015.
    """
    weight = nn.Parameter(torch.ones(1))
    optimiser = Optimiser({"w": weight})
    m = v = 0.0
    expected = 1.0
    for step, gradient in enumerate((3e-8, -1e-8, 2.0), start=1):
        weight.grad = torch.tensor([gradient])
        optimiser.update(0.1)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        unbiased_m, unbiased_v = m / (1 - 0.9**step), v / (1 - 0.999**step)
        expected -= 0.1 * unbiased_m / (unbiased_v**0.5 + 1e-8)
        assert weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_the_way_through_run_json(name):
    """Catches: a field whose JSON form does not validate again (tuples, None) in strict mode."""
    config = recipe(name)
    assert RunConfig.from_json(config.to_json()) == config


def test_an_unknown_recipe_or_ablation_names_the_known_ones():
    """Catches: a KeyError as the message."""
    with pytest.raises(
        ConfigError,
        match=r"no recipe 'imagenet'; .*digits, digits-dit, digits-classes, digits-classifier, ",
    ):
        recipe("imagenet")
    with pytest.raises(ConfigError, match=r"no recipe 'imagenet'"):
        recipe("imagenet:eps-l-fixed")
    for name in ("eps", "", "eps-l-fixed:", "fid"):
        with pytest.raises(ConfigError, match=r"no ablation '.*' of digits; .*mu-l-learned, mu-l-"):
            recipe(f"digits:{name}")


def is_chain(config):
    return config.diffusion.kind == "chain" and config.role == "denoiser"


# -- table 2 -------------------------------------------------------------------------------------

# The rows as the paper prints them, IS with its error and FID of CIFAR-10: what the network
# predicts, the objective, the variance.
PRINTED = {
    "mu-l-learned": ("x_prev", "vlb", "learned", "7.28±0.10", "23.69"),
    "mu-l-fixed": ("x_prev", "vlb", "fixed", "8.06±0.09", "13.22"),
    "mu-l-simple": ("x_prev", "simple", "fixed", "-", "-"),
    "eps-l-learned": ("eps", "vlb", "learned", "-", "-"),
    "eps-l-fixed": ("eps", "vlb", "fixed", "7.67±0.13", "13.51"),
    "eps-l-simple": ("eps", "simple", "fixed", "9.46±0.11", "3.17"),
}


def test_table_2_is_that_of_the_paper():
    """Catches: a row that is another run's, a number in the wrong place, one more or less."""
    assert list(PAPER_TABLE_2) == list(PRINTED)
    for name, row in PAPER_TABLE_2.items():
        score = f"{row.inception_score:.2f}±{row.inception_score_error:.2f}" if row.fid else "-"
        fid = f"{row.fid:.2f}" if row.fid else "-"
        variance = "learned" if row.is_variance_learned else "fixed"
        assert (row.prediction, row.loss, variance, score, fid) == PRINTED[name]
        assert name == "-".join(
            (
                "mu" if row.prediction == "x_prev" else "eps",
                "l",
                "simple" if row.loss == "simple" else variance,
            )
        )


@pytest.mark.parametrize("base", [name for name, make in RECIPES.items() if is_chain(make())])
def test_ablations_differ_in_what_table_2_varies_and_in_nothing_else(base):
    """Catches: an ablation of another data set or length, whose numbers compare with nothing."""
    config = recipe(base)
    made = ablations(config)
    varied = {"name", "diffusion.prediction", "diffusion.variance", "train.loss"}
    if base.endswith("-ddim"):  # whose steps nobody can leave out who predicts x_{t-1}
        varied |= {"sample.sampler", "sample.num_steps", "study.ddim_steps"}
    if config.sample.num_steps is not None:
        varied |= {"sample.num_steps"}
    for name, run in made.items():
        prediction, loss, variance, *_ = PRINTED[name]
        assert (run.diffusion.prediction, run.train.loss) == (prediction, loss)
        own = config.diffusion.variance
        fixed = "fixed_large" if is_learned(own) else own
        expected = "learned" if variance == "learned" else fixed
        assert run.diffusion.variance == expected
        assert run.name == f"{config.name}-{name}"
        ours, theirs = config.flat(), run.flat()
        assert {key for key in ours if ours[key] != theirs[key]} <= varied
        assert recipe(f"{base}:{name}") == run
        assert RunConfig.from_json(run.to_json()) == run
    assert len({run.to_json() for run in made.values()}) == 6


def test_ablations_of_another_process_are_refused():
    """Catches: a chain in place of the path, a sentence about keys that nobody gave, and six
    classifiers that are trained alike."""
    with pytest.raises(ConfigError, match=r"model\.kind=classifier draws none"):
        recipe("digits-classifier:eps-l-fixed")
    with pytest.raises(ConfigError, match=r"are of the chain, and diffusion\.kind=vp is another"):
        recipe("digits-vp:eps-l-fixed")


def test_the_paper_s_own_choice_is_cifar10_itself():
    """Catches: an eps-l-simple that is not what the recipe trains."""
    chosen = ablations(cifar10())["eps-l-simple"]
    assert chosen.replaced({"name": "cifar10"}) == cifar10()


def test_ablations_of_a_learned_variance_with_weights_are_the_paper_s_too():
    """Catches: a fixed variance that is learned after all, and weights that the paper had not."""
    config = digits().replaced(
        {
            "name": "mine",
            "diffusion.variance": "learned_range",
            "train.loss": "hybrid",
            "train.weighting": "min_snr",
            "train.min_snr_gamma": 3.0,
        }
    )
    for name, run in ablations(config).items():
        assert run.name == f"mine-{name}"
        assert run.train.weighting == "none"
        fixed = PRINTED[name][2] == "fixed"
        assert run.diffusion.variance == ("fixed_large" if fixed else "learned")
        assert is_learned(run.diffusion.variance) != fixed


def test_ablations_of_a_run_that_leaves_steps_out_take_every_step():
    """Catches: ablations that cannot be, since a network of x_{t-1} knows single steps alone; a run
    that could draw them, and is drawn otherwise."""
    few = {"sample.sampler": "ddim", "sample.num_steps": 20, "sample.eta": 0.5}
    for run in ablations(digits().replaced(few)).values():
        assert (run.sample.sampler, run.sample.num_steps) == ("ancestral", None)
    every = digits().replaced({"sample.sampler": "ddim", "sample.eta": 0.5})
    assert {run.sample for run in ablations(every).values()} == {every.sample}


def test_ablations_of_a_run_with_previews_have_them_where_they_can():
    """Catches: ablations refused for previews, which those that predict x_{t-1} cannot have."""
    made = ablations(digits().replaced({"train.preview_every": 7}))
    shown = {name: run.train.preview_every for name, run in made.items()}
    assert shown == {name: None if name.startswith("mu") else 7 for name in made}


def test_ablations_that_cannot_be_are_refused():
    """Catches: eps on a chain that ends in pure noise."""
    config = digits().replaced({"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"})
    with pytest.raises(ConfigError, match="predict v or x_0"):
        ablations(config)


@pytest.mark.parametrize(("steps", "expected"), [(7, 7), (None, 800)])
def test_ablations_are_trained_for_as_long_as_the_study_says(steps, expected):
    """Catches: six full trainings where short ones were asked for, or the reverse; a length that
    counts for the run itself."""
    config = digits().replaced({"study.ablation_steps": steps})
    runs = ablation_runs(config)
    assert list(runs) == list(PRINTED)
    for name, run in runs.items():
        assert run.train.num_steps == expected
        own = config.train
        of_the_length = {
            f"train.{key}": getattr(own, key) for key in ("num_steps", "warmup_steps", "ema_decay")
        }
        assert run.replaced(of_the_length) == ablations(config)[name]
        # The same share of the training is warm-up, and is remembered by the average.
        assert run.train.warmup_steps == round(own.warmup_steps * expected / own.num_steps)
        remembered = run.train.ema_decay**expected
        assert remembered == pytest.approx(own.ema_decay**own.num_steps)
    assert config.train.num_steps == 800


def test_the_command_line_takes_an_ablation():
    """Catches: a spelling that only Python knows, and a colon in a path taken for one."""
    root, config = configure(
        "digits:mu-l-fixed", root=None, run=None, changes={"train.num_steps": 3}
    )
    assert root == "./runs"
    assert config == recipe("digits:mu-l-fixed").replaced({"train.num_steps": 3})
    _, named = configure("digits:mu-l-fixed", root=None, run="mine", changes={})
    assert (named.name, named.diffusion.prediction) == ("mine", "x_prev")
    assert is_recipe("digits")
    assert not is_recipe("s3://bucket/runs/digits/run.json")
    with pytest.raises(ConfigError, match="no ablation 'x' of digits"):
        configure("digits:x", root=None, run=None, changes={})
