"""A transformer with its norms first: its block.

Source: Radford et al. 2021, arXiv:2103.00020, section 2.4 (norms first, as in GPT-2); its weights
begin as in its code, but uniform.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.errors import ConfigError
from ddpm_core.models.blocks import Linear
from ddpm_core.models.on_cpu import attend
from ddpm_core.models.recompute import Recomputable

NORM_EPS = 1e-5
MLP_RATIO = 4
"""hidden features of a block, in multiples of those of a token"""


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
