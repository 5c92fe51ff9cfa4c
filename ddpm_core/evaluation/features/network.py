"""The interface of feature networks, trained or from outside."""

from collections.abc import Callable, Collection, Mapping
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
    views: Callable[[Tensor], Mapping[str, Tensor]] | None = None
    """all that the network says of images at one call, `features`, `probabilities` and `spatial`
    (n, 2023); None: features and probabilities take a call each"""


def in_colour(images_u8: Tensor) -> Tensor:
    """Return uint8 images (n, 3, h, w); grey is repeated."""
    return images_u8.expand(-1, 3, -1, -1) if images_u8.shape[1] == 1 else images_u8


@torch.inference_mode()
def extract(embed: Embed, images_u8: Tensor, *, batch_size: int, device: torch.device) -> Tensor:
    """Return the rows, float32 on the CPU, of uint8 images (n, c, h, w)."""
    parts = torch.split(images_u8, batch_size)
    return torch.cat([embed(part.to(device)).float().cpu() for part in parts])


@torch.inference_mode()
def looked_at(
    network: FeatureNetwork,
    images_u8: Tensor,
    *,
    views: Collection[str],
    batch_size: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return what a network says of images, float32 on the CPU; of classes only if it has any.

    Args:
        network: on the device.
        images_u8: (n, c, h, w).
        views: which of `features`, `probabilities` and `spatial`.
        batch_size: images at once.
        device: where it computes.
    """
    if network.views is None:
        embeds = {"features": network.embed, "probabilities": network.classify}
        return {
            name: extract(embed, images_u8, batch_size=batch_size, device=device)
            for name, embed in embeds.items()
            if name in views and embed is not None
        }
    parts = [network.views(part.to(device)) for part in torch.split(images_u8, batch_size)]
    return {
        name: torch.cat([part[name].float().cpu() for part in parts])
        for name in parts[0]
        if name in views
    }
