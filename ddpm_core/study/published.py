"""What the paper reports, to be shown beside what was measured on the same data.

Source: Ho, Jain and Abbeel 2020, arXiv:2006.11239, tables 1 to 4 and sections 4.2 and 4.3.
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


class CodelengthReported(NamedTuple):
    """Section 4.3: the lossless code of CIFAR-10 and its parts."""

    rate: float = 1.78
    """L_1 + ... + L_T, bits/dim"""
    distortion: float = 1.97
    """L_0, bits/dim"""
    rmse: float = 0.95
    """of the image shown last, in levels of 0 ... 255"""


CODELENGTH = CodelengthReported()


class QualityRow(NamedTuple):
    """A row of table 1 or 2; None where the training was unstable or nothing is reported."""

    inception_score: float | None
    inception_score_error: float | None
    fid: float | None
    """against the training set"""
    bits_per_dim_test: float | None = None
    """an upper bound"""
    bits_per_dim_train: float | None = None


UNCONDITIONAL_CIFAR10 = {
    "L, fixed isotropic variance": QualityRow(7.67, 0.13, 13.51, 3.70, 3.69),
    "L_simple": QualityRow(9.46, 0.11, 3.17, 3.75, 3.72),
}
"""Table 1, the paper's own models."""

FID_AGAINST_TEST_SET = 5.24
"""Section 4.1: of the model with L_simple, against CIFAR-10's test set"""

LSUN_256_FID = {
    "bedroom": 6.36,
    "bedroom-large": 4.90,
    "church": 7.89,
    "cat": 19.75,
}
"""Table 3, the paper's own models."""


def progressive_coding_of(dataset: str, num_timesteps: int) -> tuple[CodingRow, ...]:
    """Return table 4 where it may stand beside a measurement; nothing for any other data or T.

    Args:
        dataset: name of the data set, as in `DataConfig.name`.
        num_timesteps: T; the steps of another chain are not those of the table.
    """
    comparable = dataset == "cifar10" and num_timesteps == 1000
    return PROGRESSIVE_CODING if comparable else ()
