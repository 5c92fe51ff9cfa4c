"""Which of several sets each position of one endless stream is of: exact shares, at any position.

Of k sets with the weights w_i, sum 1, set i has c_i(n) of the first n positions, and

    |c_i(n) - n w_i| <= 1 - 1/(2k - 2) < 1    for every n and i

(Tijdeman 1980, "The chairman assignment problem", Discrete Mathematics 32, theorem 1): of each
batch a set has its share to fewer than two images, and the errors of many steps do not add up. The
weights are ratios of whole numbers, so the sequence is periodic, and what is kept of it is one
period: c_i at any position is a quotient, a remainder and a look into a table.

Within a batch the order of images has no effect, so the sequence is not shuffled: that would only
take its bound away.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import ConfigError

MAX_PERIOD = 10_000
"""positions after which the sequence begins anew, at most: weights of four decimals"""


def whole_weights(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Return the smallest whole numbers in the same ratio.

    Args:
        weights: above 0, at least one.

    Raises:
        ConfigError: they have no such numbers with a sum of up to `MAX_PERIOD`.
    """
    if not weights or min(weights) <= 0:
        raise ConfigError(f"weights {_text(weights)}: each must be above 0; leave out the others")
    ratio = [weight / sum(weights) for weight in weights]
    period = np.lcm.reduce([one.denominator for one in ratio], dtype=object)
    if period > MAX_PERIOD:
        raise ConfigError(
            f"weights {_text(weights)} are in the ratio of whole numbers with the sum {period}, "
            f"and the order of training repeats after that many images, at most {MAX_PERIOD}: "
            "round them to four decimals that add up to 1, or give small whole numbers, as 1 and 2"
        )
    return tuple(int(one * period) for one in ratio)


def _text(weights: Sequence[Fraction]) -> str:
    return ", ".join(f"{float(weight):g}" for weight in weights)


@final
class Proportions:
    """The sequence of sets.

    Args:
        weights: whole numbers above 0 with the sum D, see `whole_weights`; of each D consecutive
            positions from a multiple of D on, set i has exactly weights[i].
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = np.array(weights, np.int64)
        self._sets = _one_period(self._weights)
        self._before = np.empty_like(self._sets)
        for number, weight in enumerate(weights):
            self._before[self._sets == number] = np.arange(weight)

    def at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return of each position >= 0 its set, and how many positions before it are of that set.

        The second is where it stands in the set's own stream: 0, 1, 2, ... for each set.
        """
        periods, within = np.divmod(positions, len(self._sets))
        sets = self._sets[within]
        return sets, periods * self._weights[sets] + self._before[within]

    def counts(self, position: int) -> NDArray[np.int64]:
        """Return how many of the positions before this one are of each set, (k,)."""
        periods, within = divmod(position, len(self._sets))
        begun = np.bincount(self._sets[:within], minlength=len(self._weights))
        return periods * self._weights + begun


def _one_period(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sets of the first D positions, by Tijdeman's rule.

    Position n - 1 goes to the set that is due first of those that may be served: those with
    n w_i - c_i >= 1/(2k - 2). It is due at the n at which n w_i - c_i passes 1 - 1/(2k - 2). Whole
    numbers: everything times D (2k - 2).
    """
    period, num_sets = int(weights.sum()), len(weights)
    if num_sets == 1:
        return np.zeros(period, np.int64)
    scale = 2 * num_sets - 2
    latest = period * (scale - 1)  # 1 - 1/(2k - 2), times D (2k - 2)
    served = np.zeros(num_sets, np.int64)
    sets = np.empty(period, np.int64)
    for n in range(1, period + 1):
        lag = scale * (n * weights - period * served)
        # Rounded up: the position is a whole number, and of equal ones the first set is served.
        due = -((lag - latest) // (scale * weights))
        due[lag < period] = np.iinfo(np.int64).max
        sets[n - 1] = chosen = int(np.argmin(due))
        served[chosen] += 1
    return sets
