"""Counters between two points of the curves: sums on the device, read at a point."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ddpm_core.training.stepping.parallel import Parallel


class Counts:
    """Means by column since the last point, and the last value of what has no mean.

    Adding waits for nothing. The sums are float64, so that the order of adding hardly shows; they
    are a part of the state, so that a resumed run adds the same numbers in the same order.

    Args:
        columns: names of the means, e.g. of the losses of each quartile of t.
        whole: name of the mean over all columns; None where that has no meaning.
        latest: names of the values of the last step alone, e.g. the norm of its gradient.
        parallel: the ranks that count together.
        others: further means over all columns of their own, e.g. of the accuracy.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        whole: str | None,
        latest: Sequence[str],
        parallel: Parallel,
        others: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._parallel, self._whole = parallel, whole
        self._columns: tuple[str, ...] = ()
        self._places: dict[str | None, slice] = {}
        for name, own in ((whole, columns), *(others or {}).items()):
            self._places[name] = slice(len(self._columns), len(self._columns) + len(own))
            self._columns += tuple(own)
        size = len(self._columns)
        self.window = torch.zeros(2, size, dtype=torch.float64, device=parallel.device)
        """sums of the values by column, and below them how many they are"""
        self._latest = {name: torch.zeros((), device=parallel.device) for name in latest}

    def add(self, values: Tensor, members: Tensor, *, to: str | None = None) -> None:
        """Count values (b,), each in the column where `members` (b, columns) is True.

        By a product with 0 and 1: an index would need atomics.

        Args:
            values: of each image.
            members: of the columns of `to`.
            to: one of `others`; None: what is counted first.
        """
        members, place = members.double(), self._places[to or self._whole]
        self.window[0, place] += values.double() @ members
        self.window[1, place] += members.sum(dim=0)

    def note(self, name: str, value: Tensor) -> None:
        """Take the value of this step, a scalar that is the same on all ranks."""
        self._latest[name] = value

    def point(self) -> dict[str, float]:
        """Return the means since the last point and the last values; wait for them.

        A column without values is left out. All ranks call it together and get the same.
        """
        self._parallel.add_up(self.window)
        latest = [value.double().reshape(1) for value in self._latest.values()]
        numbers = torch.cat([self.window.flatten(), *latest]).tolist()
        self.window.zero_()
        size = len(self._columns)
        sums, counts, values = numbers[:size], numbers[size : 2 * size], numbers[2 * size :]
        point = dict(zip(self._latest, values, strict=True))
        for whole, place in self._places.items():
            if whole is not None:
                count = sum(counts[place])
                point[whole] = sum(sums[place]) / count if count else math.nan
        for name, total, count in zip(self._columns, sums, counts, strict=True):
            if count:
                point[name] = total / count
        return point

    def gather(self) -> None:
        """Add up on rank 0 what the ranks counted since the last point; all call it together.

        Done at every checkpoint, also by a run that is never interrupted: see `Counts`.
        """
        self._parallel.add_up(self.window)
        self.keep_on_rank_0()

    def keep_on_rank_0(self) -> None:
        """Zero the sums on all ranks but 0: all of them read the same sums from a checkpoint."""
        if self._parallel.rank:
            self.window.zero_()
