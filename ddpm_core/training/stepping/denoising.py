"""One step of training a denoiser on one rank (Ho et al. 2020, algorithm 1); nothing waits in it.

It is loaded, differentiated, averaged over the ranks, and the weights are moved. A rank takes its
slice of the batch, whole or in pieces; how many ranks and pieces there are changes rounding, the
dropout masks, and nothing else.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddpm_core import seeding
from ddpm_core.conditioning import MEMBERS, NOTHING, Conditioning, Known
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.rates import learning_rate
from ddpm_core.diffusion.denoiser import Network
from ddpm_core.inference.build import arithmetic_of, build_objective, in_training, layout_of
from ddpm_core.inference.compiling import compiled, said_of_compiling
from ddpm_core.inference.low_resolution import LowResolutions
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.replay import Record, Replay, recorder
from ddpm_core.inference.weights import MODEL
from ddpm_core.loading.loader import flip, to_unit_range
from ddpm_core.models.recompute import recompute_activations
from ddpm_core.training.stepping.augmentation import Augmentation
from ddpm_core.training.stepping.counting import Counts
from ddpm_core.training.stepping.inputs import NUM_QUARTILES, Drawing, Inputs
from ddpm_core.training.stepping.optimiser import Optimiser
from ddpm_core.training.stepping.parallel import Parallel
from ddpm_core.training.stepping.scaling import LossScaling
from ddpm_core.training.stepping.shares import Share
from ddpm_core.training.stepping.trainee import ADAM, Average, Trainee


class Denoising:
    """The training of one network: predict what was done to an image.

    `Classifying` and `Contrasting` are the same training of other aims; nothing else derives from
    it.

    Args:
        config: the run.
        parallel: this rank.
    """

    counted: ClassVar[tuple[str, ...]] = ()
    """what is counted by quartile beside the loss"""
    taught: ClassVar[frozenset[str]] = frozenset()
    """what the loss needs of each image, beside what the network is given"""

    def __init__(self, config: RunConfig, parallel: Parallel) -> None:
        self._train, self._parallel, self._device = config.train, parallel, parallel.device
        self._objective = build_objective(config)
        self._dtype = arithmetic_of(config.train.precision, self._device)
        self.network = build_network(config).train().to(self._device)
        compute = config.compute
        self._layout = layout_of(self._device, compiled=compute.compile)
        self.network.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's stub
        self._micro_batch_size = compute.micro_batch_size
        if compute.checkpoint_activations:
            recompute_activations(self.network)
        network: Network = self.network
        if compute.compile:
            network = compiled(self.network, num_threads=compute.cpus_per_worker)
        self._called = in_training(config, network)
        self.accepts = self.network.accepts & MEMBERS | self.taught
        dropouts = (one for one in self.network.modules() if isinstance(one, nn.Dropout))
        self._has_dropout = any(one.p > 0 for one in dropouts)
        named = self.network.named_parameters()
        params = {name: param for name, param in named if param.requires_grad}
        divides = config.compute.divide_state and parallel.world_size > 1
        share = Share(params, parallel) if divides else None
        self._optimiser = Optimiser(params, share=share)
        self._params = list(self._optimiser.params.values())
        first, *others = (
            [f"{name}_q{quartile}" for quartile in range(NUM_QUARTILES)]
            for name in ("loss", *self.counted)
        )
        self._scaling = LossScaling(self._device) if self._dtype == torch.float16 else None
        latest = ["grad_norm"] if self._scaling is None else list(self._scaling.noted())
        self._counts = Counts(
            first,
            whole="loss",
            latest=latest,
            parallel=parallel,
            others=dict(zip(self.counted, others, strict=True)),
        )
        self.trainee = Trainee(
            {MODEL: self.network},
            {ADAM: self._optimiser},
            [Average(MODEL, name, decay) for name, decay in averages_of(config.train).items()],
            self._counts,
            self._scaling,
            held={} if share is None else {MODEL: share.names},
        )
        positions = parallel.rows(config.train.global_batch_size)
        self._drawing = Drawing(
            config,
            self._objective,
            null=self.network.null.to(self._device),
            accepts=self.network.accepts - self.taught,
            positions=positions,
        )
        self._inputs: Inputs | None = None
        self._augment = Augmentation(config, self._device) if config.train.augment else None
        self._low = LowResolutions(config) if config.model.low_size is not None else None
        record: Record[None] | None = recorder(self._device, wanted=compute.cuda_graphs)
        self._differentiated = Replay(self._differentiate, record)
        self._quartiles = torch.arange(NUM_QUARTILES, device=self._device)
        if compute.compile:
            self._compile((len(positions), *config.data.shape))

    def step(self, step: int, images_u8: Tensor, conditioning: Conditioning = NOTHING) -> None:
        """Move the weights by one step, and count `loss`, its quartiles over t, and `grad_norm`.

        `loss_q0` is that of the least noisy quarter of the timesteps; the norm is that of the
        gradient of the global batch before clipping.

        Args:
            step: number of steps completed before this one.
            images_u8: (b, c, h, w), this rank's slice of the global batch.
            conditioning: of each image.
        """
        self._load(step, images_u8, conditioning)
        self._differentiated()
        self._parallel.average(self._params)
        self._update(step)

    def _load(self, step: int, images_u8: Tensor, conditioning: Conditioning) -> None:
        """Put what this step is computed from where that of every step lies."""
        given = self._drawing.inputs(step, images_u8, conditioning)
        if self._has_dropout:
            seeding.seed_dropout(self._train.seed, step, self._parallel.rank, self._device)
        if self._inputs is None:
            self._inputs = given.placed(self._device)
        else:
            self._inputs.take(given)

    def _differentiate(self) -> None:
        """Compute the gradient of the inputs, and count their losses; it may be recorded.

        Nothing here knows the number of the step: whatever differs between two steps is in the
        values of tensors that stay where they are.
        """
        inputs = self._inputs
        if inputs is None:
            raise RuntimeError("nothing is loaded")
        count = len(inputs.t)
        found: list[Tensor] = []
        for piece in inputs.pieces(self._micro_batch_size or count):
            losses = self._losses_of(piece)
            # Each divided by all there are: pieces may be of unequal sizes.
            loss = losses.sum() / count
            if self._scaling is not None:
                loss = loss * self._scaling.scale
            self._parallel.differentiate(loss, self._params, added=bool(found))
            found.append(losses.detach())
        self._count(torch.cat(found), inputs.quartile[:, None] == self._quartiles)

    def _count(self, losses: Tensor, members: Tensor) -> None:
        if self._scaling is not None:  # one that overflows has the step left out, and is seen there
            is_number = losses.isfinite()
            losses, members = losses.where(is_number, 0), members & is_number[:, None]
        self._counts.add(losses, members)

    def _losses_of(self, inputs: Inputs) -> Tensor:
        """Return the loss of each image, (b,) float32."""
        x_0 = to_unit_range(inputs.images, self._device)
        if inputs.flipped is not None:
            x_0 = flip(x_0, inputs.flipped)
        conditioning = inputs.conditioning
        if self._augment is not None and inputs.transform is not None:
            x_0 = self._augment(x_0, inputs.transform)
            conditioning = replace(conditioning, augment=inputs.transform.label)
        if inputs.known is not None:
            conditioning = replace(conditioning, known=Known(x_0, inputs.known))
        if self._low is not None and inputs.low is not None:
            low = self._low.made_of(x_0, inputs.low.level, inputs.low.eps)
            conditioning = replace(conditioning, low=low)
        return self._losses(x_0, inputs.t, inputs.eps, conditioning)

    def _update(self, step: int) -> None:
        """Move weights and averages along the gradient, the same bits on all ranks."""
        train = self._train
        norm = self._optimiser.update(
            learning_rate(step, train), grad_clip=train.grad_clip, scaling=self._scaling
        )
        self._bound()
        self.trainee.average(step + train.averaged_before)
        noted = {"grad_norm": norm} if self._scaling is None else self._scaling.noted()
        for name, value in noted.items():
            self._counts.note(name, value)

    def _bound(self) -> None:
        """Bring weights that have bounds back within them, the same on all ranks."""

    def _compile(self, shape: tuple[int, ...]) -> None:
        """Have the network compiled now, by a step that moves nothing: later ranks wait for each
        other, and not for minutes.
        """
        labels = torch.zeros(shape[0], dtype=torch.int64) if "label" in self.accepts else None
        text = self.network.null.repeated(shape[0]).text
        given = Conditioning(label=labels, text=text)
        with said_of_compiling():
            self._load(0, torch.zeros(shape, dtype=torch.uint8), given)
            self._differentiate()
        self._inputs = None
        self._counts.window.zero_()
        for param in self._params:
            param.grad = None

    def _losses(self, x_0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the loss of each image, (b,) float32."""
        x_t = self._objective.noised(x_0, t, eps).contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            output = self._called(x_t, t, conditioning)
        return self._objective.losses(output, x_0, x_t, t, eps)
