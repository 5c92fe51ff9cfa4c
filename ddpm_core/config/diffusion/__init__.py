"""The section `diffusion`: the forward process; `kind` says which.

A new kind is a class here, a member of `DiffusionConfig`, and its first keys in `identity.OF_KIND`.
"""

from typing import Annotated

from pydantic import Field

from ddpm_core.config.diffusion.binomial import BinomialConfig
from ddpm_core.config.diffusion.chain import ChainConfig
from ddpm_core.config.diffusion.continuous import (
    ContinuousConfig,
    EdmConfig,
    FlowConfig,
    SubVpConfig,
    VeConfig,
    VpConfig,
)

DiffusionConfig = Annotated[
    ChainConfig | BinomialConfig | VpConfig | SubVpConfig | VeConfig | FlowConfig | EdmConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "BinomialConfig",
    "ChainConfig",
    "ContinuousConfig",
    "DiffusionConfig",
    "EdmConfig",
    "FlowConfig",
    "SubVpConfig",
    "VeConfig",
    "VpConfig",
]
