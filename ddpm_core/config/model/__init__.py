"""The section `model`: the network, a file for each kind."""

from ddpm_core.config.model.unet import UNetConfig

ModelConfig = UNetConfig

__all__ = ["ModelConfig", "UNetConfig"]
