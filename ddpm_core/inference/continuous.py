"""From the section `diffusion` of a process in continuous time to its path and network."""

import math
from dataclasses import replace

from ddpm_core.config import ContinuousConfig
from ddpm_core.config.diffusion import EdmConfig, FlowConfig, SubVpConfig, VeConfig, VpConfig
from ddpm_core.diffusion.denoiser import Network, NetworkDenoiser
from ddpm_core.diffusion.path_network import ChainNetwork, Form, PathNetwork, chain_of_path
from ddpm_core.diffusion.paths.flow import Straight
from ddpm_core.diffusion.paths.path import ContinuousPath
from ddpm_core.diffusion.paths.schedule import NoiseSchedule
from ddpm_core.diffusion.paths.sde import (
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from ddpm_core.diffusion.paths.sigma import sigma_range
from ddpm_core.diffusion.times import Times
from ddpm_core.errors import ConfigError

# So near to pure noise that x_T shows nothing, and sigma is not infinite for the solvers.
_FLOW_END = 0.999


def path_of(diffusion: ContinuousConfig) -> ContinuousPath:
    """Return the path from image to noise."""
    match diffusion:
        case VpConfig():
            return VariancePreserving(beta_min=diffusion.beta_min, beta_max=diffusion.beta_max)
        case SubVpConfig():
            return SubVariancePreserving(beta_min=diffusion.beta_min, beta_max=diffusion.beta_max)
        case VeConfig() | EdmConfig():
            return VarianceExploding(sigma_min=diffusion.sigma_min, sigma_max=diffusion.sigma_max)
        case FlowConfig():
            return Straight(end=_FLOW_END)
        case _:
            raise ConfigError(f"diffusion.kind={diffusion.kind} has no path in continuous time")


def form_of(diffusion: ContinuousConfig) -> Form:
    """Return how the network is called, as each paper has it; see `path_network`."""
    match diffusion:
        case VpConfig() | SubVpConfig():
            return Form(time_scale=999.0)
        case VeConfig():
            return Form()
        case EdmConfig():
            return Form(log_sigma_scale=0.25, sigma_data=diffusion.sigma_data)
        case FlowConfig():
            return Form(time_scale=1000.0)
        case _:
            raise ConfigError(f"diffusion.kind={diffusion.kind} has no path in continuous time")


def times_of(diffusion: ContinuousConfig) -> Times:
    """Return at which times the network is trained."""
    return Times(
        path_of(diffusion),
        diffusion.times,
        log_sigma_mean=diffusion.log_sigma_mean,
        log_sigma_std=diffusion.log_sigma_std,
    )


def chain_made_of(diffusion: ContinuousConfig) -> NoiseSchedule:
    """Return the chain of `num_timesteps` steps that is made of the path.

    Raises:
        ConfigError: its steps are so short that nothing happens in some of them.
    """
    try:
        times = times_of(diffusion) if diffusion.chain_times == "training" else None
        return chain_of_path(path_of(diffusion), diffusion.num_timesteps, times)
    except ConfigError:
        remedy = ", or raise diffusion.sigma_min" if hasattr(diffusion, "sigma_min") else ""
        raise ConfigError(
            f"the chain of diffusion.num_timesteps={diffusion.num_timesteps} steps of diffusion."
            f"kind={diffusion.kind} has steps without noise, shorter than float64 can tell; lower "
            f"diffusion.num_timesteps{remedy}"
        ) from None


def require_trainable(diffusion: ContinuousConfig) -> None:
    """Refuse a path that cannot be measured and drawn from, or is trained at its ends.

    Raises:
        ConfigError: as `chain_made_of`; or most of its normal times lie beyond an end of the path.
    """
    chain_made_of(diffusion)
    low, high = map(math.log, sigma_range(path_of(diffusion)))
    if diffusion.times == "log_normal" and not low < diffusion.log_sigma_mean < high:
        raise ConfigError(
            f"diffusion.log_sigma_mean={diffusion.log_sigma_mean:g} lies beyond the path of "
            f"diffusion.kind={diffusion.kind}, whose log sigma go from {low:.3g} to "
            f"{high:.3g}: most of its times would be past an end; give a mean between them"
        )


def on_path(network: Network, diffusion: ContinuousConfig) -> PathNetwork:
    """Return the network of x_t and times of the path."""
    return PathNetwork(network, path_of(diffusion), form_of(diffusion))


def on_chain(network: Network, diffusion: ContinuousConfig) -> ChainNetwork:
    """Return the network of x_t and code indices of the chain that is made of the path."""
    inside = on_path(network, diffusion)
    return ChainNetwork(inside, inside.path, chain_made_of(diffusion))


def without_steps(denoiser: NetworkDenoiser) -> NetworkDenoiser:
    """Return the denoiser of `on_chain` on its path instead, from the path's very beginning."""
    network = denoiser.network
    if not isinstance(network, ChainNetwork):
        raise ConfigError("this denoiser is of a chain that was made of no path")
    return replace(denoiser, network=network.network, path=network.path)
