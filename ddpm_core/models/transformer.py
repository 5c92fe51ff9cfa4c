"""A transformer with its norms first, and the encoder of texts that is one.

Source: Radford et al. 2021, arXiv:2103.00020, section 2.4 (the text transformer of CLIP: norms
first, as in GPT-2); its weights begin as in its code, but uniform.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import Text
from ddpm_core.errors import ConfigError
from ddpm_core.models.blocks import Linear, Table
from ddpm_core.models.on_cpu import attend
from ddpm_core.models.recompute import Recomputable
from ddpm_core.text.tokens import NUM_TOKENS

NORM_EPS = 1e-5
MLP_RATIO = 4
"""hidden features of a block, in multiples of those of a token"""
_TOKEN_STD, _PLACE_STD = 0.02, 0.01


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x), what CLIP's published networks have in place of the GELU."""
    return x * torch.sigmoid(1.702 * x)


class Block(Recomputable):
    """x + attention(norm(x)), and that + two layers on each token of its norm.

    Args:
        width: features of a token.
        num_heads: of the attention; they divide `width`.
        num_layers: blocks of the whole: what each adds begins as small as they are many.
        quick: whether the activation is `quick_gelu`.
    """

    def __init__(self, width: int, num_heads: int, num_layers: int, *, quick: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.activation = quick_gelu if quick else F.gelu
        gain = (2 * num_layers) ** -0.5
        self.norm_1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.proj_out = Linear(width, width, gain=gain)
        self.norm_2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.linear_1 = Linear(width, MLP_RATIO * width)
        self.linear_2 = Linear(MLP_RATIO * width, width, gain=gain)

    def forward(
        self, x: Float[Tensor, "b n d"], allowed: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return the tokens after the block.

        Args:
            x: the tokens.
            allowed: which token each may attend to, True; None: each to all.
        """
        h = self.norm_1(x)
        query, key, value = (
            layer(h).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if allowed is None:
            mixed = attend(query, key, value)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = x + self.proj_out(mixed.transpose(1, 2).flatten(2))
        changed: Tensor = x + self.linear_2(self.activation(self.linear_1(self.norm_2(x))))
        return changed


class TextTower(nn.Module):
    """An encoder of texts: a state for each token.

    Its weights are drawn with those of the network that it is part of, see `initialise`.

    Args:
        length: tokens of a text.
        width: features of a state; a multiple of `num_heads`.
        num_layers: of the transformer.
        num_heads: of every attention.
        causal: whether a token attends to those before it alone; else to all of the text.
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
        causal: bool,
        quick: bool = False,
    ) -> None:
        super().__init__()
        require_heads(width, num_heads)
        self.length, self.width, self.causal = length, width, causal
        self.tokens = Table(NUM_TOKENS, width, gain=_TOKEN_STD)
        self.places = Table(length, width, gain=_PLACE_STD)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, num_layers, quick=quick) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, text: Text) -> Float[Tensor, "b l d"]:
        """Return the state of each token; those behind the end of a text mean nothing.

        Raises:
            ConfigError: texts of another length.
        """
        b, length = text.tokens.shape[:2]
        if length != self.length:
            raise ConfigError(
                f"texts of {length} tokens were given to an encoder of texts of {self.length}; "
                f"fill them up to {self.length}"
            )
        x = self.tokens(text.tokens) + self.places.weight
        # A causal state sees nothing behind the end, and needs no mask of it.
        if self.causal:
            allowed = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        else:
            allowed = text.mask.reshape(b, 1, 1, length).expand(b, 1, length, length)
        for block in self.blocks:
            x = block(x, allowed)
        states: Tensor = self.norm_out(x)
        return states


def at_end(text: Text, states: Float[Tensor, "b l d"]) -> Float[Tensor, "b d"]:
    """Return the state of the end of each text."""
    rows = torch.arange(len(states), device=states.device)
    return states[rows, text.mask.sum(dim=1) - 1]


def require_heads(width: int, num_heads: int) -> None:
    """Refuse features that heads cannot share out.

    Raises:
        ConfigError: with both.
    """
    if width % num_heads:
        raise ConfigError(
            f"{width} features of a token cannot be shared out to {num_heads} heads; give a "
            "multiple"
        )
