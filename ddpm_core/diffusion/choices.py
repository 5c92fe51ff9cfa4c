"""What there is to choose from, by name, and which choices go together. Knows no torch.

Configurations are checked by the same rules as the mathematics, before anything is loaded.

Source: Ho et al. 2020, arXiv:2006.11239, table 2; Nichol and Dhariwal 2021, arXiv:2102.09672.
"""

from typing import Literal

from ddpm_core.errors import ConfigError

BetaSchedule = Literal[
    "linear",
    "quad",
    "scaled_linear",
    "const",
    "warmup10",
    "warmup50",
    "jsd",
    "cosine",
    "sigmoid",
    "erasure",
]
"""Variances of the forward steps; `quad` and `scaled_linear`, the original's and latent
diffusion's name, are the same."""

PredictionKind = Literal["eps", "x_0", "x_prev", "v", "drift"]
"""What a network of a chain predicts: the noise, the image, the mean of x_{t-1}, v, or how far that
mean lies from sqrt(1 - beta) x_t, in units of sqrt(beta) (drift)."""

OutputKind = Literal["eps", "x_0", "x_prev", "v", "drift", "velocity"]
"""What a network's output may be: also the velocity eps - x_0 of flow matching."""

Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range", "learned_beta"]
"""Variance of the reverse steps. fixed_small: the posterior's, optimal if x_0 is one point;
fixed_large: beta, optimal if x_0 is standard normal; learned: a second half of the output is its
logarithm; learned_range: a second half interpolates between the logarithms of both; learned_beta:
a second half over sqrt(T) is added to the log odds of beta."""

TrainingTimes = Literal["uniform", "log_snr", "log_normal"]
"""At which times of a continuous path a network is trained; see `times`."""

Loss = Literal["simple", "vlb", "hybrid"]
"""L_simple; one term of the variational bound L; or L_simple, and L for the variance alone."""

Weighting = Literal["none", "min_snr", "p2"]
"""How L_simple weighs the timesteps."""

Sampler = Literal[
    "ancestral",
    "langevin",
    "predictor_corrector",
    "ddim",
    "sde",
    "ode",
    "heun",
    "dpm_solver",
    "sde_dpm_solver",
    "unipc",
]
"""How images are drawn; `samplers` has a file for each family."""

OdeMethod = Literal["euler", "heun", "rk4"]
"""Solvers of order 1, 2 and 4, with as many calls of the network for each step."""

OdeSolver = Literal["euler", "heun", "rk4", "adaptive"]
"""These, or that of Dormand and Prince, which chooses the steps of each image by itself."""

_IN_SIGMA: tuple[Sampler, ...] = ("ode", "heun", "dpm_solver", "sde_dpm_solver", "unipc")
_STEPS_ARE_DRAWN: tuple[Sampler, ...] = ("ancestral", "langevin", "predictor_corrector")

Spacing = Literal["leading", "trailing", "linspace", "quadratic", "karras"]
"""Which timesteps a sampler with fewer steps than the chain takes; see `spacing`. karras are no
timesteps but noise levels, for solvers that work in sigma."""

ChainSpacing = Literal["leading", "trailing", "linspace", "quadratic"]
"""Those that are timesteps of the chain."""

MIN_STEPS_FIXED_LARGE = 250
"""Steps below which variance fixed_large ruins images; see `require_enough_steps`."""

DecoderCdf = Literal["tanh", "exact"]
"""The normal distribution function of the decoder: the original's approximation, or erf."""


def is_learned(variance: Variance) -> bool:
    """Return whether the network predicts the variance too, and so has twice the channels."""
    return variance in ("learned", "learned_range", "learned_beta")


def is_of_one_step(prediction: OutputKind) -> bool:
    """Return whether the network speaks of x_{t-1}, and so of whole steps of its own chain."""
    return prediction in ("x_prev", "drift")


def require_possible(
    prediction: OutputKind, variance: Variance, loss: Loss, weighting: Weighting
) -> None:
    """Refuse an objective that would not train what it is to train.

    Raises:
        ConfigError: with the reason.
    """
    if loss == "simple" and is_learned(variance):
        raise ConfigError(
            f"loss=simple does not depend on the variance, so variance={variance} would stay as "
            "it began; use loss=hybrid or vlb, or a fixed variance"
        )
    if loss == "hybrid" and not is_learned(variance):
        raise ConfigError(
            f"loss=hybrid adds the bound for the variance alone, and variance={variance} is "
            "fixed: it would be loss=simple at a higher price; use that, or a learned variance"
        )
    if weighting != "none" and loss == "vlb":
        raise ConfigError(
            f"weighting={weighting} weighs L_simple, and loss=vlb has the weights of the bound; "
            "use weighting=none, or loss=simple"
        )
    if weighting != "none" and is_of_one_step(prediction):
        raise ConfigError(
            f"weighting={weighting} is stated for eps, x_0 and v; with prediction={prediction} use "
            "weighting=none"
        )


def require_end_known(prediction: OutputKind, *, ends_in_pure_noise: bool) -> None:
    """Refuse a prediction that cannot say what x_0 is at the chain's end.

    Raises:
        ConfigError: if the chain ends in pure noise and the prediction is eps.
    """
    if ends_in_pure_noise and prediction == "eps":
        raise ConfigError(
            "prediction=eps does not say what x_0 is where the chain ends in pure noise: with "
            "beta_schedule=jsd or zero_terminal_snr=true the last abar is 0; predict v or x_0, or "
            "use another schedule"
        )


def require_enough_steps(variance: Variance, num_steps: int) -> None:
    """Refuse ancestral sampling in few long steps with the larger of the fixed variances.

    Over a long step beta is far above the variance of x_{t-1} given x_t, so the last steps leave
    noise in the image: on CIFAR-10 the Frechet distance is 3.17 with 1000 steps, 10 with 100, 33
    with 50 and 367 with 10; DDIM's is 4.0, 4.2, 4.7 and 13.4.

    Args:
        variance: of the reverse steps.
        num_steps: how many of the chain's steps are taken.

    Raises:
        ConfigError: if the variance is fixed_large and there are fewer than 250 steps.

    Source: Song et al. 2021, arXiv:2010.02502, table 1 (eta = 0, and the row of sigma-hat).
    """
    if variance == "fixed_large" and num_steps < MIN_STEPS_FIXED_LARGE:
        raise ConfigError(
            f"{num_steps} ancestral steps with variance=fixed_large leave noise in the images "
            "(CIFAR-10: Frechet distance 367 with 10 steps, 33 with 50, 3.2 with 1000); take at "
            f"least {MIN_STEPS_FIXED_LARGE} steps, or variance=fixed_small, or a sampler made for "
            "few steps: ddim, dpm_solver, unipc"
        )


def require_samplable(
    sampler: Sampler,
    prediction: OutputKind,
    variance: Variance,
    *,
    num_steps: int | None,
    num_timesteps: int,
    ends_in_pure_noise: bool,
    spacing: Spacing = "trailing",
) -> None:
    """Refuse a sampler that cannot draw from such a network, or would draw noise.

    Args:
        sampler: which.
        prediction: of the network.
        variance: of the reverse steps.
        num_steps: how many of the chain's steps are taken; None: all.
        num_timesteps: T.
        ends_in_pure_noise: whether the last abar is 0.
        spacing: by which rule the steps are chosen.

    Raises:
        ConfigError: with the reason.
    """
    if spacing == "karras" and sampler not in _IN_SIGMA:
        raise ConfigError(
            f"spacing=karras are noise levels between the steps of the chain, and sampler={sampler}"
            f" takes its steps; use one of {', '.join(_IN_SIGMA)}, or another spacing"
        )
    if num_steps is not None and num_steps > num_timesteps:
        raise ConfigError(
            f"num_steps={num_steps} is more than the {num_timesteps} steps of the chain; take at "
            "most as many"
        )
    taken = num_timesteps if num_steps is None else num_steps
    one_step = is_of_one_step(prediction)
    if one_step and (taken < num_timesteps or sampler in (*_IN_SIGMA, "sde")):
        raise ConfigError(
            f"prediction={prediction} speaks of single steps of the chain: sampler={sampler} with "
            f"{taken} of {num_timesteps} steps cannot ask it; use sampler=ancestral with all steps"
        )
    of_one_step = variance in ("learned", "learned_beta")
    if of_one_step and taken < num_timesteps and sampler in _STEPS_ARE_DRAWN:
        raise ConfigError(
            f"variance={variance} is that of a single step of the chain, and sampler={sampler} "
            f"draws {taken} long ones of {num_timesteps}: it would leave out most of their noise. "
            "Take all steps, or a network with variance=learned_range, or sampler=ddim with eta=0"
        )
    if ends_in_pure_noise and sampler in (*_IN_SIGMA, "sde", "langevin", "predictor_corrector"):
        raise ConfigError(
            f"sampler={sampler} divides by the signal, of which nothing is left where the chain "
            "ends in pure noise; use sampler=ancestral or ddim"
        )
    if sampler in _STEPS_ARE_DRAWN and taken < num_timesteps:
        require_enough_steps(variance, taken)
