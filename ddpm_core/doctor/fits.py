"""Which size and scale of the recipe `images` the memory of this machine can train."""

import torch

from ddpm_core.config import RunConfig
from ddpm_core.config.needs import Needs, gib
from ddpm_core.doctor.finding import Finding, look, ok
from ddpm_core.recipes import recipe
from ddpm_core.recipes.sizes import SCALES, SIZES, Scale, Size, sized
from ddpm_core.training.memory import available, needs

_NAME = "training"


def examined() -> Finding:
    """Return the largest that fits with one image at a time, or why none does."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    room = available(device)
    if room is None:
        return ok(_NAME, "how large a network fits is not known: this system says no memory")
    largest = sorted(
        ((size, scale) for size in SIZES for scale in SCALES),
        key=lambda dials: _config_of(*dials).num_parameters * dials[0],
        reverse=True,
    )
    for size, scale in largest:
        found = _needs_of(size, scale, device)
        if found.total <= room:
            return ok(
                _NAME,
                f"the memory holds images --size {size} --scale {scale}, one image at a time "
                f"({gib(found.total)} of {gib(room)}); --dry-run measures how fast",
            )
    remedy = "Train recipes of small images, such as digits, or on a machine with more"
    return look(_NAME, f"{gib(room)} are less than images --size 32 --scale S needs", remedy)


def _config_of(size: Size, scale: Scale) -> RunConfig:
    changes = {**sized(size, scale), "compute.micro_batch_size": 1}
    return recipe("images").replaced(changes)


def _needs_of(size: Size, scale: Scale, device: torch.device) -> Needs:
    return needs(_config_of(size, scale), device, world_size=1)
