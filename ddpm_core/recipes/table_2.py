"""The paper's table 2: six ways to train a network, on the data and network of any recipe."""

from typing import NamedTuple

from ddpm_core.config import MAX_RUN_NAME, ChainConfig, RunConfig, SampleConfig, TrainConfig
from ddpm_core.diffusion.choices import (
    Loss,
    PredictionKind,
    is_learned,
    is_of_one_step,
    require_samplable,
)
from ddpm_core.errors import ConfigError

_OF_WEIGHTINGS = ("min_snr_gamma", "p2_gamma", "p2_k")
_OTHER_AVERAGES = ("ema_decays", "power_averages", "num_snapshots")


class Table2Row(NamedTuple):
    """A way to train the network, and what the paper measured of it on CIFAR-10."""

    prediction: PredictionKind
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
    `<run>-<ablation>`. A fixed variance is that of `config`, or beta if its own is learned. All six
    are drawn alike: as `config` says, or where that cannot draw from the mean of x_{t-1}, as the
    paper does, by every ancestral step. They have no DDIM tables, and previews where there can be.

    Raises:
        ConfigError: if the process is no chain, an objective does not go with the rest of
            `config`, such as eps with a chain that ends in pure noise, the name is too long to have
            another after it, or samples are guided by other weights.
    """
    longest = max(PAPER_TABLE_2, key=len)
    most = MAX_RUN_NAME - len(longest) - 1
    if len(config.name) > most:
        raise ConfigError(
            f"name={config.name!r} has {len(config.name)} characters, and with an ablation's name "
            f"after it, as in <run>-{longest}, it may have at most {most}; give a shorter one "
            "(--run NAME)"
        )
    if config.role != "denoiser":
        raise ConfigError(
            f"the ablations of the paper's table 2 are of networks that draw images, and "
            f"model.kind={config.model.kind} draws none; take another recipe"
        )
    if config.sample.guidance_by is not None:
        raise ConfigError(
            f"sample.guidance_by={config.sample.guidance_by!r} guides the run's own network, and "
            "not six that are trained otherwise; leave it and its settings out for the ablations"
        )
    if not isinstance(config.diffusion, ChainConfig):
        raise ConfigError(
            f"the ablations of the paper's table 2 are of the chain, and diffusion.kind="
            f"{config.diffusion.kind} is another process; take a recipe with diffusion.kind=chain"
        )
    own, fields, drawn = config.diffusion.variance, TrainConfig.model_fields, _drawn(config)
    fixed = "fixed_large" if is_learned(own) else own
    every = config.train.preview_every
    return {
        name: config.replaced(
            {
                "name": f"{config.name}-{name}",
                "sample.model": None,  # of their own
                **drawn,
                "study.ddim_steps": [],
                "diffusion.prediction": row.prediction,
                "diffusion.variance": "learned" if row.is_variance_learned else fixed,
                "train.loss": row.loss,
                "train.preview_every": None if is_of_one_step(row.prediction) else every,
                "train.weighting": "none",
                **{f"train.{key}": fields[key].default for key in _OF_WEIGHTINGS},
            }
        )
        for name, row in PAPER_TABLE_2.items()
    }


def _drawn(config: RunConfig) -> dict[str, object]:
    """Return what is to be changed of `sample` so that every ablation can be drawn."""
    sample, diffusion = config.sample, config.diffusion
    try:
        require_samplable(
            sample.sampler,
            "x_prev",
            "learned",
            num_steps=sample.num_steps,
            num_timesteps=diffusion.num_timesteps,
            ends_in_pure_noise=diffusion.ends_in_pure_noise,
        )
    except ConfigError:
        defaults = SampleConfig.model_fields
        knobs = ["sampler", "num_steps", "eta", "ode_method", "ode_tolerance", "churn"]
        knobs += ["corrector_snr", *(["spacing"] if sample.spacing == "karras" else [])]
        return {f"sample.{key}": defaults[key].default for key in knobs}
    return {}


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
        # Measured by that one alone.
        **{f"train.{key}": TrainConfig.model_fields[key].default for key in _OTHER_AVERAGES},
        # From the beginning, and at once, whatever the run did.
        **{"train.start_from": None, "train.start_optimiser": "fresh", "train.earlier": []},
    }
    return {name: run.replaced(changes) for name, run in ablations(config).items()}
