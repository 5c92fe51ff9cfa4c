from itertools import pairwise

from ddpm_core.recipes import PAPER_TABLE_2
from ddpm_core.study.ddim.cells import ETAS, SIGMA_HAT
from ddpm_core.study.published import (
    DDIM_FID,
    DDIM_RECONSTRUCTION,
    DDIM_STEPS,
    PROGRESSIVE_CODING,
    progressive_coding_of,
)


def test_table_4_agrees_with_itself_and_with_the_text():
    """Catches: a mistyped digit that breaks the order, rate and distortion exchanged."""
    assert [row.reverse_step for row in PROGRESSIVE_CODING] == list(range(1000, 0, -100))
    for later, earlier in pairwise(PROGRESSIVE_CODING):
        assert later.rate > earlier.rate
        assert later.rmse < earlier.rmse
    # Section 4.3: the rate of the lossless code, and its distortion.
    assert round(PROGRESSIVE_CODING[0].rate, 2) == 1.78
    assert round(PROGRESSIVE_CODING[0].rmse, 2) == 0.95


def test_table_2_has_the_paper_s_own_models_as_table_1():
    """Catches: a mistyped digit of the two rows that both tables have."""
    assert PAPER_TABLE_2["eps-l-simple"][3:] == (9.46, 0.11, 3.17)
    assert PAPER_TABLE_2["eps-l-fixed"][3:] == (7.67, 0.13, 13.51)


def test_the_table_stands_beside_cifar10_on_the_paper_s_chain_alone():
    """Catches: CIFAR-10's numbers in a figure of other images."""
    assert progressive_coding_of("cifar10", 1000) == PROGRESSIVE_CODING
    assert progressive_coding_of("mnist", 1000) == ()
    assert progressive_coding_of("cifar10", 250) == ()


# Song et al. 2020, arXiv:2010.02502, as printed: table 1 (CIFAR-10) and table 2.
TABLE_1 = """
S          10     20     50    100   1000
0       13.36   6.84   4.67   4.16   4.04
0.2     14.04   7.11   4.77   4.25   4.09
0.5     16.66   8.35   5.25   4.46   4.29
1       41.07  18.36   8.01   5.78   4.73
sigma-hat 367.43 133.37 32.72 9.99   3.17
"""
TABLE_2 = """
10     20     50     100    200    500    1000
0.014  0.0065 0.0023 0.0009 0.0004 0.0001 0.0001
"""


def test_ddim_s_tables_are_those_of_the_paper():
    """Catches: a mistyped digit, a number in the wrong place, a row that no cell is called by."""
    head, *rows = (line.split() for line in TABLE_1.strip().splitlines())
    assert tuple(map(int, head[1:])) == DDIM_STEPS
    assert {name: tuple(map(float, values)) for name, *values in rows} == DDIM_FID
    assert tuple(DDIM_FID) == (*ETAS, SIGMA_HAT)
    steps, errors = (line.split() for line in TABLE_2.strip().splitlines())
    assert dict(zip(map(int, steps), map(float, errors), strict=True)) == DDIM_RECONSTRUCTION
