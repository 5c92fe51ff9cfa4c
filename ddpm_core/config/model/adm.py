"""The section `model` of the U-Net of guided diffusion, and of GLIDE's and Imagen's."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.model.count import linear
from ddpm_core.config.model.network import NetworkConfig
from ddpm_core.config.model.unet import conv
from ddpm_core.config.section import Few
from ddpm_core.models.adm_layout import Level, levels_of

_MAX_LEVELS = 16
_Blocks = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1000)], ...],
    Field(min_length=1, max_length=_MAX_LEVELS),
]
_NUM_TOKENS = 259
"""as in `text.tokens`"""


class AdmConfig(NetworkConfig):
    """The U-Net of guided diffusion (Dhariwal and Nichol 2021, arXiv:2105.05233, table 4, ImageNet
    64), which reads captions as GLIDE's and Imagen's do; its text keys are those of GLIDE's code.
    """

    size_keys: ClassVar[tuple[str, ...]] = ("base_channels", "channel_mults", "num_res_blocks")
    """the keys that make it large or small"""
    reads_text: ClassVar[bool] = True

    kind: Literal["adm"] = "adm"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    base_channels: Few = 192
    """channels at full resolution"""
    channel_mults: Annotated[tuple[Few, ...], Field(min_length=1, max_length=_MAX_LEVELS)] = (
        1,
        2,
        3,
        4,
    )
    """channels at each resolution, in multiples of base_channels; each halves height and width"""
    num_res_blocks: _Blocks = (3,)
    """residual blocks at each resolution on the way down, or one number for all; one more on the
    way up"""
    attention_resolutions: Annotated[tuple[Few, ...], Field(max_length=_MAX_LEVELS)] = (32, 16, 8)
    """heights, in pixels, of the feature maps that get attention after each block"""
    head_channels: Few = 64
    """channels of every head of attention to pixels"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """probability of dropping a feature inside a residual block"""
    num_groups: Few = 32
    """groups of every group normalisation"""
    resample_first: bool = False
    """whether images are halved before the first block and not behind it, and doubled at the end:
    the order of the Efficient U-Net"""
    scale_skips: bool = False
    """whether what is kept on the way down is multiplied by 1/sqrt(2), as in the Efficient U-Net"""
    text_hidden_size: Few = 512
    """of conditioning=text: features of each position of a caption"""
    text_num_layers: int = Field(16, ge=1, le=1000)
    """of conditioning=text: blocks of the encoder of captions, which is trained with the rest"""
    text_num_heads: Few = 8
    """of conditioning=text: heads of its attention"""
    text_pool: Literal["last", "attention"] = "last"
    """of conditioning=text: what of a caption is added to the embedding of the time: its last
    position, as in GLIDE (last), or what all positions are pooled to, as in Imagen (attention)"""

    text_frozen: bool = False
    """of conditioning=text, and train.start_from a language model of captions (a run of
    model.kind=text): whether its encoder stays as it is, as in Imagen, and is not trained on"""

    @property
    def row_size(self) -> int:
        """Parameters of the row that each class has, and that of no class."""
        return 4 * self.base_channels

    @property
    def time_features(self) -> int:
        """Sines and cosines of the time."""
        return self.base_channels

    @property
    def blocks_of_levels(self) -> tuple[int, ...]:
        """Residual blocks of each resolution on the way down."""
        given = self.num_res_blocks
        return given * len(self.channel_mults) if len(given) == 1 else given

    @property
    def num_halvings(self) -> int:
        """How often images are halved."""
        return len(self.channel_mults) - 1 + self.resample_first

    def heights(self, height: int) -> list[int]:
        """Return the heights of the feature maps of images of this height, in pixels."""
        return [height // 2**times for times in range(self.resample_first, self.num_halvings + 1)]

    def levels(self, height: int) -> tuple[Level, ...]:
        """Return the resolutions of the network for images of this height, in pixels."""
        return levels_of(
            [self.base_channels * mult for mult in self.channel_mults],
            self.blocks_of_levels,
            [one in self.attention_resolutions for one in self.heights(height)],
            resample_first=self.resample_first,
        )

    @model_validator(mode="after")
    def _text_keys_belong_to_text(self) -> Self:
        sizes = ("text_hidden_size", "text_num_layers", "text_num_heads")
        owned = (*sizes, "text_pool", "text_frozen")
        self.refuse_unused("conditioning", dict.fromkeys(owned, "text"))
        if self.text_hidden_size % self.text_num_heads:
            raise ValueError(
                f"text_num_heads={self.text_num_heads} does not divide "
                f"text_hidden_size={self.text_hidden_size}; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _channels_divide(self) -> Self:
        if self.base_channels < 4 or self.base_channels % 2:
            raise ValueError(
                f"base_channels={self.base_channels} must be even and at least 4: half are for the "
                "sines and half for the cosines of the timestep"
            )
        if len(self.blocks_of_levels) != len(self.channel_mults):
            raise ValueError(
                f"num_res_blocks={list(self.num_res_blocks)} are {len(self.num_res_blocks)} "
                f"numbers, and channel_mults={list(self.channel_mults)} are "
                f"{len(self.channel_mults)} resolutions; give a number for each, or one for all"
            )
        for mult in self.channel_mults:
            for key, divisor in (("num_groups", self.num_groups), *self._heads(mult)):
                if self.base_channels * mult % divisor:
                    raise ValueError(
                        f"{key}={divisor} does not divide base_channels*{mult}="
                        f"{self.base_channels * mult}; change base_channels or {key}"
                    )
        return self

    def _heads(self, mult: int) -> tuple[tuple[str, int], ...]:
        """Return what else divides the channels of a resolution: those in the middle always attend,
        of the others it depends on the size of the images, see `require_images`.
        """
        return (("head_channels", self.head_channels),) if mult == self.channel_mults[-1] else ()

    def require_images(self, *, height: int, width: int) -> None:
        """Refuse images that it does not take, with their keys in the section `data`.

        Raises:
            ValueError: a size cannot be halved as often as it is to be, no feature map has a height
                of `attention_resolutions`, or one that has is of channels that heads do not divide.
        """
        for key, pixels in (("height", height), ("width", width)):
            if pixels % 2**self.num_halvings:
                raise ValueError(
                    f"data.{key}={pixels} cannot be halved {self.num_halvings} times, as "
                    f"model.channel_mults={list(self.channel_mults)} asks; "
                    f"give a multiple of {2**self.num_halvings} or fewer channel_mults"
                )
        heights = self.heights(height)
        for resolution in self.attention_resolutions:
            if resolution not in heights:
                raise ValueError(
                    f"model.attention_resolutions has {resolution}, which never occurs: feature "
                    f"maps are {heights} pixels high; choose among these"
                )
        for one in self.levels(height):
            if one.attends and one.width % self.head_channels:
                raise ValueError(
                    f"model.head_channels={self.head_channels} does not divide the {one.width} "
                    "channels of a resolution of model.attention_resolutions; change one of them"
                )

    def num_parameters(
        self,
        *,
        in_channels: int,
        out_channels: int,
        height: int,
        width: int,  # noqa: ARG002 - of any width
    ) -> int:
        """Return the parameters of `models.adm.AdmUNet` without classes, for images of this height,
        in pixels.
        """
        base, embedding = self.base_channels, 4 * self.base_channels
        levels = self.levels(height)
        first, last = levels[0].width, levels[-1].width
        total = linear(base, embedding) + linear(embedding, embedding)
        total += conv(in_channels, first) + 2 * first + conv(first, out_channels)
        total += 9 * (in_channels + 1) * first if self.known else 0
        if self.low_size is not None:
            total += 9 * in_channels * first + linear(base, embedding) + embedding**2
        total += 2 * _block(last, last, embedding) + self._attention(last)
        for one in levels:
            for num_in in (*one.down, *one.up):
                total += _block(num_in, one.width, embedding)
                total += self._attention(one.width) if one.attends else 0
            total += self._resampled(one, embedding)
        return total + (self.num_parameters_of_text if self.uses_text else 0)

    def _resampled(self, level: Level, embedding: int) -> int:
        if level.halves_from is None:
            return 0
        if self.resample_first:
            return conv(level.halves_from, level.width) + conv(level.width, level.width)
        halving = _block(level.halves_from, level.halves_from, embedding)
        return halving + _block(level.width, level.width, embedding)

    def _attention(self, channels: int) -> int:
        of_text = 2 * linear(self.text_hidden_size, channels) if self.uses_text else 0
        return 2 * channels + 4 * linear(channels, channels) + of_text

    @property
    def num_parameters_of_text(self) -> int:
        """Parameters of the encoder of captions, and of what makes a vector of its states."""
        d, embedding = self.text_hidden_size, 4 * self.base_channels
        layers = 4 * linear(d, d) + linear(d, 4 * d) + linear(4 * d, d) + 4 * d
        encoder = (_NUM_TOKENS + 2 * self.text_length) * d + self.text_num_layers * layers + 2 * d
        pooled = linear(d, embedding)
        if self.text_pool == "attention":
            pooled += 2 * d + d + 3 * linear(d, d) + 2 * embedding
        return encoder + pooled


def _block(num_in: int, num_out: int, embedding: int) -> int:
    """Return the parameters of an adaptive residual block."""
    shortcut = 0 if num_in == num_out else linear(num_in, num_out)
    convolutions = conv(num_in, num_out) + conv(num_out, num_out)
    norms = 2 * num_in + 2 * num_out
    return norms + convolutions + linear(embedding, 2 * num_out) + shortcut
