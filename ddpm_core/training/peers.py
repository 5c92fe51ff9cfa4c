"""What the ranks of a group agree on, over the CPU and beside the gradients."""

from datetime import timedelta

import torch
from torch import distributed

# A rank that stores a checkpoint may take long, and a rank that is lost breaks the connection:
# the short timeout of the gradients would only hurt here.
_TIMEOUT = timedelta(minutes=30)


class Peers:
    """All ranks of torch's process group; every method is called by all of them together."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._group = (
            distributed.new_group(backend="gloo", timeout=_TIMEOUT) if world_size > 1 else None
        )

    def from_rank_0(self, value: int) -> int:
        """Return rank 0's value, within 64 bits."""
        return self.gather(value)[0]

    def gather(self, value: int) -> list[int]:
        """Return the values of all ranks, each within 64 bits, in the order of the ranks."""
        if self._group is None:
            return [value]
        values = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        distributed.all_gather(values, torch.tensor([value]), group=self._group)
        return [int(one) for one in values]

    def wait(self) -> None:
        """Return once all ranks have come here."""
        self.gather(0)
