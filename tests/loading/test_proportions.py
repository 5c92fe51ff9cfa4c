"""Shares of several sets in one stream: bounds of a theorem, and the closed form of its counts."""

from fractions import Fraction

import numpy as np
import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.loading.proportions import MAX_PERIOD, Proportions, whole_weights

# Two, three and many, equal and as unequal as can be. Serving the largest lag passes the bound of
# 6:6:1 after 6 positions, and is off by more than an image after 13 of 4:4:4:1:1:1:1:1.
WEIGHTS = [
    (7, 3),
    (1, 1),
    (1, 999),
    (6, 6, 1),
    (4, 4, 4, 1, 1, 1, 1, 1),
    (1, 1, 1, 97),
    (5, 4, 3, 2, 1),
    (40, 37, 11, 6, 6),
]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_no_prefix_is_further_from_its_shares_than_tijdemans_bound(weights):
    """Catches: rounding each set apart (its counts do not add up), the greedy rule that serves the
    largest lag (it passes the bound of several sets), and another eligibility than 1/(2k - 2)."""
    period, k = sum(weights), len(weights)
    sets, _ = Proportions(weights).at(np.arange(3 * period))
    counts = np.cumsum(sets[:, None] == np.arange(k), axis=0)
    n = np.arange(1, 3 * period + 1)[:, None]
    # |c D - n w| (2k - 2) <= D (2k - 3): whole numbers, so no tolerance.
    distance = np.abs(counts * period - n * np.array(weights)).max()
    assert distance * (2 * k - 2) <= period * (2 * k - 3)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_period_has_exactly_its_shares_and_each_set_counts_its_own_positions(weights):
    """Catches: a period that is off by one, and own positions that begin anew in each period."""
    proportions, period = Proportions(weights), sum(weights)
    sets, own = proportions.at(np.arange(2 * period))
    assert np.bincount(sets[:period]).tolist() == list(weights)
    for number, weight in enumerate(weights):
        assert own[sets == number].tolist() == list(range(2 * weight))
    for position in (0, 1, period - 1, period, 2 * period - 1):
        expected = np.bincount(sets[:position], minlength=len(weights))
        assert proportions.counts(position).tolist() == expected.tolist()


def test_far_positions_are_computed_without_those_before():
    """Position 10**15 is a look into the table: nothing is replayed, and nothing overflows."""
    sets, own = Proportions((7, 3)).at(np.arange(10**15, 10**15 + 10))
    near, first = Proportions((7, 3)).at(np.arange(10))
    assert sets.tolist() == near.tolist()
    assert own.tolist() == (np.array([7, 3])[near] * 10**14 + first).tolist()


def test_weights_are_ratios():
    """0.7 and 0.3 are 7 : 3 as decimals, which they are not as floats; 70 and 30 are the same."""
    assert whole_weights([Fraction("0.7"), Fraction("0.3")]) == (7, 3)
    assert whole_weights([Fraction(70), Fraction(30)]) == (7, 3)
    assert whole_weights([Fraction("0.5")]) == (1,)
    assert sum(whole_weights([Fraction("0.0001"), Fraction("0.9999")])) == MAX_PERIOD


@pytest.mark.parametrize("weights", [["0.33333", "0.66667"], ["1", "0"], ["-1", "2"], []])
def test_weights_without_a_short_period_are_refused(weights):
    with pytest.raises(ConfigError, match=r"at most 10000|above 0"):
        whole_weights([Fraction(one) for one in weights])
