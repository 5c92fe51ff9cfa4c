"""From what samplers return to the levels that images are stored in."""

import torch
from torch import Tensor


def to_u8(x_0: Tensor) -> Tensor:
    """Round images (b, c, h, w) in [-1, 1] to the nearest of 256 levels, as (b, h, w, c) uint8.

    The inverse of x_0 = u8 / 127.5 - 1; what lies outside [-1, 1] becomes 0 or 255.
    """
    return to_levels(x_0, 256)


def to_levels(x_0: Tensor, num_levels: int) -> Tensor:
    """Round images as `to_u8` to the nearest of 256 levels, or of 65536: then as uint16."""
    half = (num_levels - 1) / 2
    levels = ((x_0.float() + 1) * half).round().clamp(0, num_levels - 1)
    dtype = torch.uint8 if num_levels == 256 else torch.uint16
    return levels.to(dtype).permute(0, 2, 3, 1).contiguous()
