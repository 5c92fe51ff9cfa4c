"""Calls of a network with batches of one size, again and again: compiled and recorded for it."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from ddpm_core.conditioning import Conditioning, together
from ddpm_core.config import ComputeConfig
from ddpm_core.inference.compiling import compiled, said_of_compiling
from ddpm_core.inference.replay import Record, Replay, recorder

Call = Callable[[Tensor, Tensor, Conditioning], Tensor]
_Given = tuple[Tensor, Tensor, Conditioning]


class OfOneSize:
    """A call of (x, t, conditioning) that is fast for batches of some sizes, and never differs.

    These are the size of the first batch, and half and twice of it: guidance calls a network with
    each image once or twice. Others, such as a last batch, are computed by `plain`.

    Args:
        plain: the call.
        fused: the same, compiled; compiled anew for each size when it is first called.
        record: records calls; None: none are.
    """

    def __init__(self, plain: Call, fused: Call, record: Record[Tensor] | None) -> None:
        self._plain, self._fused, self._record = plain, fused, record
        self._size: int | None = None
        self._kept: dict[object, _Kept] = {}

    @classmethod
    def of(cls, plain: Call, device: torch.device, compute: ComputeConfig) -> "OfOneSize | None":
        """Return the call as `compute` says, or None where that is as it is.

        Raises:
            ConfigError: as of `compiled`.
        """
        record: Record[Tensor] | None = recorder(device, wanted=compute.cuda_graphs)
        if record is None and not compute.compile:
            return None
        threads = compute.cpus_per_worker
        fused = compiled(plain, num_threads=threads) if compute.compile else plain
        return cls(plain, fused, record)

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the output, a tensor of its own.

        Raises:
            ConfigError: it cannot be compiled or recorded.
        """
        given, size = (x, t, conditioning), len(x)
        self._size = size if self._size is None else self._size
        if 2 * size not in (self._size, 2 * self._size, 4 * self._size):
            return self._plain(*given)
        sizes: list[object] = []
        together(lambda one: _noted(one[0], sizes), [given])
        key = tuple(sizes)
        if key not in self._kept:
            kept = _Kept(self._fused, given, self._record)
            with nullcontext() if self._fused is self._plain else said_of_compiling():
                first = kept(given)
            self._kept[key] = kept
            return first
        return self._kept[key](given)


class _Kept:
    """Calls with tensors of the same shapes: those of each are copied to where the first lay."""

    def __init__(self, call: Call, given: _Given, record: Record[Tensor] | None) -> None:
        # Also if first called in inference mode: tensors made there cannot be overwritten later.
        with torch.inference_mode(mode=False), torch.no_grad():
            self._places: _Given = together(lambda one: one[0].clone(), [given])
        self._replay = Replay(lambda: call(*self._places), record)

    def __call__(self, given: _Given) -> Tensor:
        together(lambda one: one[0].copy_(one[1]), [self._places, given])
        return self._replay().clone()


def _noted(tensor: Tensor, sizes: list[object]) -> Tensor:
    sizes.append((tensor.shape, tensor.dtype))
    return tensor
