"""CLIP of noised images: how well an image with noise fits a text.

Two towers, whose features have length 1: a vision transformer of x_t, and a transformer of the
text. What they say together is the cosine of the two, times a learned scale. In a tower of noised
images the timestep stands in place of the class token; one of clean images has that token, is given
no time, and is CLIP as it is.

Source: Radford et al. 2021, arXiv:2103.00020, sections 2.3 and 2.4; of noised images Nichol et al.
2021, arXiv:2112.10741, section 2.3. There a row is learned for each step of the chain; here it is
computed from sines and cosines, so that there are times between the steps.
"""

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import NOTHING, Conditioning, Text, require_accepted
from ddpm_core.errors import ConfigError
from ddpm_core.models.blocks import Linear, Table, TimeEmbedding, initialise
from ddpm_core.models.dit import patchify
from ddpm_core.models.text_encoder import TextEncoder, at_end
from ddpm_core.models.transformer import NORM_EPS, Block, require_heads
from ddpm_core.text.tokens import encode

FIRST_TEMPERATURE = 0.07
MOST_SCALE = 100.0
"""of the cosines: it is learned, and no more than this"""


class ImageTower(nn.Module):
    """(x_t, t) -> features of length 1: a vision transformer.

    Args:
        in_channels: channels of x_t.
        image_size: (height, width) of the images, multiples of `patch_size`.
        patch_size: pixels on a side of a patch.
        width: features of a token; a multiple of `num_heads`, and even.
        num_layers: of the transformer.
        num_heads: of every attention.
        num_features: that it gives.
        noised: whether it is given the timestep; else it is of clean images.
        quick: as of `TextEncoder`.

    Raises:
        ConfigError: if these do not fit together.
    """

    null = NOTHING
    accepts: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        in_channels: int,
        image_size: tuple[int, int],
        patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        num_features: int,
        noised: bool,
        quick: bool = False,
    ) -> None:
        super().__init__()
        require_heads(width, num_heads)
        height, wide = image_size
        if height % patch_size or wide % patch_size:
            raise ConfigError(
                f"images of {height}x{wide} pixels cannot be cut into patches of {patch_size}; "
                "give a divisor of both"
            )
        self.image_size, self.patch_size, self.num_features = image_size, patch_size, num_features
        num_patches = height * wide // patch_size**2
        self.patch_in = Linear(in_channels * patch_size**2, width, bias=False)
        self.time_embed = TimeEmbedding(width // 4) if noised else None
        std = width**-0.5
        self.class_token = None if noised else Table(1, width, gain=std)
        self.positions = Table(1 + num_patches, width, gain=std)
        self.norm_in = nn.LayerNorm(width, eps=NORM_EPS)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, num_layers, quick=quick) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(width, eps=NORM_EPS)
        self.proj_out = Linear(width, num_features, bias=False)

    @property
    def last(self) -> nn.Module:
        """As of `UNet`."""
        return self.proj_out

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        conditioning: Conditioning = NOTHING,
    ) -> Float[Tensor, "b f"]:
        """Return the features of images `x_t` at code indices `t`, whole or in between.

        Raises:
            ConfigError: if the images have another size than `image_size`.
            DataError: if there is a conditioning.
        """
        require_accepted(conditioning, self.accepts, model="this tower of images")
        if tuple(x_t.shape[2:]) != self.image_size:
            raise ConfigError(
                f"images of {x_t.shape[2]}x{x_t.shape[3]} pixels were given to a transformer whose "
                f"positions are those of {self.image_size[0]}x{self.image_size[1]}; give such "
                "images"
            )
        patches = self.patch_in(patchify(x_t, self.patch_size))
        first = self._first(t).to(patches.dtype)
        x = self.norm_in(torch.cat([first[:, None], patches], dim=1) + self.positions.weight)
        for block in self.blocks:
            x = block(x)
        return _projected(self.norm_out(x[:, 0]), self.proj_out)

    def _first(self, t: Real[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return the token that gathers what the patches say."""
        if self.time_embed is not None:
            embedding: Tensor = self.time_embed(t)
            return embedding
        if self.class_token is None:
            raise RuntimeError("a tower has a class token or a time")
        return self.class_token.weight.expand(len(t), -1)


class Clip(nn.Module):
    """(x_t, t, text) -> features of the images, and of the texts, each of length 1.

    Args:
        image: the tower of images.
        text: the tower of texts.
        generator: CPU generator from which the initial weights are drawn.
    """

    accepts = frozenset({"text"})

    def __init__(self, image: ImageTower, text: TextEncoder, *, generator: torch.Generator) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.null = Conditioning(text=encode([""], text.length))
        """of one image: the empty text"""
        self.text_out = Linear(text.width, image.num_features, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / FIRST_TEMPERATURE)))
        initialise(self, generator)

    @property
    def last(self) -> nn.Module:
        """As of `UNet`."""
        return self.image.last

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Of the cosines."""
        return self.log_scale.exp()

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Hold the scale at its largest, if it is beyond it (section 2.5)."""
        self.log_scale.clamp_(max=math.log(MOST_SCALE))

    def of_text(self, text: Text) -> Float[Tensor, "b f"]:
        """Return the features of texts."""
        return _projected(at_end(text, self.text(text)), self.text_out)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        conditioning: Conditioning = NOTHING,
    ) -> Float[Tensor, "b 2 f"]:
        """Return the features of each image, and of its text.

        Raises:
            ConfigError: if images or texts have another size than the towers'.
            DataError: if the conditioning has other parts than `accepts`.
        """
        require_accepted(conditioning, self.accepts, model="CLIP")
        if conditioning.text is None:
            raise RuntimeError("CLIP accepts texts, and was given none")
        return torch.stack([self.image(x_t, t), self.of_text(conditioning.text)], dim=1)


def _projected(state: Float[Tensor, "b d"], layer: Linear) -> Float[Tensor, "b f"]:
    """Return features of length 1, computed in the dtype of the layer, also under autocast."""
    with torch.autocast(state.device.type, enabled=False):
        return F.normalize(layer(state.to(layer.weight.dtype)), dim=1)
