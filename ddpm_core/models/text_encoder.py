"""The encoder of texts that is trained together with the network that reads them.

A transformer over the bytes of a text, each attending to all. A position behind the end of the
text is not masked: it holds what was learned for that place in the stead of a token, so that the
network can tell by it how long the text is. (GLIDE's code has it in the stead of the sum of token
and place: the same functions. So it is also a SigLIP's, see `text_interop`.)

Source: Nichol et al. 2021, arXiv:2112.10741, section 3.1 (GLIDE), and its code: padding embedding,
the last position as the vector of the text; attention pooling: Saharia et al. 2022,
arXiv:2205.11487, appendix D.3.1 (Imagen), in the form of DeepFloyd IF.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm_core.conditioning import Text
from ddpm_core.errors import ConfigError
from ddpm_core.models.blocks import Linear, Table
from ddpm_core.models.on_cpu import attend
from ddpm_core.models.transformer import NORM_EPS, Block
from ddpm_core.text.tokens import NUM_TOKENS

_TABLE_STD = 0.02


@dataclass(frozen=True)
class TextReader:
    """How a network reads texts."""

    length: int
    """tokens of each"""
    width: int
    """features of a position"""
    num_layers: int
    num_heads: int
    """of every attention of the encoder; divides `width`"""
    pooling: Literal["last", "attention"]
    """what is added to the embedding of the time: of the last position, or of all, attended to"""


class TextEncoder(nn.Module):
    """Texts -> a vector of each of their positions, normalised.

    Args:
        length: positions of every text.
        width: features of a position.
        num_layers: blocks.
        num_heads: of every attention; a divisor of `width`.
    """

    def __init__(self, *, length: int, width: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.token_embed = Table(NUM_TOKENS, width, gain=_TABLE_STD)
        self.positions = Table(length, width, gain=_TABLE_STD)
        self.padding = Table(length, width, gain=_TABLE_STD)
        self.blocks = nn.ModuleList(Block(width, num_heads, num_layers) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, text: Text) -> Float[Tensor, "b l d"]:
        """Return the states of all positions, those behind the end of the text too.

        Raises:
            ConfigError: the texts have another length than the encoder.
        """
        length, here = text.tokens.shape[1], self.positions.num_embeddings
        if length != here:
            raise ConfigError(
                f"texts of {length} tokens were given to an encoder of texts of {here}; encode "
                f"them to {here}, model.text_length"
            )
        x = torch.where(text.mask[:, :, None], self.token_embed(text.tokens), self.padding.weight)
        x = x + self.positions.weight
        for block in self.blocks:
            x = block(x)
        states: Tensor = self.norm_out(x)
        return states


class LastPooling(nn.Module):
    """The vector of a text: a linear map of its last position, behind the end of most texts."""

    def __init__(self, width: int, embed_channels: int) -> None:
        super().__init__()
        self.proj = Linear(width, embed_channels)

    def forward(self, states: Float[Tensor, "b l d"]) -> Float[Tensor, "b e"]:
        pooled: Tensor = self.proj(states[:, -1])
        return pooled


class AttentionPooling(nn.Module):
    """The vector of a text: what the mean of all positions, and a learned vector, attends to.

    Args:
        width: features of a position.
        embed_channels: of the vector.
        num_heads: a divisor of `width`.
    """

    def __init__(self, width: int, embed_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_in = nn.LayerNorm(width, eps=NORM_EPS)
        self.begin = Table(1, width, gain=1 / math.sqrt(width))
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.proj = Linear(width, embed_channels)
        self.norm_out = nn.LayerNorm(embed_channels, eps=NORM_EPS)

    def forward(self, states: Float[Tensor, "b l d"]) -> Float[Tensor, "b e"]:
        states = self.norm_in(states)
        first = states.mean(dim=1, keepdim=True) + self.begin.weight
        all_of_them = torch.cat([first, states], dim=1)
        query, key, value = self.query(first), self.key(all_of_them), self.value(all_of_them)
        mixed = attend(self._heads(query), self._heads(key), self._heads(value))
        pooled: Tensor = self.norm_out(self.proj(mixed.flatten(1)))
        return pooled

    def _heads(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b k n c"]:
        b, n, _ = tokens.shape
        return tokens.reshape(b, n, self.num_heads, -1).transpose(1, 2)


def reading(
    text: TextReader | None, embed_channels: int
) -> tuple[TextEncoder | None, LastPooling | AttentionPooling | None]:
    """Return the encoder, and what makes a vector of its states, of a network; None: of no text.

    Raises:
        ConfigError: the heads do not divide the features.
    """
    if text is None:
        return None, None
    if text.width % text.num_heads:
        raise ConfigError(
            f"{text.num_heads} heads do not divide the {text.width} features of a position of a "
            "text; change one of them"
        )
    encoder = TextEncoder(
        length=text.length,
        width=text.width,
        num_layers=text.num_layers,
        num_heads=text.num_heads,
    )
    if text.pooling == "last":
        return encoder, LastPooling(text.width, embed_channels)
    return encoder, AttentionPooling(text.width, embed_channels, text.num_heads)
