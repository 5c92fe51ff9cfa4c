"""The section `diffusion`: the forward process, a file for each kind; `kind` says which.

A new kind is a file here, a member of `DiffusionConfig`, and its first keys in `identity.OF_KIND`.
With the second it becomes a union that `kind` tells apart, as `ModelConfig` is.
"""

from ddpm_core.config.diffusion.chain import ChainConfig

DiffusionConfig = ChainConfig

__all__ = ["ChainConfig", "DiffusionConfig"]
