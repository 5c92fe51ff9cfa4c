"""How much memory a training step needs, counted without computing it: on tensors without data."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.inference.build import (
    arithmetic_of,
    build_network,
    layout_of,
)
from ddpm_core.models.recompute import recompute_activations
from ddpm_core.training.parallel import Parallel

_FLOAT32 = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes of tensors on one device.

    What torch and the driver need beside them is not counted: the program itself (0.3 to 0.5 GB of
    a GPU), scratch memory of convolutions, and gaps between tensors. Attention counts as if all its
    products were kept, which fused kernels do not.
    """

    state: int
    """at all times: weights, Adam's moments, averages of the weights"""
    step: int
    """beside them, at most: gradient, activations, and the numbers drawn for the images"""

    @property
    def total(self) -> int:
        return self.state + self.step


def footprint(config: RunConfig, device: torch.device) -> Footprint:
    """Return the memory that each worker of a training needs; it takes a few seconds.

    Args:
        config: of the run; of `compute` it matters how many workers share a batch, and what saves
            memory. What compiled and recorded code needs is not known: see `compute.cuda_graphs`.
        device: of one worker.
    """
    share = config.train.global_batch_size // config.compute.num_workers
    size = min(config.compute.micro_batch_size or share, share)
    number = config.num_parameters * _FLOAT32
    drawn = share * config.data.channels * config.data.height * config.data.width * _FLOAT32
    # The gradient of several CPUs lies in one vector beside that of each weight.
    vector = number if config.compute.num_workers > 1 and device.type == "cpu" else 0
    held = (3 + len(averages_of(config.train))) * number
    return Footprint(
        held, _differentiated(config, device, size, last=size < share) + drawn + vector
    )


def _differentiated(config: RunConfig, device: torch.device, size: int, *, last: bool) -> int:
    """Return the largest number of bytes alive while a gradient is computed, beside the weights.

    Args:
        config: of the run.
        device: where.
        size: images that the network is shown at once.
        last: whether the gradient of images before these is there already.
    """
    dtype = arithmetic_of(config.train.precision, device)
    with FakeTensorMode(allow_non_fake_inputs=True), device:
        network = build_network(config).train()
        if config.compute.checkpoint_activations:
            recompute_activations(network)
        params = list(network.parameters())
        parallel = Parallel(cluster.Place(rank=0, world_size=1, device=device))
        t = torch.zeros(size, dtype=torch.int64, device=device)
        given = network.null.to(device).repeated(size)
        with _LiveBytes(params) as live:
            for number in range(1 + last):
                x_t = torch.zeros(size, *config.data.shape, device=device)
                x_t = x_t.contiguous(memory_format=layout_of(device, compiled=False))
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    output = network(x_t, t, given)
                # Of images, which have few channels: any loss is as large.
                loss = output.float().square().sum()
                parallel.differentiate(loss, params, added=number > 0)
    most: int = live.most
    return most


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the bytes of tensors made within it.

    Args:
        others: tensors that are not counted.
    """

    def __init__(self, others: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._now = 0
        self.most = 0
        self._seen = weakref.WeakSet(one.untyped_storage() for one in others)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._count(one.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self._now -= size
