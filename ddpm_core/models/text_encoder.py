"""The encoder of texts: a transformer over their bytes.

CLIP's is causal: each attends to those before it, and the state of the end is that of the text. In
that of a network that reads texts each attends to all. There a position behind the end of the
text is not masked: it holds what was learned for that place in the stead of a token, so that the
network can tell by it how long the text is. (GLIDE's code has it in the stead of the sum of token
and place: the same functions. So it is also a SigLIP's, see `text_interop`.)

Source: Nichol et al. 2021, arXiv:2112.10741, section 3.1 (GLIDE), and its code: padding embedding,
the last position as the vector of the text; attention pooling: Saharia et al. 2022,
arXiv:2205.11487, appendix D.3.1 (Imagen), in the form of DeepFloyd IF; causal: Radford et al. 2021,
arXiv:2103.00020, section 2.4 (CLIP).
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
from ddpm_core.models.transformer import NORM_EPS, Block, require_heads
from ddpm_core.text.tokens import NUM_TOKENS

_TOKEN_STD, _CLIP_STD = 0.02, 0.01
"""of tokens, and of the positions of CLIP's tower, as in its code"""


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

    Its weights are drawn with those of the network that it is part of, see `initialise`.

    Args:
        length: positions of every text.
        width: features of a position.
        num_layers: blocks.
        num_heads: of every attention; a divisor of `width`.
        causal: whether a position attends to those before it alone, as in CLIP, and nothing is
            learned for those behind the end; else each attends to all.
        quick: whether the activation is `quick_gelu`.

    Raises:
        ConfigError: if these do not fit together.
    """

    def __init__(
        self,
        *,
        length: int,
        width: int,
        num_layers: int,
        num_heads: int,
        causal: bool = False,
        quick: bool = False,
    ) -> None:
        super().__init__()
        require_heads(width, num_heads)
        self.length, self.width = length, width
        self.token_embed = Table(NUM_TOKENS, width, gain=_TOKEN_STD)
        self.positions = Table(length, width, gain=_CLIP_STD if causal else _TOKEN_STD)
        self.padding = None if causal else Table(length, width, gain=_TOKEN_STD)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, num_layers, quick=quick) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, text: Text) -> Float[Tensor, "b l d"]:
        """Return the states of all positions; those behind the end of a text mean nothing if it is
        causal, and its length if not.

        Raises:
            ConfigError: the texts have another length than the encoder.
        """
        length = text.tokens.shape[1]
        if length != self.length:
            raise ConfigError(
                f"texts of {length} tokens were given to an encoder of texts of {self.length}; "
                f"encode them to {self.length}, model.text_length"
            )
        x, allowed = self.token_embed(text.tokens), None
        if self.padding is None:
            # A state sees nothing behind it, and needs no mask of what is behind the end.
            allowed = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        else:
            x = torch.where(text.mask[:, :, None], x, self.padding.weight)
        x = x + self.positions.weight
        for block in self.blocks:
            x = block(x, allowed)
        states: Tensor = self.norm_out(x)
        return states


def at_end(text: Text, states: Float[Tensor, "b l d"]) -> Float[Tensor, "b d"]:
    """Return the state of the end of each text."""
    rows = torch.arange(len(states), device=states.device)
    return states[rows, text.mask.sum(dim=1) - 1]


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
    encoder = TextEncoder(
        length=text.length,
        width=text.width,
        num_layers=text.num_layers,
        num_heads=text.num_heads,
    )
    if text.pooling == "last":
        return encoder, LastPooling(text.width, embed_channels)
    return encoder, AttentionPooling(text.width, embed_channels, text.num_heads)
