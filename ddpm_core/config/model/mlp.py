"""The section `model` of the network of dense layers, and what follows from it."""

from typing import ClassVar, Literal

from pydantic import Field

from ddpm_core.config.model.bumps import BumpsConfig
from ddpm_core.config.model.count import linear
from ddpm_core.config.section import Few


class MLPConfig(BumpsConfig):
    """Dense layers on all pixels at once (Sohl-Dickstein et al. 2015), for vectors."""

    size_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "num_layers", "num_bumps")
    """the keys that make it large or small"""

    kind: Literal["mlp"] = "mlp"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    hidden_size: Few = 128
    """features of a layer"""
    num_layers: int = Field(2, ge=1, le=1000)
    """layers before the last"""
    first_gain: float = Field(1.0, gt=0, le=100)
    """how much larger the weights of the first layer begin: above 1 for few values, of which sharp
    functions are wanted"""

    @property
    def row_size(self) -> int:
        """Features of the row that is learned for each class, and of that for none."""
        return self.hidden_size

    def require_images(self, *, height: int, width: int) -> None:
        """Take images of any size: how many parameters that makes is counted."""

    def num_parameters(
        self, *, in_channels: int, out_channels: int, height: int, width: int
    ) -> int:
        """Return the parameters of `models.mlp.MLP`, those of its classes left out."""
        hidden, pixels = self.hidden_size, height * width
        layers = linear(in_channels * pixels, hidden)
        layers += (self.num_layers - 1) * linear(hidden, hidden)
        return layers + linear(hidden, out_channels * pixels * self.num_bumps)
