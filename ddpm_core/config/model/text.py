"""The section `model` of a language model of captions, and what follows from it."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.model.clip import NUM_TOKENS, block
from ddpm_core.config.model.count import linear
from ddpm_core.config.model.network import Role
from ddpm_core.config.model.of_captions import OfCaptions
from ddpm_core.config.section import Few


class TextConfig(OfCaptions):
    """A language model of captions that says hidden bytes (Devlin et al. 2019, arXiv:1810.04805);
    its encoder is that of `adm`, of the size of the published small GLIDE's.
    """

    role: ClassVar[Role] = "text"
    size_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "num_layers")
    """the keys that make it large or small"""

    kind: Literal["text"] = "text"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    hidden_size: Few = 512
    """features of a token, d"""
    num_layers: int = Field(16, ge=1, le=1000)
    """blocks"""
    num_heads: Few = 8
    """heads of every attention"""
    hidden_share: float = Field(0.15, gt=0, le=1)
    """share of the bytes of a caption that are to be said from the others"""

    @model_validator(mode="after")
    def _features_divide(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}"
            )
        return self

    def require_images(self, *, height: int, width: int) -> None:
        """Refuse no images: it makes nothing of them."""

    def num_parameters(
        self,
        *,
        in_channels: int,  # noqa: ARG002 - of other kinds
        out_channels: int,  # noqa: ARG002
        height: int,  # noqa: ARG002
        width: int,  # noqa: ARG002
    ) -> int:
        """Return the parameters of `models.byte_model.ByteModel`."""
        d = self.hidden_size
        tables = (NUM_TOKENS + 2 * self.text_length) * d
        return tables + self.num_layers * block(d) + 2 * d + linear(d, NUM_TOKENS)
