from itertools import pairwise

from ddpm_core.recipes import PAPER_TABLE_2
from ddpm_core.study.published import PROGRESSIVE_CODING, progressive_coding_of


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
