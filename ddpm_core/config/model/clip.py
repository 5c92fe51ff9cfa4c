"""The section `model` of CLIP on noised images, and what follows from it."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.model.count import linear
from ddpm_core.config.model.network import Role
from ddpm_core.config.model.of_captions import OfCaptions
from ddpm_core.config.model.patches import require_patches
from ddpm_core.config.section import Few

NUM_TOKENS = 259
"""as of `text.tokens`, which needs torch"""


class ClipConfig(OfCaptions):
    """How well x_t fits a caption: two towers, trained on pairs (Nichol et al. 2021,
    arXiv:2112.10741, section 2.3), for `sample.guidance_by`; the sizes are those of the published
    network of noised images.
    """

    role: ClassVar[Role] = "clip"
    size_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "num_layers")
    """the keys that make it large or small"""

    kind: Literal["clip"] = "clip"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    noised: bool = True
    """whether it is trained on images with the noise of each time, and given the time; false: on
    clean ones alone, and given none, which guides worse than its own score says"""
    patch_size: Few = 4
    """pixels on a side of a patch, p; each patch is a token"""
    hidden_size: Few = 768
    """features of a token of the images, d"""
    num_layers: int = Field(12, ge=1, le=1000)
    """blocks of the tower of images"""
    num_heads: Few = 12
    """heads of every attention of the tower of images"""
    text_hidden_size: Few = 512
    """features of a token of the captions"""
    text_num_layers: int = Field(12, ge=1, le=1000)
    """blocks of the tower of captions"""
    text_num_heads: Few = 8
    """heads of every attention of the tower of captions"""
    num_features: Few = 512
    """features of an image and of a caption, whose cosine says how well they fit"""

    @model_validator(mode="after")
    def _features_divide(self) -> Self:
        if self.hidden_size % 8 or self.hidden_size < 16:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 8 and at least 16, for the "
                "sines and cosines of the timestep"
            )
        for size, heads in (("hidden_size", "num_heads"), ("text_hidden_size", "text_num_heads")):
            if getattr(self, size) % getattr(self, heads):
                raise ValueError(
                    f"{size}={getattr(self, size)} must be a multiple of {heads}="
                    f"{getattr(self, heads)}"
                )
        return self

    def require_images(self, *, height: int, width: int) -> None:
        """Refuse images that it does not take, with their keys in the section `data`.

        Raises:
            ValueError: they cannot be cut into patches, or into too many.
        """
        require_patches(self.patch_size, height=height, width=width)

    def num_parameters(
        self,
        *,
        in_channels: int,
        out_channels: int,  # noqa: ARG002 - of other kinds
        height: int,
        width: int,
    ) -> int:
        """Return the parameters of `models.clip.Clip`."""
        d, e, f, area = (
            self.hidden_size,
            self.text_hidden_size,
            self.num_features,
            self.patch_size**2,
        )
        first = linear(d // 4, d) + linear(d, d) if self.noised else d
        image = first + area * in_channels * d + (1 + height * width // area) * d + 4 * d + d * f
        text = (NUM_TOKENS + self.text_length) * e + 2 * e + e * f
        return image + self.num_layers * block(d) + text + self.text_num_layers * block(e) + 1


def block(width: int) -> int:
    """Return the parameters of a block of `models.transformer`."""
    return (
        4 * width + 4 * linear(width, width) + linear(width, 4 * width) + linear(4 * width, width)
    )
