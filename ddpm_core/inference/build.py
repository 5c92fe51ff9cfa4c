"""From a configuration to what training, sampling and evaluation share."""

import math

import torch
from torch import Tensor

from ddpm_core.conditioning import DROPPED, NOTHING, Conditioning
from ddpm_core.config import (
    BinomialConfig,
    ContinuousConfig,
    RunConfig,
    SampleConfig,
)
from ddpm_core.diffusion.binomial.chain import BinomialChain
from ddpm_core.diffusion.binomial.denoiser import BinomialObjective, BitDenoiser
from ddpm_core.diffusion.continuous_objective import ContinuousObjective
from ddpm_core.diffusion.denoiser import Network, NetworkDenoiser
from ddpm_core.diffusion.objective import Objective
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, make_schedule
from ddpm_core.diffusion.paths.sigma import time_of_sigma
from ddpm_core.diffusion.paths.spacing import choose_timesteps, karras_sigmas
from ddpm_core.diffusion.wrappers.guidance import EVERYWHERE, Interval
from ddpm_core.errors import ConfigError
from ddpm_core.inference import continuous

_LARGEST_END = 1e-3


AnyDenoiser = NetworkDenoiser | BitDenoiser
"""of images, on a path of Gaussian noise, or of bits"""


def build_schedule(config: RunConfig) -> NoiseSchedule:
    """Return the chain of `config`, or the one made of its path; float64 tables on the CPU.

    Raises:
        ConfigError: it is one of bits.
    """
    diffusion = config.diffusion
    if isinstance(diffusion, BinomialConfig):
        raise ConfigError("diffusion.kind=binomial is a chain of bits, which has no such schedule")
    if isinstance(diffusion, ContinuousConfig):
        return continuous.chain_made_of(diffusion)
    betas = make_betas(
        diffusion.beta_schedule,
        diffusion.num_timesteps,
        diffusion.beta_start,
        diffusion.beta_end,
    )
    return make_schedule(zero_terminal_snr(betas) if diffusion.zero_terminal_snr else betas)


def end_warning(config: RunConfig) -> str | None:
    """Return what to tell the user if the chain does not end in noise, or None if it does.

    Samples begin at pure noise, which a network never saw whose last abar is not near 0.

    Source: Lin et al. 2023, arXiv:2305.08891, section 3.1.
    """
    diffusion = config.diffusion
    if isinstance(diffusion, BinomialConfig):
        return None
    left = float(build_schedule(config).alphas_cumprod[-1])
    if left <= _LARGEST_END:
        return None
    if isinstance(diffusion, ContinuousConfig):
        key = "sigma_max" if hasattr(diffusion, "sigma_max") else "beta_max"
        return (
            f"the path of diffusion.kind={diffusion.kind} ends with {100 * left**0.5:.2g} % of the "
            f"image, but samples begin without any; raise diffusion.{key}"
        )
    return (
        f"abar_T={left:.3g} of diffusion.beta_schedule={diffusion.beta_schedule} with beta_start="
        f"{diffusion.beta_start:g}, beta_end={diffusion.beta_end:g}, num_timesteps="
        f"{diffusion.num_timesteps} is not near 0 (at most {_LARGEST_END:g}): x_T keeps "
        f"{100 * left**0.5:.2g} % of the image, but samples begin without any. Raise "
        "diffusion.beta_end, or use diffusion.beta_schedule=cosine, or "
        "diffusion.zero_terminal_snr=true with diffusion.prediction=v or x_0"
    )


def interval_of(sample: SampleConfig) -> Interval:
    """Return the noise levels at which `sample` guides."""
    if sample.guidance_interval is None:
        return EVERYWHERE
    low, high = sample.guidance_interval
    return Interval(low, math.inf if high is None else high)


def _steps_of(sample: SampleConfig, schedule: NoiseSchedule) -> Tensor:
    """Return the times at which the network is called; of an adaptive solver, between which."""
    num_timesteps = schedule.num_timesteps
    given = None if sample.is_adaptive else sample.num_steps
    taken = num_timesteps if given is None else given
    if sample.spacing == "karras":
        sigmas = torch.tensor(karras_sigmas(schedule, taken), dtype=torch.float64)
        return time_of_sigma(schedule, sigmas)
    return torch.tensor(choose_timesteps(sample.spacing, num_timesteps, taken))


def require_process(config: RunConfig) -> None:
    """Refuse a process in continuous time that cannot be trained or drawn from.

    Raises:
        ConfigError: as `continuous.require_trainable`.
    """
    if isinstance(config.diffusion, ContinuousConfig):
        continuous.require_trainable(config.diffusion)


def require_guidance(
    config: RunConfig, *, depth: int | None = None, num_steps: int | None = None
) -> None:
    """Refuse an interval of guidance in which none of the sampler's steps lies.

    Args:
        config: the run's.
        depth: steps of the chain that images are drawn from; None: all of them.
        num_steps: of a depth, how many of those are taken.

    Raises:
        ConfigError: with the noise levels that there are.
    """
    sample, given = config.sample, config.sample.guidance_interval
    if given is None:
        return
    schedule = build_schedule(config)
    if depth is not None:
        schedule = make_schedule(schedule.betas[:depth])
        sample = sample.model_copy(update={"num_steps": num_steps})
    steps = _steps_of(sample, schedule)
    if not bool(interval_of(sample).contains(schedule, steps).any()):
        signal, noise = schedule.signal_and_noise(steps, steps.double())
        sigma = noise / signal
        raise ConfigError(
            f"sample.guidance_interval={list(given)} holds the noise level of "
            f"none of the {len(steps)} steps, which have sigma from {float(sigma.min()):.3g} to "
            f"{float(sigma.max()):.3g}: nothing would be guided; give others, or leave it out"
        )


def build_objective(config: RunConfig) -> Objective | ContinuousObjective | BinomialObjective:
    """Return what the network of `config` is trained to minimise."""
    train, diffusion = config.train, config.diffusion
    if config.role != "denoiser":
        # Of it the noise alone is used; samplers call it on the chain, also of a continuous path.
        return Objective(build_schedule(config), prediction="x_0")
    if isinstance(diffusion, BinomialConfig):
        return BinomialObjective(BinomialChain(diffusion.num_timesteps))
    if isinstance(diffusion, ContinuousConfig):
        return ContinuousObjective(
            continuous.times_of(diffusion),
            prediction=diffusion.prediction,
            loss=train.loss,
            weighting=train.weighting,
            min_snr_gamma=train.min_snr_gamma,
            p2_gamma=train.p2_gamma,
            p2_k=train.p2_k,
            sigma_data=continuous.form_of(diffusion).sigma_data,
        )
    return Objective(
        build_schedule(config),
        prediction=diffusion.prediction,
        variance=diffusion.variance,
        loss=train.loss,
        weighting=train.weighting,
        min_snr_gamma=train.min_snr_gamma,
        p2_gamma=train.p2_gamma,
        p2_k=train.p2_k,
        num_levels=config.data.num_levels,
    )


def in_training(config: RunConfig, network: Network) -> Network:
    """Return the network as it is called in training: with x_t and the times of its process."""
    if config.role == "denoiser" and isinstance(config.diffusion, ContinuousConfig):
        return continuous.on_path(network, config.diffusion)
    return network


def build_denoiser(
    config: RunConfig, network: Network, null: Conditioning = NOTHING
) -> AnyDenoiser:
    """Return the denoiser of a trained network, for samplers and the bound: on a chain.

    Args:
        config: the run's.
        network: trained.
        null: its conditioning that says nothing, where it takes any.

    Raises:
        ConfigError: the network is a classifier.
    """
    if config.role != "denoiser":
        raise ConfigError(f"model.kind={config.model.kind} classifies x_t and predicts no image")
    diffusion = config.diffusion
    if isinstance(diffusion, BinomialConfig):
        return BitDenoiser(network, BinomialChain(diffusion.num_timesteps), null=null)
    if isinstance(diffusion, ContinuousConfig):
        network = continuous.on_chain(network, diffusion)
    return NetworkDenoiser(
        network,
        build_schedule(config),
        prediction=diffusion.prediction,
        variance=diffusion.variance,
        # A low resolution that is forgotten is an error, and no image of anything.
        conditioning=null.only(null.parts - DROPPED - {"low"}),
        null=null,
    )


def arithmetic_of(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype in which the network computes: `auto` is bfloat16 on GPUs that have it."""
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    # A card before Ampere (8.0) computes it through float32: slower, and less exact. Not float16
    # there: the training would be another, that leaves out steps.
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_it else torch.float32


def layout_of(device: torch.device, *, compiled: bool) -> torch.memory_format:
    """Return how images lie in memory where a network computes."""
    # The norms of a GPU want channels first; with channels last, a step in bfloat16 takes 1.2
    # times. Compiled they take either, and the compiler does not choose by itself.
    if device.type == "cpu" or compiled:
        return torch.channels_last
    return torch.contiguous_format
