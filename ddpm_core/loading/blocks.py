"""The order of a data set that is read from its shards: permuted in windows of shards.

To read an image of any shard at any moment means to hold all of them. Here an epoch is cut into
windows of some dozens of shards: the shards of the whole data set are permuted, consecutive ones
form a window, and within a window the images are permuted. A reader holds one window and
fetches the next; docs/data.md says how well that shuffles. The first batch of all needs the whole
first window: that of epoch 0 begins with an eighth of it, for the run to begin soon.

The order is a function of (seed, epoch, images of each shard). Nothing is proportional to the
images; what is kept of an epoch is three numbers for each shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ddpm_core.permutation import keyed_permutation, runs

WINDOW_IMAGES = 2**16
"""images of a window, as far as the bounds on its shards allow"""
MIN_WINDOW_SHARDS = 16
MAX_WINDOW_SHARDS = 96
"""a reader has the shards of up to three windows open, and 1024 files are all that it may have"""
_FIRST_CUTS = (8, 4, 2)
"""the first window of epoch 0 is cut at an eighth, a quarter and a half: each part but the
first has as many shards as all before it, which are read while it is fetched"""
_NUM_KEPT_EPOCHS = 2  # a batch may straddle two


@dataclass(frozen=True)
class _Epoch:
    shards: NDArray[np.int64]
    """(S,) shards in the order of this epoch"""
    firsts: NDArray[np.int64]
    """(S + 1,) position at which each of them would begin, were the window not permuted"""
    bounds: NDArray[np.int64]
    """(K + 1,) of these shards, the first of each window"""
    windows: NDArray[np.int64]
    """(K + 1,) position at which each window begins"""


class BlockOrder:
    """An order whose windows are consecutive shards of a permutation of all shards.

    Args:
        seed: chooses the order.
        counts: images of each shard; one at least has some.
        window_shards: shards of a window, up to a half more or less; None: as many as have
            `WINDOW_IMAGES`, but `MIN_WINDOW_SHARDS` to `MAX_WINDOW_SHARDS`.
        num_beside: orders that are read at once, of which each has its share of those.
    """

    def __init__(
        self,
        seed: int,
        counts: Sequence[int] | NDArray[np.int64],
        *,
        window_shards: int | None = None,
        num_beside: int = 1,
    ) -> None:
        self._seed = seed
        self._counts = np.array(counts, dtype=np.int64)
        self._own_firsts = np.concatenate([[0], np.cumsum(self._counts)])
        self.num_images = int(self._own_firsts[-1])
        num_shards = len(self._counts)
        if window_shards is None:
            wanted = -(-WINDOW_IMAGES * num_shards // self.num_images)
            largest = max(1, MAX_WINDOW_SHARDS // num_beside)
            window_shards = min(max(wanted, MIN_WINDOW_SHARDS), largest)
        num_windows = max(1, round(num_shards / window_shards))
        # As equal as they can be: a last window of what is left over would shuffle badly.
        self._bounds = np.arange(num_windows + 1, dtype=np.int64) * num_shards // num_windows
        cuts = [int(self._bounds[1]) // part for part in _FIRST_CUTS]
        self._first_bounds = np.unique([*self._bounds, *cuts])
        self.max_window_shards = int(np.diff(self._bounds).max())
        self._epochs: dict[int, _Epoch] = {}
        self._lock = Lock()

    def images(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the images at these positions, rising and each in 0..N-1, of an epoch."""
        state = self._epoch(epoch)
        windows = np.searchsorted(state.windows, positions, side="right") - 1
        places = np.empty_like(positions)
        for window, begin, end in runs(windows):
            first, stop = state.windows[window : window + 2].tolist()
            places[begin:end] = first + keyed_permutation(
                f"window:{self._seed}:{epoch}:{window}:".encode(),
                stop - first,
                positions[begin:end] - first,
            )
        slots = np.searchsorted(state.firsts, places, side="right") - 1
        in_shard: NDArray[np.int64] = places - state.firsts[slots]
        return self._own_firsts[state.shards[slots]] + in_shard

    def num_windows(self, epoch: int) -> int:
        """Return how many windows an epoch has: up to three more in epoch 0."""
        return len(self._epoch(epoch).windows) - 1

    def window_of(self, epoch: int, position: int) -> int:
        """Return the window, 0..num_windows-1, in which a position of an epoch lies."""
        starts = self._epoch(epoch).windows
        return int(np.searchsorted(starts, position, side="right")) - 1

    def shards_of(self, epoch: int, window: int) -> NDArray[np.int64]:
        """Return the shards of a window, in the order of the epoch."""
        state = self._epoch(epoch)
        begin, end = state.bounds[window : window + 2]
        return state.shards[begin:end]

    def members(self, epoch: int, window: int) -> NDArray[np.int64]:
        """Return the images of a window, rising."""
        firsts = self._own_firsts
        shards = sorted(self.shards_of(epoch, window).tolist())
        return np.concatenate([np.arange(*firsts[at : at + 2].tolist()) for at in shards])

    def _epoch(self, epoch: int) -> _Epoch:
        # One thread computes it: of a million shards eight at a time would need half a GB.
        with self._lock:
            found = self._epochs.get(epoch)
            if found is None:
                found = self._computed(epoch)
                kept = list(self._epochs.items())[1 - _NUM_KEPT_EPOCHS :]
                self._epochs = {**dict(kept), epoch: found}
        return found

    def _computed(self, epoch: int) -> _Epoch:
        num_shards = len(self._counts)
        shards = keyed_permutation(
            f"shards:{self._seed}:{epoch}:".encode(),
            num_shards,
            np.arange(num_shards, dtype=np.int64),
        )
        firsts = np.concatenate([[0], np.cumsum(self._counts[shards])])
        bounds = self._bounds if epoch else self._first_bounds
        return _Epoch(shards, firsts, bounds, firsts[bounds])
