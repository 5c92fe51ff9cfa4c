"""The section `model`: the network, a file for each kind; `kind` says which.

A new kind is a file here, an entry of `ModelConfig`, and its first keys in `identity.OF_KIND`.
"""

from typing import Annotated

from pydantic import Field

from ddpm_core.config.model.adm import AdmConfig
from ddpm_core.config.model.classifier import ClassifierConfig
from ddpm_core.config.model.clip import ClipConfig
from ddpm_core.config.model.dit import DiTConfig
from ddpm_core.config.model.mlp import MLPConfig
from ddpm_core.config.model.multiscale import MultiScaleConfig
from ddpm_core.config.model.text import TextConfig
from ddpm_core.config.model.unet import UNetConfig

ModelConfig = Annotated[
    UNetConfig
    | DiTConfig
    | MLPConfig
    | MultiScaleConfig
    | AdmConfig
    | ClassifierConfig
    | ClipConfig
    | TextConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "AdmConfig",
    "ClassifierConfig",
    "ClipConfig",
    "DiTConfig",
    "MLPConfig",
    "ModelConfig",
    "MultiScaleConfig",
    "TextConfig",
    "UNetConfig",
]
