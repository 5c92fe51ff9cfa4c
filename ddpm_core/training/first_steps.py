"""How long a step takes, by the first ones of this start: known long before the first point.

The first is left out: it chooses kernels, fills tables and compiles. For some steps rank 0 waits
for its device after each; nothing else of the training is changed.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_core.conditioning import Conditioning
from ddpm_core.training.loop import Training
from ddpm_core.training.stepping.trainee import Trainee

_ENOUGH, _FEW, _ENOUGH_S = 8, 3, 2.0
"""steps; or a few, if they take as many seconds"""


class FirstSteps:
    """A `Training` whose first steps are timed. Used by rank 0 alone.

    Args:
        training: what is trained.
        device: that it computes on.
        said: called once, with the steps that are completed and the seconds of one.
        now: the time, in seconds.
    """

    def __init__(
        self,
        training: Training,
        device: torch.device,
        said: Callable[[int, float], None],
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._training, self._device, self._said, self._now = training, device, said, now
        self._is_first, self._is_done = True, False
        self._seconds: list[float] = []

    @property
    def trainee(self) -> Trainee:
        """That of the training."""
        return self._training.trainee

    @property
    def accepts(self) -> frozenset[str]:
        """That of the training."""
        return self._training.accepts

    def step(self, step: int, images_u8: Tensor, conditioning: Conditioning) -> None:
        """Do the training's step, timed while it is one of the first."""
        begin = self._now()
        self._training.step(step, images_u8, conditioning)
        if self._is_done:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._is_first:
            self._is_first = False
            return
        self._seconds.append(self._now() - begin)
        num_timed, timed_s = len(self._seconds), sum(self._seconds)
        if num_timed >= _ENOUGH or (num_timed >= _FEW and timed_s >= _ENOUGH_S):
            self._is_done = True
            self._said(step + 1, statistics.median(self._seconds))
