"""A copy of the state of a training in the memory of this host, taken while a step waits."""

import torch
from torch import Tensor

from ddpm_core.training.storing.checkpoint import Parts


class HostCopy:
    """Memory for one copy of the tensors of a training; the next is written over it.

    It is allocated once, on the host of a GPU in pages that stay where they are: what is copied
    there follows the steps that the device has yet to do, and the program goes on at once.

    Args:
        parts: tensors by name, by role, like those of every `take`. What lies in several parts, or
            has several names, is copied once.
    """

    def __init__(self, parts: Parts) -> None:
        made: dict[object, Tensor] = {}
        self.parts: dict[str, dict[str, Tensor]] = {}
        """the numbers as they were at the last `take`, once `wait` has returned"""
        for role, part in parts.items():
            copies = self.parts.setdefault(role, {})
            for name, one in part.items():
                place = (one.data_ptr(), one.shape, one.stride(), one.dtype)
                if place not in made:
                    # In the order of the original: to turn it around takes longer than to copy it.
                    made[place] = torch.empty_like(one, device="cpu", pin_memory=one.is_cuda)
                copies[name] = made[place]
        self._is_there: torch.cuda.Event | None = None

    @torch.no_grad()
    def take(self, parts: Parts) -> None:
        """Copy the numbers that the tensors have now, over those of before."""
        pairs = {
            id(copy): (copy, parts[role][name])
            for role, copies in self.parts.items()
            for name, copy in copies.items()
        }
        copies, originals = zip(*pairs.values(), strict=True)
        torch._foreach_copy_(copies, originals, non_blocking=True)
        if any(one.is_cuda for one in originals):
            self._is_there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._is_there.record()

    def wait(self) -> None:
        """Return once the copy is whole; for any thread."""
        if self._is_there is not None:
            self._is_there.synchronize()
