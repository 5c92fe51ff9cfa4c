"""What diffusers calls a network of each kind, and how its weights are moved.

A U-Net is a part of a `DDPMPipeline`, unless it takes labels or a scaled image, which that cannot
give. Of a transformer on pixels diffusers has no pipeline (its `DiTPipeline` needs latents and
labels). The folder of either has the network and the chain, and no index.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddpm_core.config import (
    AdmConfig,
    ClassifierConfig,
    ClipConfig,
    DiTConfig,
    MLPConfig,
    MultiScaleConfig,
    RunConfig,
    TextConfig,
    UNetConfig,
)
from ddpm_core.errors import ConfigError
from ddpm_core.exchange import adm_config, dit_config, unet_config
from ddpm_core.models import adm_interop, dit_interop, interop, text_interop
from ddpm_core.models.adm_interop import TEXT_ENCODER
from ddpm_core.models.fit import SILENT_LAYERS


@dataclass(frozen=True)
class Written:
    """A network as a part of a folder of diffusers."""

    part: str
    """the folder's name"""
    config: dict[str, Any]
    """its config.json"""
    pipeline: str | None
    """the class of which it is a part, with its scheduler; None: of none"""
    encoder: dict[str, Any] | None = None
    """the config.json of the encoder of texts beside it; None: it reads none"""


def write_network(config: RunConfig) -> Written:
    """Return the network of `config` in diffusers' terms.

    Raises:
        ConfigError: diffusers has no such network.
    """
    if config.model.known:
        raise ConfigError(
            "model.known=true: no pipeline of diffusers gives a network on pixels the known part "
            "of an image and its mask; such a network cannot be written for diffusers"
        )
    if config.model.low_size is not None:
        raise ConfigError(
            f"model.low_size={list(config.model.low_size)}: no UNet2DModel is given a low "
            "resolution and its noise level; such a network cannot be written for diffusers"
        )
    match config.model:
        case UNetConfig() as model:
            values = unet_config.write_unet_config(config, model)
            # It gives no labels, and hands the image on without the scale of EDM's schedulers.
            is_whole = config.num_classes is None and config.diffusion.kind != "edm"
            pipeline = "DDPMPipeline" if is_whole else None
            return Written("unet", values, pipeline)
        case AdmConfig() as model:
            values = adm_config.write_adm_config(config, model)
            is_whole = model.conditioning == "none" and config.diffusion.kind != "edm"
            encoder = adm_config.write_encoder_config(model) if model.uses_text else None
            return Written("unet", values, "DDPMPipeline" if is_whole else None, encoder)
        case DiTConfig() as model:
            return Written("transformer", dit_config.write_dit_config(config, model), None)
        case (
            MLPConfig()
            | MultiScaleConfig()
            | ClassifierConfig()
            | ClipConfig()
            | TextConfig() as model
        ):
            raise _no_such_network(model.kind)


def to_diffusers(config: RunConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights by diffusers' names, without layers that add nothing to what is drawn."""
    weights = {k: value for k, value in weights.items() if not k.startswith(SILENT_LAYERS)}
    match config.model:
        case UNetConfig():
            return interop.to_diffusers(weights)
        case AdmConfig() as model:
            return adm_interop.to_diffusers(
                weights, pools_by_attention=model.text_pool == "attention"
            )
        case DiTConfig() as model:
            return dit_interop.to_diffusers(weights, patch_size=model.patch_size)
        case (
            MLPConfig()
            | MultiScaleConfig()
            | ClassifierConfig()
            | ClipConfig()
            | TextConfig() as model
        ):
            raise _no_such_network(model.kind)


def encoder_to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the weights of our encoder of texts by transformers' names; None: there is none."""
    inner = {
        name.removeprefix(TEXT_ENCODER): one
        for name, one in weights.items()
        if name.startswith(TEXT_ENCODER)
    }
    return text_interop.to_transformers(inner) if inner else None


def encoder_from_transformers(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of the encoder of texts by our names; {}: our network has none.

    Raises:
        CheckpointError: they are not those of this encoder.
    """
    inner = {
        name.removeprefix(TEXT_ENCODER): one
        for name, one in like.items()
        if name.startswith(TEXT_ENCODER)
    }
    if not inner:
        return {}
    found = text_interop.from_transformers(tensors, inner)
    return {f"{TEXT_ENCODER}{name}": one for name, one in found.items()}


def from_diffusers(
    config: RunConfig, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return diffusers' weights by our names, in the order of `like`, of which shapes count.

    Raises:
        CheckpointError: they are not those of this network.
    """
    match config.model:
        case UNetConfig():
            return interop.from_diffusers(tensors, like)
        case AdmConfig() as model:
            return adm_interop.from_diffusers(
                tensors, like, pools_by_attention=model.text_pool == "attention"
            )
        case DiTConfig() as model:
            return dit_interop.from_diffusers(tensors, like, patch_size=model.patch_size)
        case (
            MLPConfig()
            | MultiScaleConfig()
            | ClassifierConfig()
            | ClipConfig()
            | TextConfig() as model
        ):
            raise _no_such_network(model.kind)


def _no_such_network(kind: str) -> ConfigError:
    names = {"classifier": "classifier", "clip": "pair of towers", "text": "language model"}
    what = names.get(kind, "network that is read out by bumps")
    return ConfigError(
        f"diffusers has no {what} (model.kind={kind}); weights of a U-Net or a transformer can be "
        "moved"
    )
