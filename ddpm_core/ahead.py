"""Draws of single steps, made for several at once where that is faster: the numbers are the same.

On a GPU the numbers of a step are some hundred small kernels, and as many for sixteen steps. On a
CPU it pays for few numbers alone: more of them no longer lie in the cache that the next operation
reads.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import together

T = TypeVar("T")

MOST_STEPS = 16
_MOST_NUMBERS = {"cpu": 2**15}
_MOST_NUMBERS_ELSEWHERE = 2**23  # 32 MiB of float32, and five times that while they are made
_MOST_CHUNKS = 2  # a sampler may draw from two series in turn


class Ahead(Generic[T]):
    """What is drawn at each step, for the same positions at all.

    Args:
        draw: called with steps, one of each row or one for all, and the positions of the rows;
            returns a tensor, or a tree of them, with a row for each: a function of its step and
            position alone.
        positions: (b,) as of `seeding`.
        row_size: numbers of a row.
    """

    def __init__(
        self, draw: Callable[[seeding.Step, Tensor], T], positions: Tensor, *, row_size: int
    ) -> None:
        self._draw, self.positions = draw, positions
        most = _MOST_NUMBERS.get(positions.device.type, _MOST_NUMBERS_ELSEWHERE)
        fitting = min(MOST_STEPS, most // max(1, len(positions) * row_size))
        # A power of two, so that no chunk goes beyond the last step that there can be.
        self.num_steps = 1 << max(0, fitting.bit_length() - 1)
        self._chunks: dict[int, T] = {}

    def at(self, step: int) -> T:
        """Return what is drawn at `step`: a part of what is kept, not to be written.

        Raises:
            ValueError: as of `seeding.random_words`.
        """
        if self.num_steps == 1:
            return self._draw(step, self.positions)
        seeding.require_step(step)
        chunk, place = divmod(step, self.num_steps)
        if chunk not in self._chunks:
            if len(self._chunks) == _MOST_CHUNKS:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[chunk] = self._made(chunk * self.num_steps)
        size = len(self.positions)
        rows = slice(place * size, (place + 1) * size)
        part: T = together(lambda one: one[0][rows], [self._chunks[chunk]])
        return part

    def _made(self, first: int) -> T:
        device, count = self.positions.device, len(self.positions)
        steps = torch.arange(first, first + self.num_steps, device=device)
        return self._draw(steps.repeat_interleave(count), self.positions.repeat(self.num_steps))
