"""The network that a folder of diffusers describes, and what it predicts. Knows no torch."""

from collections.abc import Mapping
from typing import Any

from ddpm_core.exchange import adm_config, dit_config, unet_config
from ddpm_core.exchange.continuous_scheduler import CLASS_NAMES, read_continuous
from ddpm_core.exchange.files import Files
from ddpm_core.exchange.keys import Described, Keys

_OF_OUTPUTS = ("prediction_type", "predict_epsilon", "variance_type")
PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
# `learned` is not among them: there the second half of the output is the variance itself, with us
# and in the original its logarithm. `fixed_large_log` draws NaN there.
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",  # another way to compute the same
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}


def read_network(
    values: Mapping[str, Any], encoder: Mapping[str, Any] | None = None, *, origin: str
) -> Described:
    """Return the network that a config.json describes; what names no class is a U-Net.

    Args:
        values: of the network.
        encoder: of the encoder of texts beside it; None: there is none.
        origin: for people.

    Raises:
        ConfigError: naming each key with which it would be another function than ours.
    """
    if values.get("_class_name") == dit_config.CLASS_NAME:
        return dit_config.read_dit_config(values, origin=origin)
    if adm_config.is_adm(values):
        return adm_config.read_adm_config(values, encoder, origin=origin)
    return unet_config.read_unet_config(values, origin=origin)


def read_described(files: Files, *, origin: str) -> tuple[Described, dict[str, Any]]:
    """Return the network of a folder, and the keys of `diffusion` that say what its output is:
    `prediction` and `variance` of a chain, all of a process in continuous time.

    Raises:
        ConfigError: naming each key with which it would be another function than ours.
    """
    network = read_network(files.network, files.encoder, origin=f"the network of {origin}")
    if files.scheduler.get("_class_name") in CLASS_NAMES:
        return network, read_continuous(files.scheduler, origin=f"the scheduler of {origin}")
    said = {key: files.scheduler[key] for key in _OF_OUTPUTS if key in files.scheduler}
    keys = Keys(said, origin=f"the scheduler of {origin}")
    outputs = read_outputs(keys)
    keys.finish()
    return network, outputs


def read_outputs(keys: Keys) -> dict[str, str]:
    """Return the keys of our diffusion section that say what a network's output is.

    What is wrong is noted, for `keys.finish`.
    """
    # What diffusers before 0.7 said instead.
    older = "sample" if keys.value("predict_epsilon") is False else "epsilon"
    return {
        "prediction": keys.choice("prediction_type", older, PREDICTIONS),
        "variance": keys.choice("variance_type", "fixed_small", VARIANCES),
    }
