"""What the paper reports, to be shown beside what was measured on the same data.

Source: Ho, Jain and Abbeel 2020, arXiv:2006.11239, table 4.
"""

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


def progressive_coding_of(dataset: str, num_timesteps: int) -> tuple[CodingRow, ...]:
    """Return table 4 where it may stand beside a measurement; nothing for any other data or T.

    Args:
        dataset: name of the data set, as in `DataConfig.name`.
        num_timesteps: T; the steps of another chain are not those of the table.
    """
    comparable = dataset == "cifar10" and num_timesteps == 1000
    return PROGRESSIVE_CODING if comparable else ()
