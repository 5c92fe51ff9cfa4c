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
from ddpm_core.models.recompute import Recomputable
from ddpm_core.text.tokens import NUM_TOKENS

NORM_EPS = 1e-5
MLP_RATIO = 4
"""hidden features of a layer, in multiples of those of a token"""
_TOKEN_STD, _PLACE_STD = 0.02, 0.01


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x), what CLIP's published networks have in place of the GELU."""
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Attention among the tokens of a row, in several heads."""

    def __init__(self, width: int, num_heads: int, *, gain: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.proj_out = Linear(width, width, gain=gain)

    def forward(
        self, x: Float[Tensor, "b n d"], allowed: Bool[Tensor, "*b n n2"] | None
    ) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        heads = (
            layer(x).reshape(b, n, self.num_heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=allowed)
        out: Tensor = self.proj_out(mixed.transpose(1, 2).reshape(b, n, d))
        return out


class Layer(Recomputable):
    """x + attention(norm(x)), and that + two layers on each token of its norm.

    Args:
        width: features of a token.
        num_heads: of the attention; they divide `width`.
        num_layers: of the whole: what each adds begins as small as they are many.
        quick: whether the activation is `quick_gelu`.
    """

    def __init__(self, width: int, num_heads: int, *, num_layers: int, quick: bool) -> None:
        super().__init__()
        gain = (2 * num_layers) ** -0.5
        self.activation = quick_gelu if quick else F.gelu
        self.norm_1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, num_heads, gain=gain)
        self.norm_2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.linear_1 = Linear(width, MLP_RATIO * width)
        self.linear_2 = Linear(MLP_RATIO * width, width, gain=gain)

    def forward(
        self, x: Float[Tensor, "b n d"], allowed: Bool[Tensor, "*b n n2"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return the tokens after the layer.

        Args:
            x: the tokens.
            allowed: which token each may attend to, True; None: each to all.
        """
        x = x + self.attention(self.norm_1(x), allowed)
        changed: Tensor = x + self.linear_2(self.activation(self.linear_1(self.norm_2(x))))
        return changed


class TextTower(nn.Module):
    """An encoder of texts: a state for each token.

    Its weights are drawn with those of the network that it is part of, see `initialise`, and then
    by `begin`.

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
        self.tokens, self.places = Table(NUM_TOKENS, width), Table(length, width)
        self.layers = nn.ModuleList(
            Layer(width, num_heads, num_layers=num_layers, quick=quick) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(width, eps=NORM_EPS)

    @torch.no_grad()
    def begin(self) -> None:
        """Scale what `initialise` has drawn of the tables to how they begin."""
        self.tokens.weight.mul_(_TOKEN_STD)
        self.places.weight.mul_(_PLACE_STD)

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
        for layer in self.layers:
            x = layer(x, allowed)
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
