"""The section `model` of the diffusion transformer, and what follows from it."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.model.count import linear
from ddpm_core.config.model.network import NetworkConfig
from ddpm_core.config.model.patches import require_patches
from ddpm_core.config.section import Few


class DiTConfig(NetworkConfig):
    """The diffusion transformer (Peebles and Xie 2023, arXiv:2212.09748, table 1); DiT-S/2."""

    size_keys: ClassVar[tuple[str, ...]] = ("hidden_size", "num_layers")
    """the keys that make it large or small"""

    kind: Literal["dit"] = "dit"
    """which network: the paper's U-Net (unet), a transformer (dit), dense layers (mlp),
    convolutions at several scales beside dense layers (multiscale), the U-Net of guided diffusion,
    which reads captions too (adm); to guide these by, a classifier of noised images (classifier)
    or CLIP (clip); or a language model of captions, with whose encoder adm can begin (text)"""
    patch_size: Few = 2
    """pixels on a side of a patch, p; each patch is a token"""
    hidden_size: Few = 384
    """features of a token, d"""
    num_layers: int = Field(12, ge=1, le=1000)
    """blocks, N"""
    num_heads: Few = 6
    """heads of every attention"""

    @property
    def row_size(self) -> int:
        """Features of the row that is learned for each class, and of that for none."""
        return self.hidden_size

    @property
    def time_features(self) -> int:
        """Sines and cosines of the time, of networks of any size."""
        return 256

    @model_validator(mode="after")
    def _features_divide(self) -> Self:
        if self.hidden_size % 4 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 4, for the sines and "
                f"cosines of rows and columns, and of num_heads={self.num_heads}"
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
        out_channels: int,
        height: int,  # noqa: ARG002 - of any size
        width: int,  # noqa: ARG002 - of any size
    ) -> int:
        """Return the parameters of `models.dit.DiT`, those of its classes left out."""
        d, area = self.hidden_size, self.patch_size**2
        outside = linear(area * in_channels, d) + linear(self.time_features, d) + linear(d, d)
        outside += linear(d, 2 * d) + linear(d, area * out_channels)
        outside += area * (in_channels + 1) * d if self.known else 0
        attention, layers = linear(d, 3 * d) + linear(d, d), linear(d, 4 * d) + linear(4 * d, d)
        return outside + self.num_layers * (linear(d, 6 * d) + attention + layers)
