"""A CUDA graph on a CPU: repeats the operations of a recording on the addresses that it saw.

As on a GPU, numbers from Python are what they were, tensors are where they were, random numbers
come from the generator as it is at each repetition, recording leaves everything as it was, and
reading a value is an error. Otherwise than there, memory that nobody holds any more keeps its last
values: the same mistakes show, and none by chance.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Place:
    """Where a tensor lies, and how: it may be reshaped in place later."""

    def __init__(self, tensor: Tensor) -> None:
        self.storage, self._dtype = tensor.untyped_storage(), tensor.dtype
        self._how = tensor.storage_offset(), tensor.size(), tensor.stride()

    def tensor(self) -> Tensor:
        """Return a tensor there."""
        return torch.empty(0, dtype=self._dtype).set_(self.storage, *self._how)


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, list[Place]]] = []
        self._old: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        given = tree_map_only(Tensor, Place, (args, kwargs))
        for one in _tensors((args, kwargs)):
            if _address(one) not in self._made | self._old.keys():
                whole = torch.empty(0, dtype=torch.uint8).set_(one.untyped_storage())
                self._old[_address(one)] = whole, whole.clone()
        results = func(*args, **kwargs)
        made = list(_tensors(results))
        self._made |= {_address(one) for one in made} - self._old.keys()
        self.operations.append((func, given, [Place(one) for one in made]))
        return results

    def undo(self) -> None:
        """Give what was there before the recording the values that it had."""
        for whole, before in self._old.values():
            whole.copy_(before)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (one for one in tree_leaves(tree) if isinstance(one, Tensor))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def record_double(work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Record a call of work; as `ddpm_core.inference.replay.record_graph`."""
    generator, recording = torch.get_rng_state(), _Recording()
    with recording:
        result = work()
    recording.undo()
    torch.set_rng_state(generator)

    @torch.inference_mode()
    def repeat() -> None:
        for func, given, made in recording.operations:
            args, kwargs = tree_map_only(Place, Place.tensor, given)
            for place, value in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                if place.storage._cdata != _address(value):  # no view, and not in place
                    place.tensor().copy_(value)

    return repeat, result
