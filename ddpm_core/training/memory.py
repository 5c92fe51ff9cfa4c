"""How much memory a step of a training takes, and how much it computes: counted, nothing is run.

The network is called on tensors without values (FakeTensorMode): every tensor that forward and
backward make is counted as it comes and goes, so that the peak is the true one to the byte, but for
what libraries take inside one operation.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ddpm_core import machine
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.needs import Needs
from ddpm_core.inference.build import build_network, uses_bfloat16

_WEIGHT = 4
"""bytes: weights, gradient, moments and averages are float32"""
_PROCESS = {"cpu": 640 * 2**20, "cuda": 700 * 2**20}
"""a process that trains, without its tensors; of a GPU: its context, on the card"""
_WITHIN = {"cpu": 0.3, "cuda": 0.1}
"""share of a step's tensors that comes on top: scratch of convolutions, gaps between blocks"""


class Counted(NamedTuple):
    """What forward and backward of some images take."""

    kept: int
    """bytes that are there between forward and backward"""
    peak: int
    """bytes at once, at most; the gradient in it, as far as it is there by then"""
    flops: int


def needs(config: RunConfig, device: torch.device, *, world_size: int) -> Needs:
    """Return what each of `world_size` workers takes on `device`.

    Source of the parts: Rajbhandari et al. 2020, arXiv:1910.02054, section 3; Adam has two moments.
    """
    images = config.train.global_batch_size // world_size
    adds_up = world_size > 1
    counted = count(config, device, images=images, adds_up=adds_up)
    weights = _WEIGHT * config.num_parameters
    step = counted.peak + weights if adds_up else max(counted.peak, weights)
    return Needs(
        state=weights * (3 + len(averages_of(config.train))),
        step=step + round(_WITHIN[device.type] * counted.peak),
        process=_PROCESS[device.type],
        images=images,
        flops=counted.flops // images,
    )


def count(
    config: RunConfig, device: torch.device, *, images: int, adds_up: bool = False
) -> Counted:
    """Return what forward and backward of the network take for this many images at once.

    Args:
        config: of the run.
        device: on which it would be; need not be there.
        images: of one pass.
        adds_up: whether the gradient is there already, and the pass adds to it; then it is not
            counted.
    """
    bfloat16 = uses_bfloat16(config.train.precision, device)
    with FakeTensorMode(), torch.device(device):
        network = build_network(config).train()
        for param in network.parameters():
            param.grad = torch.zeros_like(param) if adds_up else None
        with FlopCounterMode(display=False) as flops, _Alive() as alive:
            x_t = torch.zeros(images, *config.data.shape)
            if device.type == "cpu":  # as `Denoising` lays them out
                x_t = x_t.contiguous(memory_format=torch.channels_last)
            times = torch.zeros(images, dtype=torch.int64)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                output = network(x_t, times, network.null.repeated(images))
            loss = output.square().mean()
            kept = alive.now
            loss.backward()
    return Counted(kept, alive.peak, flops.get_total_flops())


def available(device: torch.device) -> int | None:
    """Return the bytes that a training may take of a device: what is free on a card and what this
    process has of it, or the memory of this machine; None: not known.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return machine.memory_bytes()


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within the block, until they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - of any operation
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                self._add(one.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
