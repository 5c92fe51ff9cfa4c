"""Sizes and scales of the recipe `images`: two dials, from which network and training follow.

The networks are the U-Net of DDPM at the shapes that papers have trained at each size: M is DDPM's
own at 32 and 256 pixels, L has the width and depth of ADM's at 64, 128 and 256, without its heads,
its scaled norms and its residual up- and down-sampling, which our U-Net has not; S has half of M's
channels. Rules and sources are in docs/sizes.md.

Sources: Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal and Nichol 2021, arXiv:2105.05233,
appendix I, table 11; Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.2; Hoogeboom et al.
2023, arXiv:2301.11093, section 3.1; Karras et al. 2022, arXiv:2206.00364, table 7.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ddpm_core.errors import ConfigError

Size = Literal[32, 64, 128, 256]
"""pixels on a side"""
Scale = Literal["S", "M", "L"]
"""of the network and its training: small, the size of DDPM's networks, the size of ADM's"""
SIZES: tuple[Size, ...] = get_args(Size)
SCALES: tuple[Scale, ...] = get_args(Scale)
OF_RECIPE = "images"
"""the recipe that takes them"""

_OF_KINDS = ("unet", "classifier")
"""the networks that have the keys which follow"""
_FIRST: tuple[Size, Scale] = (64, "S")
"""what one of the two is where only the other is given"""
_MULTS: Mapping[int, list[int]] = {
    32: [1, 2, 2, 2],
    64: [1, 2, 3, 4],
    128: [1, 1, 2, 3, 4],
    256: [1, 1, 2, 2, 4, 4],
}
_IMAGES: Mapping[Scale, int] = {"S": 12_800_000, "M": 32_000_000, "L": 64_000_000}
"""that the network is shown; M: as many as DDPM's of CelebA-HQ, 500,000 batches of 64"""
_FASTEST = 2e-4
"""learning rate above which nobody trained such a network without a sweep"""
_DRAWN_AT_ONCE: Mapping[int, int] = {32: 32, 64: 32, 128: 16, 256: 8}
_PER_SHARD: Mapping[int, int] = {32: 5000, 64: 5000, 128: 2000, 256: 1000}


def dialled(
    target: str, *, size: int | None, scale: str | None, changes: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return changes of a recipe with those that follow from the dials; what is given wins.

    Args:
        target: what the command line or the form names; only the recipe `images` takes dials.
        size: pixels on a side of an image; None: not given.
        scale: of network and training; None: not given.
        changes: `{"section.key": value}` that the user gives.

    Raises:
        ConfigError: `target` takes no dials, there is no such size or scale, or the network is
            given as one of another kind.
    """
    if size is None and scale is None:
        return dict(changes or {})
    dials = " ".join(
        f"--{key} {value}" for key, value in (("size", size), ("scale", scale)) if value is not None
    )
    if target != OF_RECIPE:
        raise ConfigError(
            f"{dials} is of the recipe {OF_RECIPE} alone, not of {target!r}: a run keeps what it "
            "was begun with; leave it out, or set single keys with --set"
        )
    size, scale = size or _FIRST[0], scale or _FIRST[1]
    if size not in SIZES or scale not in SCALES:
        raise ConfigError(
            f"{dials}: there are sizes {', '.join(map(str, SIZES))} and scales "
            f"{', '.join(SCALES)}; give one of each"
        )
    given = dict(changes or {})
    words = set(given) | {
        f"{section}.{key}"
        for section, one in given.items()
        if isinstance(one, Mapping)
        for key in one
    }
    if (kind := _kind(given, "model", "unet")) not in _OF_KINDS:
        raise ConfigError(
            f"{dials} is of a U-Net, and model.kind={kind} is given; leave one of them out (of the "
            "images alone the size is --set data.height and data.width)"
        )
    if _kind(given, "diffusion", "chain") != "chain":
        words.add("diffusion.beta_schedule")  # of chains alone
    if "data.sets" in words:  # how images lie in shards is that data set's; the size is to be its
        words |= {"data.images_per_shard", "data.encoding"}
    return {key: one for key, one in sized(size, scale).items() if key not in words} | given


def _kind(given: Mapping[str, Any], section: str, first: str) -> object:
    whole = given.get(section)
    own = whole.get("kind", first) if isinstance(whole, Mapping) else first
    return given.get(f"{section}.kind", own)


def sized(size: Size, scale: Scale) -> dict[str, Any]:
    """Return the changes that make the recipe `images` one of this size and scale."""
    is_large, is_wide = size >= 128, scale == "L"
    channels = {"S": 64, "M": 128, "L": 256 if is_large else 192}[scale]
    batch = 64 if is_large else 128
    num_steps, at_once = _IMAGES[scale] // batch, _DRAWN_AT_ONCE[size]
    return {
        "data.height": size,
        "data.width": size,
        "data.images_per_shard": _PER_SHARD[size],
        "data.encoding": "original" if is_large else "png",
        "model.base_channels": channels,
        "model.channel_mults": _MULTS[size],
        "model.num_res_blocks": 3 if is_wide and not is_large else 2,
        "model.attention_resolutions": [one for one in (32, 16, 8) if one < size]
        if is_wide
        else [16],
        "model.dropout": 0.0 if is_large else 0.1,
        "model.num_groups": 32,
        "diffusion.num_timesteps": 1000,
        "diffusion.beta_schedule": "linear" if is_large else "cosine",
        "train.num_steps": num_steps,
        "train.global_batch_size": batch,
        "train.learning_rate": rate(channels, batch),
        "train.warmup_steps": 5000,
        "train.ema_decay": 0.9999,
        "train.ema_warmup": True,
        "train.log_every": 100,
        "train.checkpoint_every": 5000,
        "sample.sampler": "ddim",
        "sample.num_steps": 100,
        "sample.unit_size": at_once,
        "sample.batch_size": at_once,
        "evaluate.batch_size": at_once,
        "study.batch_size": at_once,
        "study.ablation_steps": num_steps // 10,
        "compute.num_workers": 1,
        "compute.cpus_per_worker": 2,
    }


def rate(channels: int, batch: int) -> float:
    """Return Adam's step size: 1e-4 for 256 channels and batches of 256, as ADM's.

    It falls with the width and grows with the square root of the batch, by which the noise of the
    gradient falls: within a factor of 1.5 of the published ones, but for DDPM's at 256 pixels and
    EDM's in batches of 4096, which are a fifth of it.
    """
    exact = min(_FASTEST, 1e-4 * (256 / channels) * math.sqrt(batch / 256))
    return float(f"{exact:.2g}")
