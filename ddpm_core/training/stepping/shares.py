"""Which rank holds what, where the ranks divide Adam's moments and the averages among them.

Every rank holds the weights and their whole gradient, and moves its share of the weights; then each
sends what it has moved. No number depends on how they are divided. What another rank holds is
here a tensor on the device `meta`: it has a name and a shape, and no numbers.

Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1 (P_os).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, distributed

from ddpm_core.training.stepping.parallel import Parallel

_BUCKET_BYTES = 32 * 2**20
"""how much is sent at once, unless one weight is larger"""


class Share:
    """This rank's share of some weights: whole tensors, so that the ranks hold about as much.

    Args:
        params: by name, the same on every rank.
        parallel: the ranks.
    """

    def __init__(self, params: Mapping[str, Tensor], parallel: Parallel) -> None:
        holders = divided({name: one.nbytes for name, one in params.items()}, parallel.world_size)
        self.names = frozenset(name for name, rank in holders.items() if rank == parallel.rank)
        """of the weights that this rank moves"""
        self._rank = parallel.rank
        self._buckets: list[tuple[int, list[Tensor]]] = []
        for rank in range(parallel.world_size):
            held = [params[name].detach() for name, holder in holders.items() if holder == rank]
            self._buckets += [(rank, bucket) for bucket in _buckets(held)]
        longest = max(sum(one.numel() for one in bucket) for _, bucket in self._buckets)
        self._flat = torch.empty(longest, device=parallel.device)

    @torch.no_grad()
    def spread(self) -> None:
        """Give every rank the weights as the ranks that hold them have moved them."""
        for rank, bucket in self._buckets:
            views, end = [], 0
            for one in bucket:
                views.append(self._flat.as_strided(one.shape, one.stride(), end))
                end += one.numel()
            if rank == self._rank:
                torch._foreach_copy_(views, bucket)
            distributed.broadcast(self._flat[:end], src=rank)
            if rank != self._rank:
                torch._foreach_copy_(bucket, views)


def divided(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Return the rank of each name: the largest first, each to the rank that has least so far."""
    loads, found = [0] * world_size, {}
    for name in sorted(sizes, key=lambda one: (-sizes[one], one)):
        found[name] = rank = loads.index(min(loads))
        loads[rank] += sizes[name]
    return found


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    made: list[list[Tensor]] = []
    room = 0
    for one in tensors:
        if one.nbytes > room:
            made.append([])
            room = max(_BUCKET_BYTES, one.nbytes)
        made[-1].append(one)
        room -= one.nbytes
    return made
