"""One optimiser step on one rank (Ho et al. 2020, algorithm 1): no files, no clock, no waiting.

Every number drawn is keyed by (seed, step, position in the global batch). A rank takes its slice
of the batch; how many ranks there are changes rounding, the dropout masks, and nothing else.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.process import q_sample
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.build import build_objective, build_unet, uses_bfloat16
from ddpm_core.loading.loader import flip, to_unit_range
from ddpm_core.models.ema import EMA

NUM_QUARTILES = 4
_ADAM_BETAS = (0.9, 0.999)
_ADAM_EPS = 1e-8


def learning_rate(step: int, maximum: float, warmup_steps: int) -> float:
    """Return the learning rate of the step after `step` completed ones.

    It grows linearly over the warm-up and stays; the very first step has 0.

    Source: Ho et al. 2020, appendix B; where it starts: the original's utils.py.
    """
    return maximum * min(step / warmup_steps, 1.0) if warmup_steps else maximum


class Learner:
    """The network, its optimiser and its moving average, as one rank of a group holds them.

    The weights are the same on all ranks at all times: the same at the beginning, and moved by
    the same averaged gradient.

    Args:
        config: the run.
        rank: 0 ... world_size - 1.
        world_size: ranks of torch's process group, which must exist if there are several.
        device: where to compute.
    """

    def __init__(
        self, config: RunConfig, *, rank: int, world_size: int, device: torch.device
    ) -> None:
        self._train, self._rank, self._device = config.train, rank, device
        self._world_size, self._has_dropout = world_size, config.model.dropout > 0
        self._objective = build_objective(config)
        self._schedule = self._objective.schedule
        self._bfloat16 = uses_bfloat16(config.train.precision, device)
        self.unet = build_unet(config).train().to(device)
        # On a GPU, whose norms want channels first, it costs: a step in bfloat16 takes 1.2 times.
        self._layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        self.unet.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's stub
        self.accepts = self.unet.accepts
        self._params = dict(self.unet.named_parameters())
        self.ema = EMA(self._params)
        self._adam = _adam(list(self._params.values()))
        size = config.train.global_batch_size // world_size
        self._positions = torch.arange(rank * size, (rank + 1) * size, device=device)
        seed = config.train.seed
        self._flip_key = seeding.key(seed, "flip")
        self._timesteps_key = seeding.key(seed, "timesteps")
        self._noise_key = seeding.key(seed, "noise")
        # Sums of the losses since the last point of the curves, by quartile of t, and below them
        # how many they are; in float64, so that the order of adding hardly shows.
        self._window = torch.zeros(2, NUM_QUARTILES, dtype=torch.float64, device=device)
        self._quartiles = torch.arange(NUM_QUARTILES, device=device)
        self._grad_norm = torch.zeros((), device=device)
        self._network: nn.Module = self.unet
        if world_size > 1:
            self._network = self._distributed(config.data.shape)

    def step(self, step: int, images_u8: Tensor, conditioning: Conditioning = NOTHING) -> None:
        """Move the weights by one step. Nothing here waits for the device.

        Args:
            step: number of steps completed before this one.
            images_u8: (b, c, h, w), this rank's slice of the global batch.
            conditioning: of each image.
        """
        train = self._train
        x_0 = to_unit_range(images_u8, self._device)
        if train.random_flip:
            x_0 = flip(x_0, seeding.coin(self._flip_key, step, self._positions))
        num_timesteps = self._schedule.num_timesteps
        t = seeding.uniform_int(self._timesteps_key, step, self._positions, num_timesteps)
        eps = seeding.normal(self._noise_key, step, self._positions, tuple(x_0.shape[1:]))
        if self._has_dropout:
            seeding.seed_dropout(train.seed, step, self._rank, self._device)

        losses = self._losses(x_0, t, eps, conditioning.to(self._device))
        torch.autograd.backward(losses.mean())
        # After the ranks' gradients were averaged: of the gradient of the global batch.
        self._grad_norm = nn.utils.clip_grad_norm_(
            self._params.values(), train.grad_clip, foreach=True
        )
        rate = learning_rate(step, train.learning_rate, train.warmup_steps)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()
        self.ema.update(self._params, train.ema_decay, first=step == 0)
        self._count(losses.detach(), t)

    # -- the curves --------------------------------------------------------------------------

    def take_point(self) -> dict[str, float]:
        """Return the mean losses since the last point and the last gradient norm; wait for them.

        `loss`, `grad_norm` (before clipping), and `loss_q0` ... `loss_q3` by quartile of t, the
        least noisy first; a quartile without images is left out. All ranks call it together and
        get the same.
        """
        if self._world_size > 1:
            distributed.all_reduce(self._window)
        numbers = torch.cat([self._window.flatten(), self._grad_norm.double().reshape(1)]).tolist()
        self._window.zero_()
        sums, counts = numbers[:NUM_QUARTILES], numbers[NUM_QUARTILES:-1]
        point = {"loss": sum(sums) / sum(counts), "grad_norm": numbers[-1]}
        for quartile, (total, count) in enumerate(zip(sums, counts, strict=True)):
            if count:
                point[f"loss_q{quartile}"] = total / count
        return point

    def gather_window(self) -> None:
        """Add up on rank 0 what the ranks counted since the last point; all call it together.

        Done at every checkpoint, also by a run that is never interrupted: so a resumed run adds
        the same numbers in the same order.
        """
        if self._world_size > 1:
            distributed.all_reduce(self._window)
            if self._rank:
                self._window.zero_()

    # -- state -------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step depends on but the moving average; not copies.

        `model.*`, `adam.exp_avg.*`, `adam.exp_avg_sq.*`, `adam.step`, and the `window` of the
        curves, complete on rank 0 after `gather_window`.
        """
        state = {f"model.{name}": param.detach() for name, param in self._params.items()}
        for name, param in self._params.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                state[f"adam.{moment}.{name}"] = self._adam.state[param][moment]
        first = next(iter(self._params.values()))
        return state | {"adam.step": self._adam.state[first]["step"], "window": self._window}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], ema: Mapping[str, Tensor]) -> None:
        """Continue from what `state` and `ema.state_dict` gave.

        Raises:
            CheckpointError: if a name, shape or dtype is not this network's.
        """
        own = self.state()
        if wrong := sorted(own.keys() ^ state.keys()):
            raise CheckpointError(
                f"the checkpoint and the network differ in {len(wrong)} tensors, e.g. {wrong[:3]}; "
                "it was saved by another model section or another version"
            )
        for name, tensor in own.items():
            given = state[name]
            if given.shape != tensor.shape or given.dtype != tensor.dtype:
                raise CheckpointError(
                    f"tensor {name!r} of the checkpoint is {given.dtype} {tuple(given.shape)}; "
                    f"this network needs {tensor.dtype} {tuple(tensor.shape)}"
                )
        for name, tensor in own.items():
            tensor.copy_(state[name])
        for param in self._params.values():
            self._adam.state[param]["step"].copy_(state["adam.step"])
        if self._rank:
            self._window.zero_()
        self.ema.load({name: average.to(self._device) for name, average in ema.items()})

    # -- parts of a step ---------------------------------------------------------------------

    def _losses(self, x_0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the loss of each image, (b,) float32."""
        x_t = q_sample(self._schedule, x_0, t, eps).contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            output = self._network(x_t, t, conditioning)
        return self._objective.losses(output, x_0, x_t, t, eps)

    def _count(self, losses: Tensor, t: Tensor) -> None:
        """Add losses (b,) to the window. A product with 0 and 1: an index would need atomics."""
        quartile = t * NUM_QUARTILES // self._schedule.num_timesteps
        members = (quartile[:, None] == self._quartiles).double()
        self._window[0] += losses.double() @ members
        self._window[1] += members.sum(dim=0)

    def _distributed(self, shape: tuple[int, int, int]) -> nn.Module:
        """Return the network with averaged gradients.

        DDP lays the gradients out anew after its first backward pass. Three or more ranks add in
        an order that depends on the layout, so the first step after a resume would round as no
        step of the uninterrupted run does: it goes through a pass that changes nothing instead.
        """
        network = DistributedDataParallel(self.unet, gradient_as_bucket_view=True)
        self._network = network
        x_0 = torch.zeros(len(self._positions), *shape, device=self._device)
        t = torch.zeros_like(self._positions)
        torch.autograd.backward(self._losses(x_0, t, x_0, NOTHING).mean())
        self._adam.zero_grad()
        return network


def _adam(params: list[nn.Parameter]) -> torch.optim.Adam:
    """Return Adam with its moments in place, so that a checkpoint is loaded into what is there.

    The moments lie in memory as their weights do: the fused kernel walks over all in step.
    """
    adam = torch.optim.Adam(params, lr=0.0, betas=_ADAM_BETAS, eps=_ADAM_EPS, fused=True)
    for param in params:
        adam.state[param] = {
            "step": torch.zeros((), dtype=torch.float32, device=param.device),
            "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(param, memory_format=torch.preserve_format),
        }
    return adam
