"""Tensors that rank 0 writes and other ranks hold: which they are, and their numbers on request."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ddpm_core.training.stepping.parallel import Parallel

Parts = Mapping[str, Mapping[str, Tensor]]
_END = -1


def absent(parts: Parts, parallel: Parallel) -> list[set[tuple[str, str]]]:
    """Return the role and name of each tensor that a rank does not hold, rank by rank.

    All ranks call it together.
    """
    own = [(role, name) for role, part in parts.items() for name in part if part[name].is_meta]
    texts = parallel.gather_text(json.dumps(own))
    return [{(role, name) for role, name in json.loads(text)} for text in texts]


class Elsewhere:
    """What rank 0 lacks, and which rank sends it.

    Args:
        parts: all tensors by name, by role, of this rank; absent ones are on the device `meta`.
        parallel: the ranks, which make this together; for the thread that uses it.
    """

    def __init__(self, parts: Parts, parallel: Parallel) -> None:
        self._parallel = parallel
        lacking = absent(parts, parallel)
        self._keys = sorted(lacking[0])
        self._holders = [
            next(rank for rank, lacks in enumerate(lacking) if key not in lacks)
            for key in self._keys
        ]
        self._parts = {(role, name): parts[role][name] for role, name in self._keys}

    @property
    def sent(self) -> list[tuple[str, str]]:
        """Role and name of each tensor that this rank sends."""
        holders = zip(self._keys, self._holders, strict=True)
        return [key for key, holder in holders if holder == self._parallel.rank]

    def fetch(self, role: str, name: str) -> Tensor:
        """Return the numbers of a tensor, row-major, on rank 0; its holder is in `serve`."""
        number = self._keys.index((role, name))
        like = self._parts[role, name]
        found = torch.empty(like.shape, dtype=like.dtype)
        self._parallel.send(torch.tensor([number]), self._holders[number])
        self._parallel.receive(found, self._holders[number])
        return found

    def serve(self, parts: Parts) -> None:
        """Send what rank 0 fetches, of these tensors, until it calls `end`; for the others."""
        number = torch.tensor([_END])
        while self._keys:
            self._parallel.receive(number, 0)
            if number == _END:
                return
            role, name = self._keys[int(number)]
            self._parallel.send(parts[role][name].contiguous(), 0)

    def end(self) -> None:
        """Let the others go on, on rank 0."""
        for rank in range(1, self._parallel.world_size) if self._keys else ():
            self._parallel.send(torch.tensor([_END]), rank)
