"""What is said of files that cannot be used, and which advice follows."""

import pytest

from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.sharding import source
from ddpm_core.shards.index import Rejected


def images_config(share: float) -> DataConfig:
    return DataConfig(name="images", height=8, width=8, source="x", max_bad_share=share)


def rejected(part: int) -> list[Rejected]:
    return [Rejected(f"{number}.png", "cut short", 1) for number in range(part)]


@pytest.mark.parametrize(
    ("part", "total", "share"),
    [(29, 100, 0.29), (300, 303, 0.9901), (7, 300, 0.03), (1, 2, 0.5), (2, 150, 0.02)],
)
def test_the_share_that_a_refusal_advises_is_accepted(part, total, share):
    """Catches advice that is refused again: 0.29 * 100 is a little less than 29, and 1 too much."""
    with pytest.raises(DataError, match=rf"raise it to {share:g}\n?"):
        source.require_few_rejected(images_config(0.001), rejected(part), total, uri="x")
    source.require_few_rejected(images_config(share), rejected(part), total, uri="x")


def test_where_all_are_bad_no_share_is_advised():
    """Catches a share of 1, which the configuration refuses."""
    with pytest.raises(DataError) as refused:
        source.require_few_rejected(images_config(0.01), rejected(7), 7, uri="x")
    assert "raise it" not in str(refused.value)
