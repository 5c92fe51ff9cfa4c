"""How much memory a step of a training takes, and how much it computes: counted, nothing is run.

The network is called on tensors without values (FakeTensorMode): every tensor that forward and
backward make is counted as it comes and goes, so that the peak is the true one to the byte, but for
what libraries take inside one operation. The tensors of a GPU are counted as those of a CPU, with
norms of the types that they have there. What compiled and recorded code takes is not known.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ddpm_core import machine
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.model.bumps import BumpsConfig
from ddpm_core.config.needs import Needs, lack_text
from ddpm_core.inference.build import arithmetic_of
from ddpm_core.inference.networks import build_network
from ddpm_core.models.blocks import Norm
from ddpm_core.models.recompute import recompute_activations

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
    """Return what each of `world_size` workers takes on `device`: that of rank 0, the most.

    Source of the parts: Rajbhandari et al. 2020, arXiv:1910.02054, section 3; Adam has two moments.
    """
    images = config.train.global_batch_size // world_size
    at_once = min(config.compute.micro_batch_size or images, images)
    counted = count(config, device, images=at_once, adds_up=at_once < images)
    weights = _WEIGHT * config.num_parameters
    divided = (2 + len(averages_of(config.train))) * weights
    if config.compute.divide_state:
        divided = -(-divided // world_size)
    # As `Parallel`: in a vector of all, and else piece by piece, or as the pass makes it.
    has_vector = world_size > 1 or device.type != "cpu"
    step = counted.peak + (weights if has_vector or at_once < images else 0)
    scratch = round(_WITHIN[device.type] * counted.peak)
    state = weights + divided
    # As `HostCopy`, which a card's memory has nothing of, and `Preview`.
    previewed = 0 if config.train.preview_every is None else weights
    return Needs(
        state=state,
        copies=(state if device.type == "cpu" else 0) + previewed,
        gradient=weights,
        step=max(step, weights) + scratch,
        scratch=scratch,
        process=_PROCESS[device.type],
        images=images,
        at_once=at_once,
        flops=counted.flops // at_once,
    )


def lack(
    config: RunConfig, device: torch.device, found: Needs, *, world_size: int, room: int | None
) -> str | None:
    """Return what to do where `found` is more than there is room for; None: it is not."""

    def recomputed() -> Needs:
        compute = config.compute
        if isinstance(config.model, BumpsConfig) or compute.compile or compute.cuda_graphs:
            return found  # no blocks, or none that may be computed again
        changes = {"compute.checkpoint_activations": True}
        return needs(config.replaced(changes), device, world_size=world_size)

    return lack_text(
        found,
        room,
        recomputed=recomputed,
        is_card=device.type == "cuda",
        in_pieces=config.role != "clip",
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
    dtype = arithmetic_of(config.train.precision, device)
    with ExitStack() as modes:
        modes.enter_context(FakeTensorMode())
        network = build_network(config).train()
        if config.compute.checkpoint_activations:
            recompute_activations(network)
        if device.type == "cuda":
            for one in network.modules():
                if isinstance(one, Norm):
                    one.forward = one.kept_short  # type: ignore[method-assign]
        params = list(network.parameters())
        for param in params:
            param.grad = torch.zeros_like(param) if adds_up else None
        there = [*params, *(param.grad for param in params if param.grad is not None)]
        alive = modes.enter_context(_Alive(there))
        x_t = torch.zeros(images, *config.data.shape).contiguous(memory_format=torch.channels_last)
        times = torch.zeros(images, dtype=torch.int64)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = network(x_t, times, network.null.repeated(images))
        loss = output.square().mean()
        kept = alive.now
        loss.backward()
    return Counted(kept, alive.peak, alive.flops)


def available(device: torch.device) -> int | None:
    """Return the bytes that a training may take of a device: what is free on a card and what this
    process has of it, or the memory of this machine; None: not known.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return machine.memory_bytes()


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the bytes of all tensors that are made within the block, until they are gone.

    And the operations: torch's own counter of them keeps tensors that are computed again.

    Args:
        there: tensors that are not counted, and seen where something is a view of them.
    """

    def __init__(self, there: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.now, self.peak, self.flops = 0, 0, 0
        self._sizes = {one.untyped_storage()._cdata: 0 for one in there}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - of any operation
        made = func(*args, **(kwargs or {}))
        formula = flop_registry.get(getattr(func, "overloadpacket", None))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
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
