"""How the ranks of a training work together: the only file that knows whether there are others.

Gradients are averaged over the ranks in one sum of one vector, of whatever modules they are: there
is no wrapper around a network, and so nothing that its layout or the first pass could change. What
the ranks agree on goes over the CPU, beside the gradients.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ddpm_core.cluster import Place

# A rank that stores a checkpoint may take long, and a rank that is lost breaks the connection:
# the short timeout of the gradients would only hurt here.
_TIMEOUT = timedelta(minutes=30)


class _Gathered(torch.autograd.Function):
    """The rows of all ranks; backward, the sum of what all ranks say of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rank: int, world_size: int) -> Tensor:  # noqa: ANN401
        ctx.rows = slice(rank * len(own), (rank + 1) * len(own))
        found = [
            torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(world_size)
        ]
        distributed.all_gather(found, own.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        whole = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(whole)
        return whole[ctx.rows], None, None


class Parallel:
    """This rank among those of torch's process group, or alone.

    Every method but `rows`, `writes`, `send` and `receive` is called by all ranks together, in one
    order; so another thread needs `another`.

    Args:
        place: this rank; the process group must exist if there are several.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.rank, self.world_size, self.device = place.rank, place.world_size, place.device
        self._group = (
            distributed.new_group(backend="gloo", timeout=_TIMEOUT) if self.world_size > 1 else None
        )
        # To a CPU that trains alone, the vector would be a pass over memory for nothing.
        self._is_flat = self.world_size > 1 or self.device.type != "cpu"
        self._gradients: dict[tuple[nn.Parameter, ...], tuple[Tensor, list[Tensor]]] = {}

    def another(self) -> "Parallel":
        """Return this rank once more, with connections of its own, for another thread."""
        return Parallel(self._place)

    # -- the work ----------------------------------------------------------------------------

    def rows(self, global_batch_size: int) -> Tensor:
        """Return the positions of this rank's slice in the global batch, (b,) int64."""
        size = global_batch_size // self.world_size
        return torch.arange(self.rank * size, (self.rank + 1) * size, device=self.device)

    def backward(self, loss: Tensor, params: Sequence[nn.Parameter]) -> None:
        """Give `params`, and nothing else, the gradient of the mean of `loss` over the ranks.

        Args:
            loss: the mean over this rank's slice; the slices are equal.
            params: leaves, the same at every step; where the loss does not reach, it is 0.
        """
        self.differentiate(loss, params)
        self.average(params)

    def differentiate(
        self, loss: Tensor, params: Sequence[nn.Parameter], *, added: bool = False
    ) -> None:
        """Compute the gradient of this rank's loss, the first part of `backward`.

        It computes on tensors that stay where they are, and so can be recorded.

        Args:
            loss: of this rank.
            params: as of `backward`.
            added: to the gradient that is there, since the last `average`, instead of in its place.
        """
        params = tuple(params)
        if not self._is_flat:
            if not added:
                for param in params:
                    param.grad = None  # of this loss alone
            torch.autograd.backward(loss, inputs=params)
            return
        found = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        views = self._vector(params)[1]
        if added:
            torch._foreach_add_(views, found)
        else:
            torch._foreach_copy_(views, found)

    def average(self, params: Sequence[nn.Parameter]) -> None:
        """Give `params` the mean over the ranks of what they computed, the rest of `backward`."""
        params = tuple(params)
        if not self._is_flat:
            for param in params:
                if param.grad is None:
                    param.grad = torch.zeros_like(param)
            return
        flat, views = self._vector(params)
        if self.world_size > 1:
            flat /= self.world_size
            distributed.all_reduce(flat)
        for param, view in zip(params, views, strict=True):
            param.grad = view

    def gathered(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks, in the order of the ranks; their gradient finds its way.

        What each rank computes from all of them differentiates this rank's rows too.

        Args:
            own: (b, ...) of the same shape on all ranks.
        """
        if self.world_size == 1:
            return own
        everyone: Tensor = _Gathered.apply(own, self.rank, self.world_size)  # type: ignore[no-untyped-call]  # torch's
        return everyone

    def add_up(self, sums: Tensor) -> None:
        """Replace `sums` on every rank by their sum over the ranks."""
        if self.world_size > 1:
            distributed.all_reduce(sums)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` on every rank by those of rank 0, in their order."""
        if self.world_size == 1:
            return
        for tensor in tensors:
            whole = tensor.contiguous()  # in channels_last, it would have to lie alike on all
            distributed.broadcast(whole, src=0)
            tensor.copy_(whole)

    def _vector(self, params: tuple[nn.Parameter, ...]) -> tuple[Tensor, list[Tensor]]:
        """Return one vector for all gradients, and each as a view that lies like its weight."""
        if params not in self._gradients:
            # Each begins at a multiple of 16 bytes, of which a GPU reads that many at once.
            sizes = [-(-param.numel() // 4) * 4 for param in params]
            flat = torch.zeros(sum(sizes), device=self.device)
            views = [
                flat.as_strided(param.size(), param.stride(), end - size)
                for param, size, end in zip(params, sizes, accumulate(sizes), strict=True)
            ]
            self._gradients[params] = flat, views
        return self._gradients[params]

    # -- agreement ---------------------------------------------------------------------------

    def writes(self, role: str) -> bool:  # noqa: ARG002 - of parts that only some ranks hold
        """Say whether this rank writes that part of a checkpoint; here rank 0 holds all."""
        return self.rank == 0

    def from_rank_0(self, value: int) -> int:
        """Return rank 0's value, within 64 bits."""
        return self.gather(value)[0]

    def gather(self, value: int) -> list[int]:
        """Return the values of all ranks, each within 64 bits, in the order of the ranks."""
        return [int(one) for one in self._gathered(torch.tensor([value]))]

    def gather_text(self, text: str) -> list[str]:
        """Return the texts of all ranks, in the order of the ranks."""
        data = text.encode()
        sizes = self.gather(len(data))
        padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8)
        padded[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        gathered = zip(self._gathered(padded), sizes, strict=True)
        return [bytes(one[:size].tolist()).decode() for one, size in gathered]

    def send(self, tensor: Tensor, rank: int) -> None:
        """Send a tensor of the CPU, row-major, to a rank that calls `receive`."""
        distributed.send(tensor, rank, group=self._group)

    def receive(self, into: Tensor, rank: int) -> None:
        """Overwrite a tensor of the CPU by the one that a rank sends."""
        distributed.recv(into, rank, group=self._group)

    def wait(self) -> None:
        """Return once all ranks have come here."""
        self.gather(0)

    def _gathered(self, own: Tensor) -> list[Tensor]:
        if self._group is None:
            return [own]
        found = [torch.zeros_like(own) for _ in range(self.world_size)]
        distributed.all_gather(found, own, group=self._group)
        return found
