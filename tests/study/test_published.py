from itertools import pairwise

from ddpm_core.recipes import PAPER_TABLE_2
from ddpm_core.study.published import (
    CODELENGTH,
    PROGRESSIVE_CODING,
    UNCONDITIONAL_CIFAR10,
    progressive_coding_of,
)


def test_table_4_agrees_with_itself_and_with_the_text():
    """Catches: a mistyped digit that breaks the order, rate and distortion exchanged."""
    assert [row.reverse_step for row in PROGRESSIVE_CODING] == list(range(1000, 0, -100))
    for later, earlier in pairwise(PROGRESSIVE_CODING):
        assert later.rate > earlier.rate
        assert later.rmse < earlier.rmse
    assert round(PROGRESSIVE_CODING[0].rate, 2) == CODELENGTH.rate
    assert round(PROGRESSIVE_CODING[0].rmse, 2) == CODELENGTH.rmse


def test_the_tables_agree_with_one_another():
    """Catches: a row of table 1 that is not that of table 2, parts that miss their sum."""
    simple = UNCONDITIONAL_CIFAR10["L_simple"]
    assert simple[:3] == PAPER_TABLE_2["eps-l-simple"][3:]
    bound = UNCONDITIONAL_CIFAR10["L, fixed isotropic variance"]
    assert bound[:3] == PAPER_TABLE_2["eps-l-fixed"][3:]
    assert round(CODELENGTH.rate + CODELENGTH.distortion, 2) == simple.bits_per_dim_test


def test_the_table_stands_beside_cifar10_on_the_paper_s_chain_alone():
    """Catches: CIFAR-10's numbers in a figure of other images."""
    assert progressive_coding_of("cifar10", 1000) == PROGRESSIVE_CODING
    assert progressive_coding_of("mnist", 1000) == ()
    assert progressive_coding_of("cifar10", 250) == ()
