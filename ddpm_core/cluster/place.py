"""Where a worker of a group stands."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Place:
    """Where a worker of a group stands: 0 <= rank < world_size, and the device it computes on."""

    rank: int
    world_size: int
    device: "torch.device"


def place() -> Place:
    """Return where this worker of `train_group` stands."""
    # A second and a half, which a process that trains nothing does without.
    import ray.train
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    return Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=torch.device(ray.train.torch.get_device()),
    )
