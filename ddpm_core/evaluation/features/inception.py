"""The Inception of 2015 as a feature network: FID, KID, inception score and sFID as published."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError
from ddpm_core.evaluation.features.network import FeatureNetwork, in_colour
from ddpm_core.models.inception import Inception

RULE: Mapping[str, Any] = {
    "network": "Inception v3 of 2015-12-05, 1008 classes",
    "resize": "bilinear to 299x299 as TensorFlow 1: no half pixels, no antialiasing, not rounded",
    "levels": "(v - 128) / 128 of 0...255",
    "features": "the last pooling (pool_3)",
    "probabilities": "softmax of the logits without bias",
    "spatial": "the first 7 channels of mixed_6/conv at 17x17 places",
}
"""what a protocol says of the network, and of how images reach it"""


def network_of(weights: Mapping[str, Tensor], device: torch.device) -> FeatureNetwork:
    """Return the network of the published weights.

    Raises:
        ConfigError: they are not those of this network.
    """
    with torch.device("meta"):
        network = Inception()
    try:
        network.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        said = str(error).partition("\n")[2].strip()[:200]
        raise ConfigError(f"these are no weights of the Inception of 2015: {said}") from None
    network = network.float().to(device).requires_grad_(False).eval()

    def views(images_u8: Tensor) -> dict[str, Tensor]:
        taps = network(in_colour(images_u8))
        return {
            "features": taps.pooled,
            "probabilities": taps.logits_unbiased.softmax(dim=1),
            "spatial": taps.spatial,
        }

    return FeatureNetwork(
        lambda images_u8: views(images_u8)["features"],
        lambda images_u8: views(images_u8)["probabilities"],
        views,
    )
