"""From a configuration to the sampler that it names, ready to be given noise."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.binomial.denoiser import ddpm_sample as sample_bits
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.integrate import Adaptive, FixedStep, Solver
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.paths.sigma import sigma_range
from ddpm_core.diffusion.paths.spacing import chain_sigmas, choose_timesteps, karras_sigmas
from ddpm_core.diffusion.samplers.ancestral import OnStep, ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import Churn, heun_sample
from ddpm_core.diffusion.samplers.langevin import langevin_sample
from ddpm_core.diffusion.samplers.ode import ode_sample
from ddpm_core.diffusion.samplers.sde import pc_sample, sde_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.errors import ConfigError
from ddpm_core.sampling.guided import describe_guidance

Noise = Callable[[int], Tensor]


def num_steps_of(sample: SampleConfig, num_timesteps: int) -> int:
    """Return how many steps are taken: `on_step` counts them down from one less to 0.

    An adaptive solver is one step: those that it takes differ from image to image.
    """
    if sample.is_adaptive:
        return 1
    return num_timesteps if sample.num_steps is None else sample.num_steps


def run_sampler(
    denoiser: Denoiser | BitDenoiser,
    sample: SampleConfig,
    x_T: Tensor,  # noqa: N803 - the paper's name
    noise: Noise,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draw x_0 from x_T by the sampler that `sample` names, in the arithmetic of x_T.

    Args:
        denoiser: on the whole chain; of bits there is one sampler.
        sample: which sampler, how many steps, and its settings.
        x_T: standard normal.
        noise: gives the standard normal of a number that the sampler chooses, shaped like x_T.
        on_step: called after each step.

    Raises:
        ConfigError: if this sampler cannot draw from this denoiser; never for a valid RunConfig.
    """
    if isinstance(denoiser, BitDenoiser):
        return sample_bits(denoiser, x_T, noise=noise, on_step=on_step)
    clip = sample.clip_x_0
    schedule = chain_of(denoiser.path)
    num_timesteps = schedule.num_timesteps
    if sample.is_adaptive:
        low, high = sigma_range(schedule)
        return _in_sigma(denoiser, sample, x_T, [high, low], noise, on_step)
    taken = num_steps_of(sample, num_timesteps)
    if sample.spacing == "karras":
        return _in_sigma(denoiser, sample, x_T, karras_sigmas(schedule, taken), noise, on_step)
    steps = choose_timesteps(sample.spacing, num_timesteps, taken)
    chain = denoiser if taken == num_timesteps else respaced(denoiser, steps)
    match sample.sampler:
        case "ancestral":
            return ddpm_sample(chain, x_T, noise=noise, clip_x_0=clip, on_step=on_step)
        case "langevin":
            return langevin_sample(chain, x_T, noise=noise, on_step=on_step)
        case "predictor_corrector":
            snr = sample.corrector_snr
            return pc_sample(chain, x_T, noise=noise, snr=snr, clip_x_0=clip, on_step=on_step)
        case "ddim":
            return ddim_sample(
                chain, x_T, eta=sample.eta, noise=noise, clip_x_0=clip, on_step=on_step
            )
        case "sde":
            return sde_sample(chain, x_T, noise=noise, clip_x_0=clip, on_step=on_step)
    return _in_sigma(denoiser, sample, x_T, chain_sigmas(schedule, steps), noise, on_step)


def _in_sigma(
    denoiser: Denoiser,
    sample: SampleConfig,
    x_T: Tensor,  # noqa: N803
    sigmas: list[float],
    noise: Noise,
    on_step: OnStep | None,
) -> Tensor:
    """Return x_0 by a solver that goes through these sigmas, which descend; an adaptive one goes
    from the first to the last, by steps of its own.
    """
    clip = sample.clip_x_0
    match sample.sampler:
        case "ode":
            solver: Solver
            if sample.ode_method == "adaptive":
                tolerance = sample.ode_tolerance
                solver = Adaptive(sigmas[-1], sigmas[0], rtol=tolerance, atol=tolerance)
                x_0 = ode_sample(denoiser, x_T, solver=solver, clip_x_0=clip)
                if on_step is not None:
                    on_step(0, x_0, x_0)
                return x_0
            ascending = torch.tensor(sigmas[::-1], dtype=torch.float64)
            solver = FixedStep(ascending, sample.ode_method)
            return ode_sample(denoiser, x_T, solver=solver, clip_x_0=clip, on_step=on_step)
        case "heun":
            return heun_sample(
                denoiser,
                x_T,
                sigmas=sigmas,
                churn=Churn(S_churn=sample.churn),
                noise=noise,
                clip_x_0=clip,
                on_step=on_step,
            )
        case "dpm_solver" | "sde_dpm_solver":
            return dpm_solver_sample(
                denoiser,
                x_T,
                sigmas=sigmas,
                noise=noise if sample.sampler == "sde_dpm_solver" else None,
                clip_x_0=clip,
                on_step=on_step,
            )
        case "unipc":
            return unipc_sample(denoiser, x_T, sigmas=sigmas, clip_x_0=clip, on_step=on_step)
        case _:
            raise ConfigError(f"sampler={sample.sampler} takes steps of the chain, and no sigmas")


def describe(
    sample: SampleConfig,
    num_timesteps: int,
    *,
    num_classes: int | None = None,
    takes_text: bool = False,
    enlarges: bool = False,
) -> dict[str, object]:
    """Return what a number measured on such samples must say of them, as JSON values.

    Args:
        sample: how they were drawn.
        num_timesteps: steps of the whole chain.
        num_classes: whose labels the network takes; None: it takes none.
        takes_text: whether it takes texts.
        enlarges: whether it takes low resolutions.
    """
    about: dict[str, object] = {
        "sampler": sample.sampler,
        "num_steps": None if sample.is_adaptive else num_steps_of(sample, num_timesteps),
        "clip_x_0": sample.clip_x_0,
        "state": sample.state,
        "seed": sample.seed,
    }
    if sample.num_steps is not None or sample.spacing == "karras":
        about["spacing"] = sample.spacing
    about |= describe_guidance(sample, num_classes=num_classes, takes_text=takes_text)
    if enlarges:  # which say of what they are
        about |= dict.fromkeys(about.keys() & {"labels", "prompts"}, "of what is enlarged")
        about |= {"low_from": sample.low_from, "low_level": sample.low_level}
    match sample.sampler:
        case "ddim":
            about["eta"] = sample.eta
        case "ode":
            about["ode_method"] = sample.ode_method
            if sample.is_adaptive:
                about["ode_tolerance"] = sample.ode_tolerance
        case "heun":
            about["churn"] = sample.churn
        case "predictor_corrector":
            about["corrector_snr"] = sample.corrector_snr
        case _:
            pass
    return about
