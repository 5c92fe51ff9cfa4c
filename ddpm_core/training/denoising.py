"""One step of training a denoiser on one rank (Ho et al. 2020, algorithm 1); nothing waits in it.

Every number drawn is keyed by (seed, step, position in the global batch). A rank takes its slice
of the batch; how many ranks there are changes rounding, the dropout masks, and nothing else.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ddpm_core import seeding
from ddpm_core.conditioning import MEMBERS, NOTHING, Conditioning, Known
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.rates import learning_rate
from ddpm_core.diffusion.continuous_objective import ContinuousObjective
from ddpm_core.inference.build import (
    build_network,
    build_objective,
    in_training,
    uses_bfloat16,
)
from ddpm_core.inference.weights import MODEL
from ddpm_core.loading.loader import flip, to_unit_range
from ddpm_core.training.counting import Counts
from ddpm_core.training.optimiser import Optimiser
from ddpm_core.training.parallel import Parallel
from ddpm_core.training.regions import known_regions
from ddpm_core.training.trainee import ADAM, Average, Trainee

NUM_QUARTILES = 4


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
        self._null = self.network.null.to(self._device)
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
        self._positions = parallel.rows(config.train.global_batch_size)
        seed = config.train.seed
        self._flip_key = seeding.key(seed, "flip")
        self._timesteps_key = seeding.key(seed, "timesteps")
        self._noise_key = seeding.key(seed, "noise")
        self._drop_key = seeding.key(seed, "drop.label")
        self._known_key = seeding.key(seed, "known")
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
        train = self._train
        x_0 = to_unit_range(images_u8, self._device)
        if train.random_flip:
            x_0 = flip(x_0, seeding.coin(self._flip_key, step, self._positions))
        t, quartile = self._times(step)
        eps = seeding.normal(self._noise_key, step, self._positions, tuple(x_0.shape[1:]))
        if self._has_dropout:
            seeding.seed_dropout(train.seed, step, self._parallel.rank, self._device)

        given = self._dropped(step, conditioning.to(self._device))
        if "known" in self.network.accepts:
            mask = known_regions(self._known_key, step, self._positions, x_0)
            given = replace(given, known=Known(x_0, mask))
        losses = self._losses(x_0, t, eps, given)
        self._parallel.backward(losses.mean(), self._params)
        rate = learning_rate(step, train)
        norm = self._optimiser.update(rate, grad_clip=train.grad_clip)
        self.trainee.average(step + train.averaged_before)
        self._counts.add(losses.detach(), quartile[:, None] == self._quartiles)
        self._counts.note("grad_norm", norm)

    def _times(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the time of each image, and in which quarter of all it lies, by their noise."""
        objective, key, positions = self._objective, self._timesteps_key, self._positions
        if isinstance(objective, ContinuousObjective):
            # In the middle of one of the 2**24 numbers, and so not 0.
            share = seeding.uniform(key, step, positions, ()) + 2**-25
            return objective.times.at(share), (share * NUM_QUARTILES).long()
        num_timesteps = objective.schedule.num_timesteps
        t = seeding.uniform_int(key, step, positions, num_timesteps)
        return t, t * NUM_QUARTILES // num_timesteps

    def _dropped(self, step: int, conditioning: Conditioning) -> Conditioning:
        """Return the conditioning with the null in place of some labels, by key: the same after a
        restart, and for any number of ranks.

        Source: Ho and Salimans 2022, arXiv:2207.12598, algorithm 1.
        """
        if conditioning.label is None:
            return conditioning
        drawn = seeding.uniform(self._drop_key, step, self._positions, ())
        return conditioning.where({"label": drawn >= self._train.label_dropout}, self._null)

    def _losses(self, x_0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the loss of each image, (b,) float32."""
        x_t = self._objective.noised(x_0, t, eps).contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            output = self._called(x_t, t, conditioning)
        return self._objective.losses(output, x_0, x_t, t, eps)
