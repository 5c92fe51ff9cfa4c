"""How much a run will write, from its configuration alone: known before torch is imported.

Estimates of bytes leave out what is small: manifests, curves, pictures.
"""

from dataclasses import dataclass

from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of, count_snapshots, powers_of

_PER_PARAMETER = 12
"""bytes of a checkpoint without averages: weights, Adam's two moments, float32 each"""
_PER_AVERAGE = 4
_PER_FILE = 2048
"""bytes around an image in a tar: two headers, the label, and what fills up blocks"""
_PER_CAPTIONS = 1024
"""bytes of the captions of an image in a tar: a header and a block"""

_PER_INDEXED = 8
"""bytes of an index for an image whose shard is used in place"""


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a run writes, about."""

    dataset: int | None
    """None: how many images there are is not known yet"""
    checkpoints: int
    snapshots: int
    """of averages, kept to make others of them; 0 for none"""
    samples: int


def disk_use(config: RunConfig, num_images: int | None) -> DiskUse:
    """Return what a run writes under its root, about.

    Args:
        config: of the run.
        num_images: of its data set, both splits; None if not known.
    """
    channels, height, width = config.data.shape
    per_image = channels * height * width * config.data.depth // 8 + _PER_FILE
    stored = _PER_INDEXED if config.data.in_place else per_image
    if config.data.has_captions and not config.data.in_place:
        stored += _PER_CAPTIONS
    kept = config.train.keep_checkpoints
    made = -(-config.train.num_steps // config.train.checkpoint_every)
    averages, powers = len(averages_of(config.train)), len(powers_of(config.train))
    per_snapshot = powers * _PER_AVERAGE * config.num_parameters
    return DiskUse(
        dataset=None if num_images is None else num_images * stored,
        checkpoints=min(kept, made)
        * (_PER_PARAMETER + averages * _PER_AVERAGE)
        * config.num_parameters,
        snapshots=count_snapshots(config.train) * per_snapshot,
        samples=config.sample.num_images * per_image,
    )


def size_text(num_bytes: int) -> str:
    """Return a number of bytes for people."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 1000 or unit == "PB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
