"""What the papers report, to be shown beside what was measured.

Source: Ho, Jain and Abbeel 2020, arXiv:2006.11239, table 4; Song et al. 2020, arXiv:2010.02502,
tables 1 and 2.
"""

from collections.abc import Mapping
from typing import NamedTuple


class CodingRow(NamedTuple):
    """A row of table 4."""

    reverse_step: int
    """T - t + 1"""
    rate: float
    """bits/dim"""
    rmse: float
    """distortion, in levels of 0 ... 255"""


PROGRESSIVE_CODING = (
    CodingRow(1000, 1.77581, 0.95136),
    CodingRow(900, 0.11994, 12.02277),
    CodingRow(800, 0.05415, 18.47482),
    CodingRow(700, 0.02866, 24.43656),
    CodingRow(600, 0.01507, 30.80948),
    CodingRow(500, 0.00716, 38.03236),
    CodingRow(400, 0.00282, 46.12765),
    CodingRow(300, 0.00081, 54.18826),
    CodingRow(200, 0.00013, 60.97170),
    CodingRow(100, 0.00000, 67.60125),
)
"""Table 4: progressive coding of the CIFAR-10 test set, T = 1000."""


DDIM_STEPS = (10, 20, 50, 100, 1000)
"""S of the columns of DDIM's table 1, of a chain of T = 1000."""
DDIM_FID: Mapping[str, tuple[float, ...]] = {
    "0": (13.36, 6.84, 4.67, 4.16, 4.04),
    "0.2": (14.04, 7.11, 4.77, 4.25, 4.09),
    "0.5": (16.66, 8.35, 5.25, 4.46, 4.29),
    "1": (41.07, 18.36, 8.01, 5.78, 4.73),
    "sigma-hat": (367.43, 133.37, 32.72, 9.99, 3.17),
}
"""DDIM's table 1: FID of CIFAR-10 by eta, in quadratic steps."""
DDIM_RECONSTRUCTION: Mapping[int, float] = {
    10: 0.014,
    20: 0.0065,
    50: 0.0023,
    100: 0.0009,
    200: 0.0004,
    500: 0.0001,
    1000: 0.0001,
}
"""DDIM's table 2: steps -> squared error of CIFAR-10's test images there and back, of pixels in
[0, 1]."""


def progressive_coding_of(dataset: str, num_timesteps: int) -> tuple[CodingRow, ...]:
    """Return table 4 where it may stand beside a measurement; nothing for any other data or T.

    Args:
        dataset: name of the data set, as in `DataConfig.name`.
        num_timesteps: T; the steps of another chain are not those of the table.
    """
    comparable = dataset == "cifar10" and num_timesteps == 1000
    return PROGRESSIVE_CODING if comparable else ()
