"""The diffusion transformer (DiT): predicts the noise in x_t, or what else it is trained to.

The image is cut into patches, each of which is a token. The blocks are those of a vision
transformer; the timestep, and with classes a learned row of each (the last is that of no class),
scales, shifts and gates each of them (adaLN-Zero). It begins as the function that is 0 everywhere:
all gates, and the last layer, begin at 0.

Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2; weights begin as in its code. The
frequencies of the timestep are those of diffusers' `DiTTransformer2DModel`, exponents i/127 where
that code has i/128.
"""

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import AUGMENT_NUMBERS, NOTHING, Conditioning, require_accepted
from ddpm_core.errors import ConfigError
from ddpm_core.models.blocks import (
    NORM_EPS,
    Linear,
    Table,
    begun_at_zero,
    initialise,
    known_channels_of,
    null_of,
    timestep_embedding,
)
from ddpm_core.models.on_cpu import attend
from ddpm_core.models.recompute import Recomputable

TIME_FEATURES = 256
"""sines and cosines of the timestep, for networks of any size"""
_EMBEDDING_STD = 0.02
_LONGEST_PERIOD = 10_000.0
MLP_RATIO = 4
"""hidden features of a block's two layers, in multiples of those of a token"""


def patchify(x: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b n f"]:
    """Return the patches of images, row by row; features in the order (channel, row, column)."""
    b, c, h, w = x.shape
    cut = x.reshape(b, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * size * size)


def unpatchify(
    tokens: Float[Tensor, "b n f"], size: int, *, height: int, width: int
) -> Float[Tensor, "b c h w"]:
    """Return the images of these patches; features in the order (row, column, channel).

    That is not the order in which `patchify` gives them: the two layers between are those of the
    original, which reads patches by a convolution and writes them channels last.
    """
    b, rows, columns = len(tokens), height // size, width // size
    grid = tokens.reshape(b, rows, columns, size, size, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height, width)


def positions(rows: int, columns: int, num_features: int) -> Float[Tensor, "n f"]:
    """Return the embedding of each place of a grid, row by row, float32.

    [sin(j f), cos(j f), sin(i f), cos(i f)] of row i and column j, each a quarter of the features,
    with f_k = 10000 ** (-k / quarter).

    Source: as `models_mae` of He et al. 2022, arXiv:2111.06377, which DiT takes it from.
    """
    quarter = num_features // 4
    index = torch.arange(quarter, dtype=torch.float64)
    frequencies = _LONGEST_PERIOD ** (-index / quarter)
    i, j = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    angles = [place.reshape(-1, 1) * frequencies for place in (j, i)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> Float[Tensor, "b n d"]:
    """Return the tokens normalised to mean 0 and variance 1, scaled by 1 + scale, and shifted."""
    normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    return normed * (1 + scale[:, None]) + shift[:, None]


class TimeMLP(nn.Module):
    """Two layers over [cos, sin] of the timestep."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = Linear(TIME_FEATURES, hidden_size)
        self.linear_2 = Linear(hidden_size, hidden_size)

    def forward(
        self, t: Real[Tensor, " b"], before: Float[Tensor, "b f"] | None = None
    ) -> Float[Tensor, "b d"]:
        features = timestep_embedding(t, TIME_FEATURES).roll(TIME_FEATURES // 2, dims=1)
        features = features.to(self.linear_1.weight.dtype)
        hidden = F.silu(self.linear_1(features if before is None else features + before))
        embedding: Tensor = self.linear_2(hidden)
        return embedding


class SelfAttention(nn.Module):
    """Attention among all tokens of an image, in several heads."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # One matrix, as in the original: its weights begin smaller than those of three would.
        self.query_key_value = Linear(hidden_size, 3 * hidden_size)
        self.proj_out = Linear(hidden_size, hidden_size)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        heads = self.query_key_value(x).reshape(b, n, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value)
        out: Tensor = self.proj_out(mixed.transpose(1, 2).reshape(b, n, d))
        return out


class Block(Recomputable):
    """Attention, then two layers on each token; the embedding shifts, scales and gates both."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.modulation = Linear(hidden_size, 6 * hidden_size, gain=0.0)
        self.attention = SelfAttention(hidden_size, num_heads)
        self.linear_1 = Linear(hidden_size, MLP_RATIO * hidden_size)
        self.linear_2 = Linear(MLP_RATIO * hidden_size, hidden_size)

    def forward(
        self, x: Float[Tensor, "b n d"], embedding: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b n d"]:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(embedding).chunk(6, 1)
        x = x + gate_1[:, None] * self.attention(modulate(x, shift_1, scale_1))
        hidden = F.gelu(self.linear_1(modulate(x, shift_2, scale_2)), approximate="tanh")
        changed: Tensor = x + gate_2[:, None] * self.linear_2(hidden)
        return changed


class DiT(nn.Module):
    """(x_t, t) -> eps_hat.

    Computes in the dtype of its parameters or, under autocast, in that of autocast, but the
    sines and cosines of timestep and place and the last layer in float32, as `UNet` does.

    Args:
        in_channels: channels of x_t.
        out_channels: channels of the prediction; twice `in_channels` for a learned variance.
        image_size: (height, width) of the images, multiples of `patch_size`.
        patch_size: pixels on a side of a patch.
        hidden_size: features of a token; a multiple of 4 and of `num_heads`.
        num_layers: blocks.
        num_heads: heads of every attention.
        num_classes: as of `UNet`.
        takes_known: as of `UNet`.
        takes_augment: as of `UNet`.
        generator: CPU generator from which the initial weights are drawn.

    Raises:
        ConfigError: if these do not fit together.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        image_size: tuple[int, int],
        patch_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        num_classes: int | None = None,
        takes_known: bool = False,
        takes_augment: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.null = null_of(
            num_classes,
            known_channels=in_channels if takes_known else None,
            takes_augment=takes_augment,
        )
        """of one image: the value of each part that says nothing"""
        self.accepts = self.null.parts
        """the parts of a conditioning that it takes"""
        self.image_size, self.patch_size = image_size, patch_size
        _check(image_size, patch_size, hidden_size, num_heads)
        area = patch_size * patch_size
        self.time_embed = TimeMLP(hidden_size)
        rows = None if num_classes is None else num_classes + 1
        self.class_embed = None if rows is None else Table(rows, hidden_size)
        self.patch_in = Linear(in_channels * area, hidden_size)
        grid = positions(image_size[0] // patch_size, image_size[1] // patch_size, hidden_size)
        self.register_buffer("positions", grid, persistent=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads) for _ in range(num_layers))
        self.modulation_out = Linear(hidden_size, 2 * hidden_size, gain=0.0)
        self.patch_out = Linear(hidden_size, out_channels * area, gain=0.0)
        initialise(self, generator)
        self._begin_embedding(generator)
        # Further channels of `patch_in`, apart as in `UNet`.
        known_area = (in_channels + 1) * area
        further = Linear(known_area, hidden_size, bias=False) if takes_known else None
        self.patch_known = begun_at_zero(further)
        augment = Linear(AUGMENT_NUMBERS, TIME_FEATURES, bias=False) if takes_augment else None
        self.augment_embed = begun_at_zero(augment)

    @torch.no_grad()
    def _begin_embedding(self, generator: torch.Generator) -> None:
        for layer in (self.time_embed.linear_1, self.time_embed.linear_2, self.class_embed):
            if layer is not None and not layer.weight.is_meta:
                layer.weight.normal_(std=_EMBEDDING_STD, generator=generator)

    @property
    def last(self) -> nn.Module:
        """As of `UNet`."""
        return self.patch_out

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        conditioning: Conditioning = NOTHING,
    ) -> Float[Tensor, "b k h w"]:
        """Return the prediction for images `x_t` at code indices `t`, whole or in between.

        Raises:
            ConfigError: if the images have another size than `image_size`.
            DataError: if the conditioning has other parts than `accepts`.
        """
        if self.accepts or conditioning is not NOTHING:
            require_accepted(conditioning, self.accepts, model="this transformer")
        height, width = x_t.shape[2:]
        if (height, width) != self.image_size:
            raise ConfigError(
                f"images of {height}x{width} pixels were given to a transformer whose positions "
                f"are those of {self.image_size[0]}x{self.image_size[1]}; give such images"
            )
        # What every modulation begins with; once is enough.
        layer = self.augment_embed
        augment = None if layer is None else layer(conditioning.augment)
        embedding = self.time_embed(t, augment)
        if self.class_embed is not None:
            embedding = embedding + self.class_embed(conditioning.label)
        embedding = F.silu(embedding)
        x = self.patch_in(patchify(x_t, self.patch_size)) + self.positions
        if self.patch_known is not None and conditioning.known is not None:
            known = known_channels_of(conditioning.known, x_t)
            x = x + self.patch_known(patchify(known, self.patch_size))
        for block in self.blocks:
            x = block(x, embedding)
        shift, scale = self.modulation_out(embedding).chunk(2, 1)
        x = modulate(x, shift, scale)
        with torch.autocast(x.device.type, enabled=False):
            patches = self.patch_out(x.to(self.patch_out.weight.dtype))
        return unpatchify(patches, self.patch_size, height=height, width=width)


def _check(image_size: tuple[int, int], patch_size: int, hidden_size: int, num_heads: int) -> None:
    if any(pixels % patch_size for pixels in image_size):
        raise ConfigError(
            f"images of {image_size[0]}x{image_size[1]} pixels cannot be cut into patches of "
            f"patch_size={patch_size}; choose a divisor of both"
        )
    if hidden_size % 4 or hidden_size % num_heads:
        raise ConfigError(
            f"hidden_size={hidden_size} must be a multiple of 4, for the sines and cosines of rows "
            f"and columns, and of num_heads={num_heads}"
        )
