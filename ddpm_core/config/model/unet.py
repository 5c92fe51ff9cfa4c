"""The section `model` of the U-Net, and what follows from it: sizes of images, parameters."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.model.count import linear
from ddpm_core.config.model.network import NetworkConfig
from ddpm_core.config.section import Few

_MAX_LEVELS = 16
"""An image would have 2**15 pixels on a side."""


class LevelsConfig(NetworkConfig):
    """What the U-Net and the classifier that is its first half have in common. Abstract."""

    size_keys: ClassVar[tuple[str, ...]] = ("base_channels", "channel_mults", "num_res_blocks")
    """the keys that make it large or small"""

    base_channels: Few = 128
    """channels at full resolution"""
    channel_mults: Annotated[tuple[Few, ...], Field(min_length=1, max_length=_MAX_LEVELS)] = (
        1,
        2,
        2,
        2,
    )
    """channels at each resolution, in multiples of base_channels; each halves height and width"""
    num_res_blocks: int = Field(2, ge=1, le=1000)
    """residual blocks at each resolution on the way down; one more on the way up"""
    attention_resolutions: Annotated[tuple[Few, ...], Field(max_length=_MAX_LEVELS)] = (16,)
    """heights, in pixels, of the feature maps that get self-attention after each block"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """probability of dropping a feature inside a residual block"""
    num_groups: Few = 32
    """groups of every group normalisation"""

    @model_validator(mode="after")
    def _timestep_has_sines_and_cosines(self) -> Self:
        if self.base_channels < 4 or self.base_channels % 2:
            raise ValueError(
                f"base_channels={self.base_channels} must be even and at least 4: half are for the "
                "sines and half for the cosines of the timestep"
            )
        return self

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        for mult in self.channel_mults:
            if (self.base_channels * mult) % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide base_channels*{mult}="
                    f"{self.base_channels * mult}; change base_channels or num_groups"
                )
        return self

    def require_images(self, *, height: int, width: int) -> None:
        """Refuse images that it does not take, with their keys in the section `data`.

        Raises:
            ValueError: a size cannot be halved as often as there are levels, or no feature map has
                a height of `attention_resolutions`.
        """
        halvings = len(self.channel_mults) - 1
        for key, pixels in (("height", height), ("width", width)):
            if pixels % 2**halvings:
                raise ValueError(
                    f"data.{key}={pixels} cannot be halved {halvings} times, as "
                    f"model.channel_mults={list(self.channel_mults)} asks; "
                    f"give a multiple of {2**halvings} or fewer channel_mults"
                )
        heights = [height // 2**level for level in range(halvings + 1)]
        for resolution in self.attention_resolutions:
            if resolution not in heights:
                raise ValueError(
                    f"model.attention_resolutions has {resolution}, which never occurs: feature "
                    f"maps are {heights} pixels high; choose among these"
                )


class UNetConfig(LevelsConfig):
    """The U-Net of the paper (appendix B)."""

    kind: Literal["unet"] = "unet"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    time_embedding: Literal["sinusoidal", "fourier"] = "sinusoidal"
    """sines and cosines of the timestep (sinusoidal); or, of diffusion.kind=ve and edm, Fourier
    features of log sigma (fourier)"""

    @property
    def row_size(self) -> int:
        """Parameters of the row that each class has, and that of no class."""
        return 4 * self.base_channels

    @property
    def time_features(self) -> int:
        """Sines and cosines of the time."""
        return 2 * self.base_channels if self.time_embedding == "fourier" else self.base_channels

    def num_parameters(
        self,
        *,
        in_channels: int,
        out_channels: int,
        height: int,
        width: int,
    ) -> int:
        """Return the parameters of `models.unet.UNet` without classes, for images of this height,
        in pixels.
        """
        base, embedding = self.base_channels, 4 * self.base_channels
        widths = [base * mult for mult in self.channel_mults]
        attends = [height // 2**level in self.attention_resolutions for level in range(len(widths))]
        total = linear(self.time_features, embedding) + linear(embedding, embedding)
        total += conv(in_channels, base) + 2 * widths[0] + conv(widths[0], out_channels)
        total += 9 * (in_channels + 1) * base if self.known else 0
        if self.low_size is not None:
            total += 9 * in_channels * base + linear(self.time_features, embedding) + embedding**2
        total += 2 * block(widths[-1], widths[-1], embedding) + attention(widths[-1])
        for level, num_in, width in _blocks(base, widths, self.num_res_blocks):
            total += block(num_in, width, embedding)
            total += attention(width) if attends[level] else 0
        # Each level but the lowest is halved at its end, and each but the highest doubled.
        return total + sum(conv(w, w) for w in widths[:-1]) + sum(conv(w, w) for w in widths[1:])


def halved_blocks(
    base: int, widths: list[int], num_res_blocks: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (level, input channels, output channels) of each block on the way down."""
    for level, width in enumerate(widths):
        for num_in in (widths[level - 1] if level else base, *[width] * (num_res_blocks - 1)):
            yield level, num_in, width


def _blocks(base: int, widths: list[int], num_res_blocks: int) -> Iterator[tuple[int, int, int]]:
    """Yield (level, input channels, output channels) of each block, down and up."""
    yield from halved_blocks(base, widths, num_res_blocks)
    kept = [base]
    for width in widths:
        kept += [width] * (num_res_blocks + 1)
    kept.pop()  # the lowest level is not halved
    below = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        for num_in in (below, *[width] * num_res_blocks):
            yield level, num_in + kept.pop(), width
        below = width


def block(num_in: int, num_out: int, embedding: int) -> int:
    """Return the parameters of a residual block."""
    shortcut = 0 if num_in == num_out else num_in * num_out + num_out
    norms = 2 * num_in + 2 * num_out
    return (
        norms
        + conv(num_in, num_out)
        + linear(embedding, num_out)
        + conv(num_out, num_out)
        + shortcut
    )


def attention(channels: int) -> int:
    """Return the parameters of the attention after a block."""
    return 2 * channels + 4 * linear(channels, channels)


def conv(num_in: int, num_out: int) -> int:
    """Return the parameters of a convolution of 3x3 pixels."""
    return 9 * num_in * num_out + num_out
