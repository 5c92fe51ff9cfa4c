"""What a step of a denoiser's training is computed from: images, and the numbers drawn for them.

Every number is keyed by (seed, step, position in the global batch). A rank draws those of its slice
of the batch, so that how many ranks there are changes none of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.ahead import Ahead
from ddpm_core.conditioning import Conditioning, together
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.binomial.denoiser import BinomialObjective
from ddpm_core.diffusion.continuous_objective import ContinuousObjective
from ddpm_core.diffusion.objective import Objective
from ddpm_core.inference.low_resolution import steps_of
from ddpm_core.training.stepping.augmentation import Transform, draw_transform
from ddpm_core.training.stepping.regions import known_regions

NUM_QUARTILES = 4


@dataclass(frozen=True, eq=False)
class LowDrawn:
    """How the low resolution of each image is noised."""

    level: Tensor
    """(b,) int64, steps of the process"""
    eps: Tensor
    """(b, c, h, w) standard normal noise"""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Tensors of one rank's slice, all but the images on its device."""

    images: Tensor
    """(b, c, h, w) uint8 or uint16, as the data set has them"""
    flipped: Tensor | None
    """(b,) bool: whether it is mirrored; None: no image is"""
    transform: Transform | None
    """what is done to it then; None: nothing"""
    t: Tensor
    """(b,) the time of each image"""
    quartile: Tensor
    """(b,) int64: in which quarter of all times it lies, by their noise"""
    eps: Tensor
    """(b, c, h, w) standard normal noise"""
    conditioning: Conditioning
    """of each image, the null in place of some labels and texts; without what is made of the image
    itself"""
    known: Tensor | None
    """(b, 1, h, w) bool: which pixels the network is shown; None: it takes none"""
    low: LowDrawn | None
    """what is done to the low resolution of each image; None: it takes none"""
    masking: Tensor | None
    """(b, l, 3) uniform in [0, 1), of a language model: which bytes are to be said, what becomes of
    each, and another byte; None: it is none"""

    def pieces(self, size: int) -> Iterator["Inputs"]:
        """Return the inputs of so many images after the other, the last of the rest; not copies."""
        for start in range(0, len(self.t), size):
            take = partial(_rows, slice(start, start + size))
            piece: Inputs = together(take, [self])
            yield piece

    def placed(self, device: torch.device) -> "Inputs":
        """Return copies on `device`: places for the inputs of every step."""
        copies: Inputs = together(lambda one: one[0].to(device, copy=True), [self])
        return copies

    def take(self, given: "Inputs") -> None:
        """Overwrite these, where they are, by others; waits for nothing.

        Raises:
            ValueError: the others have another shape or dtype.
        """
        together(_overwritten, [self, given])


def _rows(rows: slice, tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0][rows]


def _overwritten(tensors: Sequence[Tensor]) -> Tensor:
    place, given = tensors
    if place.shape != given.shape or place.dtype != given.dtype:
        raise ValueError(
            f"a step was given a tensor {tuple(given.shape)} of {given.dtype} where those before "
            f"had {tuple(place.shape)} of {place.dtype}; all steps must be given the same"
        )
    return place.copy_(given, non_blocking=True)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What is drawn for a step, of each image; None where nothing is."""

    flipped: Tensor | None
    transform: Transform | None
    time: Tensor
    """which of the times it has: of a chain the number, else a share of all"""
    eps: Tensor
    labelled: Tensor | None
    """whether it keeps its label"""
    worded: Tensor | None
    """whether it keeps its text"""
    known: Tensor | None
    low: LowDrawn | None
    masking: Tensor | None


class Drawing:
    """Draws the inputs of each step, on the device of one rank.

    Args:
        config: the run.
        objective: at whose times the network is trained.
        null: of one image: the conditioning that says nothing.
        accepts: the parts of a conditioning that the network takes.
        positions: (b,) of this rank's slice in the global batch.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective | ContinuousObjective | BinomialObjective,
        *,
        null: Conditioning,
        accepts: frozenset[str],
        positions: Tensor,
    ) -> None:
        self._train, self._objective, self._null = config.train, objective, null
        self._labels, self._knows = "label" in accepts, "known" in accepts
        self._texts, self._enlarges = "text" in accepts, "low" in accepts
        steps = [steps_of(one, config.diffusion.num_timesteps) for one in config.train.low_levels]
        self._least_low, self._most_low = steps
        self._shape = config.data.shape
        seed = config.train.seed
        self._flip_key = seeding.key(seed, "flip")
        self._timesteps_key = seeding.key(seed, "timesteps")
        self._noise_key = seeding.key(seed, "noise")
        self._drop_key = seeding.key(seed, "drop.label")
        self._drop_text_key = seeding.key(seed, "drop.text")
        self._known_key = seeding.key(seed, "known")
        self._level_key = seeding.key(seed, "low_level")
        self._low_key = seeding.key(seed, "low_noise")
        self._num_tokens = config.model.text_length if config.role == "text" else 0
        self._masking_key = seeding.key(seed, "masking")
        row_size = math.prod(self._shape) * (2 if self._enlarges else 1)
        self._ahead = Ahead(self._drawn, positions, row_size=row_size)

    def inputs(self, step: int, images: Tensor, conditioning: Conditioning) -> Inputs:
        """Return the inputs of the step with `step` steps before it.

        Args:
            step: number of steps completed before this one.
            images: (b, c, h, w) uint8 or uint16, this rank's slice of the global batch.
            conditioning: of each image.
        """
        drawn = self._ahead.at(step)
        t, quartile = self._times(drawn.time)
        given = conditioning.to(drawn.time.device)
        if drawn.labelled is not None:
            given = given.where({"label": drawn.labelled}, self._null)
        if drawn.worded is not None:
            given = given.where({"text": drawn.worded}, self._null)
        return Inputs(
            images=images,
            flipped=drawn.flipped,
            transform=drawn.transform,
            t=t,
            quartile=quartile,
            eps=drawn.eps,
            conditioning=given,
            known=drawn.known,
            low=drawn.low,
            masking=drawn.masking,
        )

    def _drawn(self, step: seeding.Step, positions: Tensor) -> _Drawn:
        train = self._train
        labelled = worded = None
        # Left out by key: the same after a restart, and for any number of ranks (Ho and Salimans
        # 2022, arXiv:2207.12598, algorithm 1).
        if self._labels:
            drawn = seeding.uniform(self._drop_key, step, positions, ())
            labelled = drawn >= train.label_dropout
        if self._texts:
            drawn = seeding.uniform(self._drop_text_key, step, positions, ())
            worded = drawn >= train.text_dropout
        if isinstance(self._objective, ContinuousObjective):
            # In the middle of one of the 2**24 numbers, and so not 0.
            time = seeding.uniform(self._timesteps_key, step, positions, ()) + 2**-25
        else:
            num_timesteps = self._objective.schedule.num_timesteps
            time = seeding.uniform_int(self._timesteps_key, step, positions, num_timesteps)
        transform = None
        if train.augment:
            transform = draw_transform(train.seed, step, positions, train.augment)
        return _Drawn(
            flipped=seeding.coin(self._flip_key, step, positions) if train.random_flip else None,
            transform=transform,
            time=time,
            eps=seeding.normal(self._noise_key, step, positions, self._shape),
            labelled=labelled,
            worded=worded,
            known=self._regions(step, positions) if self._knows else None,
            low=self._low(step, positions) if self._enlarges else None,
            masking=self._masking(step, positions) if self._num_tokens else None,
        )

    def _masking(self, step: seeding.Step, positions: Tensor) -> Tensor:
        return seeding.uniform(self._masking_key, step, positions, (self._num_tokens, 3))

    def _low(self, step: seeding.Step, positions: Tensor) -> LowDrawn:
        """Draw a level of each image, all between the two alike (Ho et al. 2022, section 4.2)."""
        count = self._most_low - self._least_low + 1
        level = seeding.uniform_int(self._level_key, step, positions, count) + self._least_low
        return LowDrawn(level, seeding.normal(self._low_key, step, positions, self._shape))

    def _regions(self, step: seeding.Step, positions: Tensor) -> Tensor:
        like = torch.empty(1, *self._shape, device="meta")
        return known_regions(self._known_key, step, positions, like)

    def _times(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time of each image, and in which quarter of all it lies, by their noise."""
        objective = self._objective
        if isinstance(objective, ContinuousObjective):
            return objective.times.at(drawn), (drawn * NUM_QUARTILES).long()
        return drawn, drawn * NUM_QUARTILES // objective.schedule.num_timesteps
