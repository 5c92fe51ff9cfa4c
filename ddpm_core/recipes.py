"""Recipes: functions that return a whole RunConfig. A variant is a function that calls another.

config = cifar10().replaced({"train.num_steps": 100_000})

After a colon, an ablation of the paper: `recipe("digits:eps-l-fixed")`.
"""

from collections.abc import Callable
from typing import NamedTuple

from ddpm_core.config import (
    ComputeConfig,
    DataConfig,
    DiffusionConfig,
    EvaluateConfig,
    ModelConfig,
    RunConfig,
    SampleConfig,
    StudyConfig,
    TrainConfig,
)
from ddpm_core.diffusion.choices import Loss, Prediction, is_learned
from ddpm_core.errors import ConfigError


def digits() -> RunConfig:
    """1,797 handwritten digits of 8x8 pixels: the whole pipeline in four minutes on two CPU cores.

    A fifth of the paper's timesteps, since sampling and the bound cost one network call each.
    """
    return RunConfig(
        name="digits",
        data=DataConfig(
            name="digits", height=8, width=8, num_test_images=297, images_per_shard=500
        ),
        model=ModelConfig(
            base_channels=24,
            channel_mults=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
            dropout=0.0,
            num_groups=8,
        ),
        diffusion=DiffusionConfig(num_timesteps=200, variance="fixed_small"),
        train=TrainConfig(
            num_steps=800,
            global_batch_size=64,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.995,
            random_flip=False,
            log_every=20,
            checkpoint_every=200,
        ),
        sample=SampleConfig(num_images=256, unit_size=64, batch_size=64),
        evaluate=EvaluateConfig(num_likelihood_images=64, batch_size=64, feature_steps=300),
        study=StudyConfig(
            num_images=256,
            swept_steps=(5, 10, 25),
            num_likelihood_images=64,
            num_ode_images=16,
            ode_steps=80,
            ode_tolerance=1e-3,
            mix_depth=0.25,
            batch_size=128,
            ablation_steps=200,
        ),
        compute=ComputeConfig(num_workers=2),
    )


def mnist() -> RunConfig:
    """MNIST, 28x28 padded to 32x32, half the paper's timesteps: an hour on two CPU cores."""
    return RunConfig(
        name="mnist",
        data=DataConfig(name="mnist", height=32, width=32, images_per_shard=5000),
        model=ModelConfig(
            base_channels=32,
            channel_mults=(1, 2, 2),
            num_res_blocks=1,
            attention_resolutions=(8,),
            dropout=0.0,
            num_groups=8,
        ),
        diffusion=DiffusionConfig(num_timesteps=500, variance="fixed_small"),
        train=TrainConfig(
            num_steps=2500,
            global_batch_size=64,
            learning_rate=1e-3,
            warmup_steps=200,
            ema_decay=0.998,
            random_flip=False,
            log_every=20,
            checkpoint_every=200,
        ),
        sample=SampleConfig(num_images=256, unit_size=32, batch_size=32, num_grid_images=100),
        evaluate=EvaluateConfig(num_likelihood_images=64, batch_size=64),
        study=StudyConfig(
            num_images=256,
            swept_steps=(5, 10, 25),
            num_likelihood_images=64,
            num_ode_images=16,
            ode_tolerance=1e-3,
            mix_depth=0.25,
            batch_size=32,
            ablation_steps=300,
        ),
        compute=ComputeConfig(num_workers=2),
    )


def cifar10() -> RunConfig:
    """CIFAR-10 exactly as in the paper (appendix B): 35.7 M parameters, 800,000 steps of 128."""
    return RunConfig(
        name="cifar10",
        data=DataConfig(name="cifar10", height=32, width=32, images_per_shard=5000),
        model=ModelConfig(),
        diffusion=DiffusionConfig(),
        train=TrainConfig(),
        sample=SampleConfig(),
        evaluate=EvaluateConfig(num_likelihood_images=1000),
        compute=ComputeConfig(num_workers=1),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
}


_OF_WEIGHTINGS = ("min_snr_gamma", "p2_gamma", "p2_k")


class Table2Row(NamedTuple):
    """A way to train the network, and what the paper measured of it on CIFAR-10."""

    prediction: Prediction
    loss: Loss
    is_variance_learned: bool
    """the diagonal of Sigma is learned, or Sigma is fixed and isotropic"""
    inception_score: float | None
    """mean over 50,000 samples; None where the training was unstable"""
    inception_score_error: float | None
    fid: float | None
    """to the training images; None where the training was unstable"""


PAPER_TABLE_2: dict[str, Table2Row] = {
    "mu-l-learned": Table2Row("x_prev", "vlb", True, 7.28, 0.10, 23.69),
    "mu-l-fixed": Table2Row("x_prev", "vlb", False, 8.06, 0.09, 13.22),
    "mu-l-simple": Table2Row("x_prev", "simple", False, None, None, None),
    "eps-l-learned": Table2Row("eps", "vlb", True, None, None, None),
    "eps-l-fixed": Table2Row("eps", "vlb", False, 7.67, 0.13, 13.51),
    "eps-l-simple": Table2Row("eps", "simple", False, 9.46, 0.11, 3.17),
}
"""the six ablations by their names here; source: Ho et al. 2020, arXiv:2006.11239, table 2"""


def ablations(config: RunConfig) -> dict[str, RunConfig]:
    """Return the six runs of the paper's table 2 on the data and network of `config`, by name.

    Each differs from `config` in what the network predicts and how it is trained, and is called
    `<run>-<ablation>`. A fixed variance is that of `config`, or beta if its own is learned.

    Raises:
        ConfigError: if an objective does not go with the rest of `config`, such as eps with a
            chain that ends in pure noise.
    """
    own, fields = config.diffusion.variance, TrainConfig.model_fields
    fixed = "fixed_large" if is_learned(own) else own
    return {
        name: config.replaced(
            {
                "name": f"{config.name}-{name}",
                "diffusion.prediction": row.prediction,
                "diffusion.variance": "learned" if row.is_variance_learned else fixed,
                "train.loss": row.loss,
                "train.weighting": "none",
                **{f"train.{key}": fields[key].default for key in _OF_WEIGHTINGS},
            }
        )
        for name, row in PAPER_TABLE_2.items()
    }


def ablation_runs(config: RunConfig) -> dict[str, RunConfig]:
    """Return `ablations`, each trained for `study.ablation_steps` steps, if that is set.

    What is counted in steps is scaled with the length of the training: the warm-up, and the memory
    of the moving average, which would else still hold initial weights at the end of a short one.

    Raises:
        ConfigError: as `ablations`.
    """
    train = config.train
    steps = config.study.ablation_steps or train.num_steps
    share = steps / train.num_steps
    changes = {
        "train.num_steps": steps,
        "train.warmup_steps": round(share * train.warmup_steps),
        "train.ema_decay": train.ema_decay ** (1 / share),
    }
    return {name: run.replaced(changes) for name, run in ablations(config).items()}


def is_recipe(target: str) -> bool:
    """Return whether this means a recipe, perhaps with an ablation, and not a file."""
    return target.partition(":")[0] in RECIPES


def recipe(name: str) -> RunConfig:
    """Return the recipe of that name; `digits:eps-l-fixed` is an ablation of `digits`.

    Raises:
        ConfigError: if there is none.
    """
    base, colon, ablation = name.partition(":")
    if base not in RECIPES:
        raise ConfigError(f"no recipe {base!r}; there are {', '.join(RECIPES)}")
    if not colon:
        return RECIPES[base]()
    if ablation not in PAPER_TABLE_2:
        raise ConfigError(
            f"no ablation {ablation!r} of {base}; there are {', '.join(PAPER_TABLE_2)}"
        )
    return ablations(RECIPES[base]())[ablation]
