"""The interface of feature networks, trained or from outside."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Embed = Callable[[Tensor], Tensor]
"""uint8 images (n, c, h, w) -> a row of numbers for each"""


@dataclass(frozen=True)
class FeatureNetwork:
    """Two functions of images: their features, and the probabilities of their classes."""

    embed: Embed
    """features (n, d), for distances"""
    classify: Embed | None
    """probabilities of the classes (n, K), rows sum to 1; None if the network has no classes"""


@torch.inference_mode()
def extract(embed: Embed, images_u8: Tensor, *, batch_size: int, device: torch.device) -> Tensor:
    """Return the rows, float32 on the CPU, of uint8 images (n, c, h, w)."""
    parts = torch.split(images_u8, batch_size)
    return torch.cat([embed(part.to(device)).float().cpu() for part in parts])
