"""The learning rate as a function of the step, and the segments of a training that went on longer.

A schedule whose rate depends on the length of the training, linear or cosine, runs over its own
segment, and begins again where a training goes on: what was trained stays as it was. No torch.

Sources: cosine, and its beginning again: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5
(eta_min 0). Linear: Devlin et al. 2019, arXiv:1810.04805, appendix A.2. Inverse square root:
Vaswani et al. 2017, arXiv:1706.03762, equation 3, its highest rate being the one that is given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ddpm_core.config.section import Count, Section

if TYPE_CHECKING:
    from ddpm_core.config.train import TrainConfig

RateSchedule = Literal["constant", "linear", "cosine", "inverse_sqrt"]
_OF_LENGTH = ("linear", "cosine")
"""schedules that know where the training ends"""


class Segment(Section):
    """How a training was set before it went on otherwise."""

    until: int = Field(ge=0, le=10**9)
    """completed steps after which it went on otherwise"""
    num_steps: Count
    """the length that it was set to; not more steps than `until` need have been trained"""
    learning_rate: float = Field(gt=0)
    """as of train.learning_rate"""
    learning_rate_schedule: RateSchedule = "constant"
    """as of train.learning_rate_schedule"""


@dataclass(frozen=True)
class Piece:
    """A schedule, the steps at which it holds, and those that it runs over."""

    until: int
    """it holds before so many completed steps"""
    schedule: RateSchedule
    learning_rate: float
    begin: int
    """completed steps at its beginning; 0 where its rate does not depend on that"""
    end: int
    """completed steps at its end; 0 likewise"""

    def rate(self, step: int, warmup_steps: int) -> float:
        """Return the learning rate of the step after `step` completed ones; see `learning_rate`."""
        if step < warmup_steps:
            return self.learning_rate * (step / warmup_steps)
        return self.learning_rate * self._share(step, warmup_steps)

    def _share(self, step: int, warmup_steps: int) -> float:
        first = max(self.begin, warmup_steps)
        progress = (step - first) / max(self.end - first, 1)
        match self.schedule:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 - progress
            case "cosine":
                return (1.0 + math.cos(math.pi * progress)) / 2
            case "inverse_sqrt":
                return math.sqrt(warmup_steps / step)


def learning_rate(step: int, train: "TrainConfig") -> float:
    """Return the learning rate of the step after `step` completed ones.

    It grows linearly over the warm-up, which is the run's and comes once; the very first step has
    0. Then the schedule of its segment holds.

    Source: the warm-up: Ho et al. 2020, appendix B; where it starts: the original's utils.py.
    """
    piece = next((one for one in _pieces(train) if step < one.until), _pieces(train)[-1])
    return piece.rate(step, train.warmup_steps)


def counted(train: "TrainConfig") -> list[list[Any]]:
    """Return what of the earlier segments determines the weights; [] if nothing does.

    A run that went on at the rate that it would have had is the run that it would have been.
    """
    pieces = _pieces(train)
    if len(pieces) == 1 and not pieces[0].begin:
        return []
    return [[one.until, one.schedule, one.learning_rate, one.begin, one.end] for one in pieces]


def _pieces(train: "TrainConfig") -> Sequence[Piece]:
    """Return the schedules one after the other; what goes on as before is one."""
    pieces: list[Piece] = []
    begin = 0
    settings: list[tuple[int, Segment | TrainConfig]] = [(one.until, one) for one in train.earlier]
    for until, one in [*settings, (train.num_steps, train)]:
        if until == begin:
            continue  # no step was trained so
        knows_end = one.learning_rate_schedule in _OF_LENGTH
        first, end = (begin, one.num_steps) if knows_end else (0, 0)
        piece = Piece(until, one.learning_rate_schedule, one.learning_rate, first, end)
        if pieces and _rate_of(pieces[-1]) == _rate_of(piece):
            pieces.pop()
        pieces.append(piece)
        begin = until
    return pieces


def _rate_of(piece: Piece) -> tuple[Any, ...]:
    return piece.schedule, piece.learning_rate, piece.begin, piece.end
