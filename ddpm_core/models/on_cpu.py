"""Layers of the networks where torch has a slow kernel on a CPU: the same functions by other ones.

What is gained was measured on two cores without matrix units (docs/cpu.md).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_FEW = 16
"""Channels of a group below which torch's bfloat16 kernels for channels last go one by one."""
_MOST_TOKENS = 1024
"""Above, the matrix of all pairs is larger than what a product by blocks costs more."""
_PARTS = 2**16


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`; on a CPU in bfloat16, groups of few channels are normalised in float32.

    Both compute in float32 and round once. Forward and backward, 8 images of 128 channels and
    32x32 pixels in 32 groups take 1.7 ms instead of 6.6.
    """

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        few = self.num_channels < _FEW * self.num_groups and self.weight.dtype == torch.float32
        if few and x.device.type == "cpu" and x.dtype == torch.bfloat16:
            return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


class Dropout(nn.Dropout):
    """`nn.Dropout`; on a CPU its masks are drawn four to a number of 64 bits.

    They are drawn from torch's default generator as there. p is rounded to a multiple of 2**-16,
    and what stays is scaled by just its reciprocal; where that would be none or all, torch draws.
    A mask takes 0.4 of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * _PARTS)
        # The compiler has no numbers in place, and fuses what torch draws itself.
        ours = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if not self.training or not 0 < dropped < _PARTS or not ours:
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        drawn = words.view(torch.int16)[: x.numel()]
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            drawn = drawn.as_strided(x.shape, x.stride())  # as x lies: else what follows is slow
        else:
            drawn = drawn.view(x.shape)
        kept = (drawn >= dropped - _PARTS // 2).to(x.dtype)
        return x * kept.mul_(_PARTS / (_PARTS - dropped))


def attend(
    query: Float[Tensor, "*b n c"], key: Float[Tensor, "*b m c"], value: Float[Tensor, "*b m c"]
) -> Float[Tensor, "*b n c"]:
    """Return softmax(query key^T / sqrt(c)) value.

    On a CPU in bfloat16 by two products of matrices, as long as there are not many tokens: forward
    and backward, 8 images of 256 tokens and channels take 5.6 ms, and torch's own way 18.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    tokens, channels = query.shape[-2:]
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or tokens > _MOST_TOKENS:
        return F.scaled_dot_product_attention(query, key, value)
    scores = (query / math.sqrt(channels)) @ key.transpose(-1, -2)
    return scores.softmax(-1) @ value
