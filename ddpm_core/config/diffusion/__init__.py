"""The section `diffusion`: the forward process, a file for each kind; `kind` says which.

A new kind is a file here, a member of `DiffusionConfig`, and its first keys in `identity.OF_KIND`.
"""

from typing import Annotated

from pydantic import Field

from ddpm_core.config.diffusion.binomial import BinomialConfig
from ddpm_core.config.diffusion.chain import ChainConfig

DiffusionConfig = Annotated[ChainConfig | BinomialConfig, Field(discriminator="kind")]

__all__ = ["BinomialConfig", "ChainConfig", "DiffusionConfig"]
