"""The chain in two spellings: our diffusion section, and a `DDPMScheduler`'s configuration.

Of other schedulers and kinds see `continuous_scheduler`.

diffusers takes beta_start and beta_end as they are; ours are stated for a chain of 1000 steps and
scaled by 1000/T. Both say the same betas, to the last bit, wherever float64 has such numbers.

Source: diffusers' `DDPMScheduler`.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ddpm_core.config import ChainConfig, DiffusionConfig
from ddpm_core.diffusion.choices import BetaSchedule
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.continuous_scheduler import (
    CLASS_NAMES,
    read_continuous,
    write_continuous,
)
from ddpm_core.exchange.described import PREDICTIONS, VARIANCES, read_outputs
from ddpm_core.exchange.keys import Keys

_SCHEDULES: dict[str, str] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
_LISTED: tuple[BetaSchedule, ...] = ("const", "warmup10", "warmup50", "jsd", "erasure")
"""Ours that diffusers knows as a list of betas only."""

# Key: diffusers' default, and the values with which its steps are ours.
_FIXED: dict[str, tuple[object, tuple[object, ...]]] = {
    "_class_name": ("DDPMScheduler", ("DDPMScheduler",)),
    "clip_sample": (True, (True,)),
    "clip_sample_range": (1.0, (1.0,)),
    "thresholding": (False, (False,)),
}
# Of samplers that leave out steps, or of dynamic thresholding; `tensor_format` is of 2022.
_SAYS_NOTHING = (
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "steps_offset",
    "timestep_spacing",
    "tensor_format",
)
_FLOAT32_ERROR = 1e-6  # relative, of a beta that was rounded once


def read_scheduler_config(values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Return the diffusion section that a scheduler_config.json describes.

    Raises:
        ConfigError: naming each key with which it would be another chain, or other steps.
    """
    if values.get("_class_name") in CLASS_NAMES:
        return read_continuous(values, origin=origin)
    keys = Keys(values, origin=origin)
    for key, (default, allowed) in _FIXED.items():
        keys.fixed(key, default, allowed)
    for key in _SAYS_NOTHING:
        keys.value(key)
    num_timesteps = keys.whole("num_train_timesteps", 1000)
    beta_start = keys.number("beta_start", 1e-4)
    beta_end = keys.number("beta_end", 0.02)
    schedule = keys.choice("beta_schedule", "linear", _SCHEDULES)
    outputs = read_outputs(keys)
    rescaled = keys.value("rescale_betas_zero_snr", False)
    if not isinstance(rescaled, bool):
        keys.problem("rescale_betas_zero_snr", "must be true or false")
    trained = keys.value("trained_betas")
    section = {
        "kind": "chain",
        "num_timesteps": num_timesteps,
        "beta_schedule": schedule,
        "beta_start": _for_1000(beta_start, num_timesteps),
        "beta_end": _for_1000(beta_end, num_timesteps),
        "zero_terminal_snr": rescaled,
        **outputs,
    }
    keys.finish()
    if trained is not None:
        section["beta_schedule"] = _listed(keys, section, trained)
    return section


def write_scheduler_config(diffusion: DiffusionConfig) -> dict[str, Any]:
    """Return the scheduler_config.json of the scheduler that is the process of `diffusion`: of a
    chain a `DDPMScheduler`.

    Raises:
        ConfigError: if there is none.
    """
    if not isinstance(diffusion, ChainConfig):
        return write_continuous(diffusion)
    names = {ours: theirs for theirs, ours in reversed(_SCHEDULES.items())}
    variances = {ours: theirs for theirs, ours in reversed(VARIANCES.items())}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if diffusion.prediction not in predictions:
        raise ConfigError(
            f"diffusion.prediction={diffusion.prediction} is not known to diffusers, which has "
            f"{', '.join(predictions)}; such weights cannot be written for it"
        )
    if diffusion.variance not in variances:
        raise ConfigError(
            f"diffusion.variance={diffusion.variance} is the logarithm of the variance, where "
            "diffusers takes the variance itself; such weights cannot be written for it: it has "
            f"{', '.join(variances)}"
        )
    num_timesteps, name = diffusion.num_timesteps, diffusion.beta_schedule
    listed = None
    if name in _LISTED:
        listed = make_betas(name, num_timesteps, diffusion.beta_start, diffusion.beta_end).tolist()
    scale = 1000 / num_timesteps  # as `make_betas` does
    return {
        **{key: allowed[0] for key, (_, allowed) in _FIXED.items()},
        "num_train_timesteps": num_timesteps,
        "beta_start": scale * diffusion.beta_start,
        "beta_end": scale * diffusion.beta_end,
        "beta_schedule": names[name] if name in names else _other_name(name),
        "trained_betas": listed,
        "variance_type": variances[diffusion.variance],
        "prediction_type": predictions[diffusion.prediction],
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
    }


def _other_name(name: BetaSchedule) -> str:
    """`quad` is `scaled_linear`; where the betas are listed, the name says nothing."""
    return "scaled_linear" if name == "quad" else "linear"


def _for_1000(beta: float, num_timesteps: int) -> float:
    """Return what our schedule scales to `beta`; of several such numbers, the shortest written."""
    scale = 1000 / num_timesteps
    nearest = beta / scale
    candidates = [nearest]
    for towards in (0.0, math.inf):
        candidate = nearest
        for _ in range(4):
            candidate = math.nextafter(candidate, towards)
            candidates.append(candidate)
    exact = [candidate for candidate in candidates if scale * candidate == beta]
    return min(exact, key=lambda candidate: len(repr(candidate)), default=nearest)


def _listed(keys: Keys, section: Mapping[str, Any], trained: object) -> BetaSchedule:
    """Return which of our schedules the list of betas is."""
    num_timesteps = section["num_timesteps"]
    if isinstance(trained, list) and all(isinstance(beta, int | float) for beta in trained):
        betas = torch.tensor(trained, dtype=torch.float64)
        for name in _LISTED:
            ours = make_betas(name, num_timesteps, section["beta_start"], section["beta_end"])
            if betas.shape == ours.shape and torch.allclose(
                betas, ours, rtol=_FLOAT32_ERROR, atol=0
            ):
                return name
    raise keys.refusal(
        "trained_betas",
        f"must be null, or {num_timesteps} betas that are one of {', '.join(_LISTED)}",
    )
