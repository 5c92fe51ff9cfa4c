"""Bits of a whole cascade: those of each low resolution given the one below it, by the chain rule.

    bits(x) <= bits(D(x)) + bits(x | D(x))

for each image x, where D(x) is its low resolution as a function of it: p_1(D(x)) p_2(x | D(x)) sums
to at most 1 over all x, and is one term of the sum that the probability of x under the cascade is.
It holds without noise on the low resolutions alone, which would make them no function of x.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.low_resolution import shrunk
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.inference.denoiser import load_denoiser
from ddpm_core.inference.levels import to_u8
from ddpm_core.inference.low_resolution import LowResolutions
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.runs import results
from ddpm_core.runs.lower import lower_of
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.store.storage import Store
from ddpm_core.units.ranges import Arrays


@dataclass(frozen=True)
class Below:
    """A stage below the one that is evaluated."""

    config: RunConfig
    denoiser: NetworkDenoiser


def has_chain(store: Store, config: RunConfig) -> bool:
    """Return whether a run ends a cascade whose bits are the sum of those of its stages.

    Not where low resolutions are noised, or a stage was never shown one without noise, or is given
    texts and this one, whose held-out images are measured, has none for it.
    """
    below = configs_below(store, config)
    reads = any(one.model.uses_text for one in below) and not config.model.uses_text
    is_shown = all(one.train.low_levels[0] == 0 for one in below)  # [0, 1] of a first stage
    return bool(below) and config.sample.low_level == 0 and is_shown and not reads


def configs_below(store: Store, config: RunConfig) -> list[RunConfig]:
    """Return the configurations of the stages below a run, the nearest first."""
    lower = lower_of(store, config)
    return [] if lower is None else [lower, *configs_below(store, lower)]


def stages_below(store: Store, config: RunConfig, device: torch.device) -> list[Below]:
    """Return the stages below a run with their weights, the nearest first.

    Raises:
        CheckpointError: weights are gone.
        ConfigError: one draws bits.
    """
    found = []
    for one in configs_below(store, config):
        weights = results.weights_of(store, one)
        if weights is None:
            raise CheckpointError(f"the weights of run {one.name!r} are gone; train it again")
        checkpoint, average = weights.checkpoint, weights.average
        denoiser = load_denoiser(store, one, checkpoint, device, average=average)
        if not isinstance(denoiser, NetworkDenoiser):
            raise ConfigError(f"run {one.name!r} draws bits")
        found.append(Below(one, denoiser))
    return found


def chain_part(
    stages: Sequence[Below],
    images: Tensor,
    positions: Tensor,
    *,
    given: Callable[[Below], Conditioning],
    bound: Callable[[NetworkDenoiser, Tensor, Tensor], Arrays],
) -> Arrays:
    """Return `bits`, (n, k) float64: bits/dim of each low resolution, the nearest first.

    Each is given the next one without noise, and the last is of nothing.

    Args:
        stages: k of them.
        images: (n, c, h, w) uint8 or uint16, of the stage above them all.
        positions: (n,) of the images in their split.
        given: called with a stage; returns labels and texts of the images as it takes them.
        bound: called with a denoiser, images as uint8 and positions; returns `likelihood_part`.
    """
    columns = []
    for stage in stages:
        data = stage.config.data
        small = shrunk(to_unit_range(images, positions.device), (data.height, data.width))
        images = to_u8(small).permute(0, 3, 1, 2)
        denoiser = stage.denoiser.given(given(stage))
        if stage.config.model.low_size is not None:
            make = LowResolutions(stage.config)
            no_noise = torch.zeros_like(small)
            denoiser = denoiser.enlarging(make.made_of(small, make.level(0.0, small), no_noise))
        found = bound(denoiser, images, positions)
        columns.append(found["prior"] + found["terms"].sum(dim=1))
    return {"bits": torch.stack(columns, dim=1)}


def chain_metric(
    bits: NDArray[np.float64],
    own: NDArray[np.float64],
    config: RunConfig,
    below: Sequence[RunConfig],
    weights: dict[str, Any],
) -> dict[str, Any]:
    """Return the bits/dim of held-out images under the whole cascade, and of each stage.

    Args:
        bits: (n, k), bits/dim of the low resolutions, the nearest first.
        own: (n,) bits/dim of the images given theirs.
        config: the run.
        below: the configurations of the k stages.
        weights: which weights these are.
    """
    sizes = [int(np.prod(one.data.shape)) for one in (config, *below)]
    each = np.concatenate([own[:, None], bits], axis=1)
    total, count = each @ np.array(sizes) / sizes[0], len(own)
    return {
        "value": float(total.mean()),
        "standard_error": float(total.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        "stages": [
            {"run": one.name, "dimensions": size, "bits_per_dim": float(column.mean())}
            for one, size, column in zip((config, *below), sizes, each.T, strict=True)
        ],
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "unit": "bits of all stages over the dimensions of the images",
            "chain_rule": "bits(x) <= bits(low) + bits(x | low): each low resolution a function of "
            "its image, means over areas of 8 bits, given without noise",
            "num_images": count,
            "seed": config.evaluate.seed,
        },
    }
