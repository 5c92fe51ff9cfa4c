"""Processes in continuous time in two spellings: our diffusion section, and a scheduler's config.

A scheduler of diffusers is ours where it gives a network the image and the time that we give it,
and takes its output for what we take it for. Knows no torch.

    ours   diffusers                          the network is given    and says
    flow   FlowMatchEulerDiscreteScheduler    x_t, 1000 t             eps - x_0
    edm    EDMEulerScheduler,                 c_in x, log(sigma)/4    F of c_skip x + c_out F
           EDMDPMSolverMultistepScheduler

How many steps are taken, where, and by what solver, is no matter of the weights.

Source: diffusers; Esser et al. 2024, arXiv:2403.03206; Karras et al. 2022, arXiv:2206.00364,
table 1.
"""

from collections.abc import Mapping
from typing import Any

from ddpm_core.config import DiffusionConfig
from ddpm_core.config.diffusion import EdmConfig, FlowConfig
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.keys import Keys

_FLOW = "FlowMatchEulerDiscreteScheduler"
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
CLASS_NAMES = (_FLOW, *_EDM)
"""of the schedulers that are read"""

# Key: diffusers' default, and the values with which a network is called as ours.
_FLOW_FIXED: dict[str, tuple[object, tuple[object, ...]]] = {
    "num_train_timesteps": (1000, (1000,)),
    "invert_sigmas": (False, (False,)),
}
_FLOW_STEPS = (
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "time_shift_type",
    "stochastic_sampling",
)
_EDM_FIXED: dict[str, tuple[object, tuple[object, ...]]] = {
    "prediction_type": ("epsilon", ("epsilon",)),
    "thresholding": (False, (False,)),
}
_EDM_STEPS = (
    "sigma_schedule",
    "rho",
    "final_sigmas_type",
    "solver_order",
    "algorithm_type",
    "solver_type",
    "lower_order_final",
    "euler_at_final",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)

_REFUSED = {
    "vp": "ScoreSdeVpScheduler gives a network times of 0 to 1, and ours takes 999 times that",
    "subvp": "there is no scheduler of the sub-variance preserving equation",
    "ve": "the networks of ScoreSdeVeScheduler say the score of images in [0, 1] and are given "
    "sigma, and ours says the noise or the image, of images in [-1, 1], and is given log sigma",
    "binomial": "it is a chain of bits, and schedulers are of images with Gaussian noise",
}


def read_continuous(values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Return the diffusion section that the configuration of one of `CLASS_NAMES` describes.

    At which times the network was trained no scheduler says: they are the kind's defaults.

    Raises:
        ConfigError: naming each key with which a network would be called otherwise.
    """
    keys = Keys(values, origin=origin)
    is_flow = keys.value("_class_name") == _FLOW
    for key, (default, allowed) in (_FLOW_FIXED if is_flow else _EDM_FIXED).items():
        keys.fixed(key, default, allowed)
    for key in _FLOW_STEPS if is_flow else _EDM_STEPS:
        keys.value(key)
    section: dict[str, Any] = {"kind": "flow"}
    if not is_flow:
        section = {
            "kind": "edm",
            "num_timesteps": keys.whole("num_train_timesteps", 1000),
            "sigma_min": keys.number("sigma_min", 0.002),
            "sigma_max": keys.number("sigma_max", 80.0),
            "sigma_data": keys.number("sigma_data", 0.5),
        }
    keys.finish()
    return section


def write_continuous(diffusion: DiffusionConfig) -> dict[str, Any]:
    """Return the scheduler_config.json of the scheduler that calls a network as `diffusion` does.

    Raises:
        ConfigError: there is none.
    """
    match diffusion:
        case FlowConfig():
            fixed = {key: allowed[0] for key, (_, allowed) in _FLOW_FIXED.items()}
            return {"_class_name": _FLOW, **fixed, "shift": 1.0}
        case EdmConfig():
            return {
                "_class_name": _EDM[0],
                "prediction_type": "epsilon",
                "num_train_timesteps": diffusion.num_timesteps,
                "sigma_min": diffusion.sigma_min,
                "sigma_max": diffusion.sigma_max,
                "sigma_data": diffusion.sigma_data,
                "sigma_schedule": "karras",
                "rho": 7.0,
            }
        case _:
            raise ConfigError(
                f"diffusion.kind={diffusion.kind} cannot be written for diffusers: "
                f"{_REFUSED[diffusion.kind]}; weights of diffusion.kind=chain, flow and edm can be"
            )
