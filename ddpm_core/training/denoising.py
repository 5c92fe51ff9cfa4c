"""One step of training a denoiser on one rank (Ho et al. 2020, algorithm 1); nothing waits in it.

It is loaded, differentiated, averaged over the ranks, and the weights are moved. A rank takes its
slice of the batch; how many ranks there are changes rounding, the dropout masks, and nothing else.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ddpm_core import seeding
from ddpm_core.conditioning import MEMBERS, NOTHING, Conditioning, Known
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.rates import learning_rate
from ddpm_core.inference.build import (
    build_network,
    build_objective,
    in_training,
    uses_bfloat16,
)
from ddpm_core.inference.weights import MODEL
from ddpm_core.loading.loader import flip, to_unit_range
from ddpm_core.training.counting import Counts
from ddpm_core.training.inputs import NUM_QUARTILES, Drawing, Inputs
from ddpm_core.training.optimiser import Optimiser
from ddpm_core.training.parallel import Parallel
from ddpm_core.training.trainee import ADAM, Average, Trainee


class Denoising:
    """The training of one network: predict what was done to an image.

    Args:
        config: the run.
        parallel: this rank.
    """

    def __init__(self, config: RunConfig, parallel: Parallel) -> None:
        self._train, self._parallel, self._device = config.train, parallel, parallel.device
        self._objective = build_objective(config)
        self._bfloat16 = uses_bfloat16(config.train.precision, self._device)
        self.network = build_network(config).train().to(self._device)
        # On a GPU, whose norms want channels first, it costs: a step in bfloat16 takes 1.2 times.
        on_cpu = self._device.type == "cpu"
        self._layout = torch.channels_last if on_cpu else torch.contiguous_format
        self.network.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's stub
        self._called = in_training(config, self.network)
        self.accepts = self.network.accepts & MEMBERS
        dropouts = (one for one in self.network.modules() if isinstance(one, nn.Dropout))
        self._has_dropout = any(one.p > 0 for one in dropouts)
        self._optimiser = Optimiser(dict(self.network.named_parameters()))
        self._params = list(self._optimiser.params.values())
        quartiles = [f"loss_q{quartile}" for quartile in range(NUM_QUARTILES)]
        self._counts = Counts(quartiles, whole="loss", latest=["grad_norm"], parallel=parallel)
        self.trainee = Trainee(
            {MODEL: self.network},
            {ADAM: self._optimiser},
            [Average(MODEL, name, decay) for name, decay in averages_of(config.train).items()],
            self._counts,
        )
        self._drawing = Drawing(
            config,
            self._objective,
            null=self.network.null.to(self._device),
            accepts=self.network.accepts,
            positions=parallel.rows(config.train.global_batch_size),
        )
        self._inputs: Inputs | None = None
        self._quartiles = torch.arange(NUM_QUARTILES, device=self._device)

    def step(self, step: int, images_u8: Tensor, conditioning: Conditioning = NOTHING) -> None:
        """Move the weights by one step, and count `loss`, its quartiles over t, and `grad_norm`.

        `loss_q0` is that of the least noisy quarter of the timesteps; the norm is that of the
        gradient of the global batch before clipping.

        Args:
            step: number of steps completed before this one.
            images_u8: (b, c, h, w), this rank's slice of the global batch.
            conditioning: of each image.
        """
        inputs = self._load(step, images_u8, conditioning)
        self._differentiate(inputs)
        self._parallel.average(self._params)
        self._update(step)

    def _load(self, step: int, images_u8: Tensor, conditioning: Conditioning) -> Inputs:
        """Return what this step is computed from: always the same tensors, with other values."""
        given = self._drawing.inputs(step, images_u8, conditioning)
        if self._has_dropout:
            seeding.seed_dropout(self._train.seed, step, self._parallel.rank, self._device)
        if self._inputs is None:
            self._inputs = given.placed(self._device)
        else:
            self._inputs.take(given)
        return self._inputs

    def _differentiate(self, inputs: Inputs) -> None:
        """Compute the gradient, and count the losses.

        Nothing here knows the number of the step: whatever differs between two steps is in the
        values of tensors that stay where they are.
        """
        x_0 = to_unit_range(inputs.images, self._device)
        if inputs.flipped is not None:
            x_0 = flip(x_0, inputs.flipped)
        conditioning = inputs.conditioning
        if inputs.known is not None:
            conditioning = replace(conditioning, known=Known(x_0, inputs.known))
        losses = self._losses(x_0, inputs.t, inputs.eps, conditioning)
        self._parallel.differentiate(losses.mean(), self._params)
        self._counts.add(losses.detach(), inputs.quartile[:, None] == self._quartiles)

    def _update(self, step: int) -> None:
        """Move weights and averages along the gradient, the same bits on all ranks."""
        train = self._train
        norm = self._optimiser.update(learning_rate(step, train), grad_clip=train.grad_clip)
        self.trainee.average(step + train.averaged_before)
        self._counts.note("grad_norm", norm)

    def _losses(self, x_0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the loss of each image, (b,) float32."""
        x_t = self._objective.noised(x_0, t, eps).contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            output = self._called(x_t, t, conditioning)
        return self._objective.losses(output, x_0, x_t, t, eps)
