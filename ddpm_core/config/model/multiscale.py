"""The section `model` of the convolutional network of 2015, and what follows from it."""

from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from ddpm_core.config.model.bumps import BumpsConfig
from ddpm_core.config.model.count import linear
from ddpm_core.config.section import Few

_KERNEL = 9


class MultiScaleConfig(BumpsConfig):
    """Convolutions at several scales beside dense layers (Sohl-Dickstein et al. 2015).

    The defaults are those of the code of the paper, which are its network of MNIST.
    """

    size_keys: ClassVar[tuple[str, ...]] = (
        "conv_channels",
        "num_conv_layers",
        "dense_size",
        "upper_channels",
    )
    """the keys that make it large or small"""

    kind: Literal["multiscale"] = "multiscale"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    conv_channels: Few = 20
    """channels of a convolution"""
    num_conv_layers: int = Field(4, ge=1, le=1000)
    """layers of convolutions, each at all scales"""
    num_scales: int = Field(1, ge=1, le=16)
    """scales of a layer of convolutions: each has half the height and width of the one before"""
    dense_size: Few = 500
    """features of a dense layer beside the convolutions"""
    num_dense_layers: int = Field(4, ge=0, le=1000)
    """dense layers, the one that returns to the pixels included; 0: convolutions alone"""
    dense_channels: Few = 2
    """channels that the last dense layer has for each pixel"""
    upper_channels: Few = 20
    """channels of a layer that acts on each pixel alone, above convolutions and dense layers"""
    num_upper_layers: int = Field(1, ge=1, le=1000)
    """such layers before the last, which is read out"""

    @property
    def row_size(self) -> int:
        """Features of the row that is learned for each class, and of that for none."""
        return self.upper_channels

    def require_images(self, *, height: int, width: int) -> None:
        """Refuse images that it does not take, with their keys in the section `data`.

        Raises:
            ValueError: some scale has no whole number of pixels.
        """
        factor = 2 ** (self.num_scales - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"data.height={height} and data.width={width} are not both multiples of {factor}, "
                f"by which model.num_scales={self.num_scales} divides them; change one of these"
            )

    def num_parameters(
        self, *, in_channels: int, out_channels: int, height: int, width: int
    ) -> int:
        """Return the parameters of `models.multiscale.MultiScale`, those of its classes left out.

        Each layer's are those of a linear one; a convolution's has the pixels of its kernel.
        """
        pixels, conv = height * width, self.conv_channels
        convs = [_KERNEL * in_channels, *[_KERNEL * conv] * (self.num_conv_layers - 1)]
        count = self.num_scales * sum(linear(size, conv) for size in convs)
        below = conv
        if self.num_dense_layers:
            dense = [self.dense_size] * (self.num_dense_layers - 1)
            count += _count([in_channels * pixels, *dense, self.dense_channels * pixels])
            below += self.dense_channels
        upper = [self.upper_channels] * self.num_upper_layers
        return count + _count([below, *upper, out_channels * self.num_bumps])


def _count(sizes: list[int]) -> int:
    return sum(linear(*pair) for pair in pairwise(sizes))
