"""Solvers of differential equations along sigma, for many images at once.

Explicit Runge-Kutta methods, on a given grid or with steps of the solver's own choice. Each row of
the state is solved as if it were alone: the result of an image does not depend on the others in
its batch, neither in its steps nor in its error.

Source: Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I, sections II.1
and II.4, and table 5.2 of chapter II (Dormand and Prince 1980).
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from ddpm_core.diffusion.choices import OdeMethod
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError, DivergenceError

Field = Callable[[Tensor, Tensor], Tensor]
"""(state, sigma of each row, float64) -> d state / d sigma"""


class _Tableau(NamedTuple):
    places: tuple[float, ...]
    """where in the step each slope is taken, from 0 to 1"""
    rows: tuple[tuple[float, ...], ...]
    """by which combination of the slopes before it each is reached; the first is empty"""
    weights: tuple[float, ...]
    """the combination that is the step"""


_TABLEAUS: dict[OdeMethod, _Tableau] = {
    "euler": _Tableau((0.0,), ((),), (1.0,)),
    "heun": _Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2)),
    "rk4": _Tableau(
        (0.0, 1 / 2, 1 / 2, 1.0),
        ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}

# The last slope is taken where the step ends, and is the first of the next step.
_DORMAND_PRINCE_WEIGHTS = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_DORMAND_PRINCE = _Tableau(
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DORMAND_PRINCE_WEIGHTS,
    ),
    (*_DORMAND_PRINCE_WEIGHTS, 0.0),
)
_DORMAND_PRINCE_ERROR = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)
_SAFETY, _MIN_FACTOR, _MAX_FACTOR = 0.9, 0.2, 10.0
_FIRST_STEP = 0.01
# Steps shorter than this share of the whole way lead nowhere in float64.
_SHORTEST = 1e-13


class Solution(NamedTuple):
    """The state at the end, and what it cost."""

    state: Images
    num_evaluations: Int[Tensor, " b"]
    """calls of the field that each row needed; the batch needed the largest of them"""


class Stride(NamedTuple):
    """One step of a solver on a grid."""

    state: Images
    """at the step's end"""
    sigma: float
    """of the step's end"""
    at_zero: Images
    """where the tangent at the step's beginning meets sigma = 0: the predicted image"""


@dataclass(frozen=True, eq=False)
class FixedStep:
    """A solver that takes the steps of a grid; never waits for its device.

    Raises:
        ConfigError: if the grid is none.
    """

    sigmas: Float64[Tensor, " n"]
    """ascending, greater than 0, at least two; on the CPU"""
    method: OdeMethod = "heun"

    def __post_init__(self) -> None:
        sigmas = self.sigmas
        if len(sigmas) < 2 or not bool((sigmas.diff() > 0).all()) or not float(sigmas[0]) > 0:
            raise ConfigError(
                f"sigmas {sigmas[:3].tolist()}...{sigmas[-3:].tolist()} must ascend, be greater "
                "than 0 and at least two; see sigma_grid"
            )

    @property
    def low(self) -> float:
        """The smallest sigma."""
        return float(self.sigmas[0])

    @property
    def high(self) -> float:
        """The largest sigma."""
        return float(self.sigmas[-1])

    def strides(self, field: Field, state: Images, *, upward: bool) -> Iterator[Stride]:
        """Yield each step from one end of the grid to the other; arguments as of `solve`."""
        sigmas = self.sigmas.tolist() if upward else self.sigmas.flip(0).tolist()
        tableau, rows = _TABLEAUS[self.method], len(state)
        for begin, end in itertools.pairwise(sigmas):
            sigma = torch.full((rows,), begin, dtype=torch.float64, device=state.device)
            step = torch.full_like(sigma, end - begin)
            slopes = _slopes(field, tableau, state, sigma, step, field(state, sigma))
            at_zero = state - begin * slopes[0]
            state = state + (end - begin) * _combination(tableau.weights, slopes)
            yield Stride(state, end, at_zero)

    def solve(self, field: Field, state: Images, *, upward: bool) -> Solution:
        """Return the state at the other end of the grid.

        Args:
            field: the equation.
            state: where it begins; its dtype is that of all arithmetic.
            upward: from the smallest sigma to the largest, else the other way.
        """
        for stride in self.strides(field, state, upward=upward):
            state = stride.state
        calls = (len(self.sigmas) - 1) * len(_TABLEAUS[self.method].weights)
        return Solution(state, torch.full((len(state),), calls, device=state.device))


@dataclass(frozen=True)
class Adaptive:
    """The solver of Dormand and Prince, of order 5, which chooses each row's steps by itself.

    An image that has arrived is held until all have: the batch keeps its size, so that a network
    rounds alike whatever the others do. It waits for its device once a step.

    Raises:
        ConfigError: if the numbers make no sense.
    """

    low: float
    """the smallest sigma"""
    high: float
    """the largest sigma"""
    rtol: float = 1e-5
    """allowed error of a step, relative to the number itself"""
    atol: float = 1e-5
    """allowed error of a step, absolute; both hold for each number of a row"""
    max_steps: int = 1000
    """most steps, of six calls each, the refused ones included"""

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ConfigError(f"low={self.low}, high={self.high} must be 0 < low < high")
        if self.rtol < 0 or self.atol <= 0 or self.max_steps < 1:
            raise ConfigError(
                f"rtol={self.rtol} must be at least 0, atol={self.atol} greater than 0, and "
                f"max_steps={self.max_steps} at least 1"
            )

    def solve(self, field: Field, state: Images, *, upward: bool) -> Solution:
        """Return the state at the other end; arguments as of `FixedStep.solve`.

        Raises:
            DivergenceError: if a row does not arrive in `max_steps`, or its steps become too short
                to move.
        """
        begin, end = (self.low, self.high) if upward else (self.high, self.low)
        sigma = torch.full((len(state),), begin, dtype=torch.float64, device=state.device)
        slope = field(state, sigma)
        length = self._first_length(state, slope)
        arrived, calls = torch.zeros_like(sigma, dtype=torch.bool), torch.ones_like(sigma).long()
        for _ in range(self.max_steps):
            left = (end - sigma).abs()
            is_last = length >= left
            step = (1 if upward else -1) * torch.where(is_last, left, length)
            slopes = _slopes(field, _DORMAND_PRINCE, state, sigma, step, slope)
            scale = expand(step.to(state.dtype), state)
            proposal = state + scale * _combination(_DORMAND_PRINCE.weights, slopes)
            error = scale * _combination(_DORMAND_PRINCE_ERROR, slopes)
            excess = self._excess(error, state, proposal)
            is_good = (excess <= 1) & ~arrived
            state = torch.where(expand(is_good, state), proposal, state)
            slope = torch.where(expand(is_good, slope), slopes[-1], slope)
            sigma = torch.where(is_good, torch.where(is_last, end, sigma + step), sigma)
            calls = calls + 6 * ~arrived
            arrived = arrived | (is_good & is_last)
            length = step.abs() * _growth(excess, is_good)
            is_stuck = ~arrived & (length < _SHORTEST * (self.high - self.low))
            all_arrived, any_stuck = torch.stack([arrived.all(), is_stuck.any()]).tolist()
            if all_arrived:
                return Solution(state, calls)
            if any_stuck:
                raise self._failure("steps too short to move it", is_stuck, sigma)
        raise self._failure(f"not arrived after max_steps={self.max_steps}", ~arrived, sigma)

    def _excess(self, error: Images, before: Images, after: Images) -> Float64[Tensor, " b"]:
        """Return the largest error of each row, as a multiple of what is allowed."""
        allowed = self.atol + self.rtol * torch.maximum(before.abs(), after.abs())
        return (error.abs() / allowed).flatten(1).amax(dim=1).double()

    def _first_length(self, state: Images, slope: Images) -> Float64[Tensor, " b"]:
        """Return a length on which a row changes by about a hundredth (Hairer et al., II.4)."""
        size, change = self._excess(state, state, state), self._excess(slope, state, state)
        way = self.high - self.low
        length = (_FIRST_STEP * size / change.clamp(min=1e-12)).clamp(1e-6 * way, way)
        return torch.where(length.isfinite(), length, 1e-6 * way)

    def _failure(
        self, what: str, rows: Bool[Tensor, " b"], sigma: Float64[Tensor, " b"]
    ) -> DivergenceError:
        places = sigma[rows]
        return DivergenceError(
            f"the solver could not finish {int(rows.sum())} of {len(rows)} images: {what}, at "
            f"sigma {float(places.min()):.4g} to {float(places.max()):.4g} between {self.low:.4g} "
            f"and {self.high:.4g}; allow larger errors (rtol={self.rtol}, atol={self.atol}) or "
            "more steps, use float64, or look whether the network returns finite numbers"
        )


Solver = FixedStep | Adaptive
"""What leads from one end of a range of sigmas to the other."""


def _slopes(
    field: Field,
    tableau: _Tableau,
    state: Images,
    sigma: Float64[Tensor, " b"],
    step: Float64[Tensor, " b"],
    first: Images,
) -> list[Tensor]:
    slopes, scale = [first], expand(step.to(state.dtype), state)
    for place, row in zip(tableau.places[1:], tableau.rows[1:], strict=True):
        slopes.append(field(state + scale * _combination(row, slopes), sigma + place * step))
    return slopes


def _combination(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    parts = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight != 0]
    return torch.stack(parts).sum(dim=0)


def _growth(excess: Float64[Tensor, " b"], is_good: Bool[Tensor, " b"]) -> Float64[Tensor, " b"]:
    """Return by how much the next step is longer; after a refused one, never longer.

    An error that is not a number leads to the shortest.
    """
    factor = (_SAFETY * excess.clamp(min=1e-10).pow(-1 / 5)).clamp(_MIN_FACTOR, _MAX_FACTOR)
    factor = torch.where(excess.isfinite(), factor, _MIN_FACTOR)
    return torch.where(is_good, factor, factor.clamp(max=1.0))
