import math

import pytest
import torch

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.evaluation.distances.scores import inception_score


def distributions(num: int, classes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, classes, generator=generator, dtype=torch.float64).mul(2).softmax(1)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_classifier_that_says_nothing_scores_1_and_a_sure_and_balanced_one_all_classes(classes):
    """Catches: a missing exponential, bits for nats, 0 log 0 as NaN."""
    uniform = torch.full((30, classes), 1 / classes)
    assert inception_score(uniform).value == pytest.approx(1, abs=1e-6)
    same = distributions(1, classes).repeat(30, 1)
    assert inception_score(same).value == pytest.approx(1, abs=1e-12)
    assert inception_score(torch.eye(classes).repeat(3, 1)).value == pytest.approx(classes)


def test_one_class_alone_scores_1():
    """Catches: the mean confidence, which would not see that all images are of one class."""
    collapsed = torch.zeros(20, 10)
    collapsed[:, 3] = 1
    assert inception_score(collapsed).value == pytest.approx(1)


def test_the_score_is_the_mean_divergence_from_the_mean():
    """Catches: exchanged arguments of the divergence, a sum over images, a mean of exponentials."""
    p = distributions(40, 7)
    total = 0.0
    for row in p.tolist():
        mean = [sum(column) / 40 for column in p.T.tolist()]
        total += sum(value * math.log(value / m) for value, m in zip(row, mean, strict=True))
    found = inception_score(p)
    assert found.value == pytest.approx(math.exp(total / 40), rel=1e-12)
    assert found.standard_deviation is None


def test_splits_are_parts_in_order_scored_by_themselves():
    """Catches: the mean of all images within a split, a deviation with n - 1, interleaved parts,
    larger parts first, which the published code has last."""
    p = distributions(10, 4)
    parts = [inception_score(part).value for part in (p[:3], p[3:6], p[6:])]
    found = inception_score(p, splits=3)
    mean = sum(parts) / 3
    assert found.value == pytest.approx(mean, rel=1e-12)
    deviation = (sum((part - mean) ** 2 for part in parts) / 3) ** 0.5
    assert found.standard_deviation == pytest.approx(deviation, rel=1e-9)


@pytest.mark.parametrize("splits", [1, 4])
def test_the_interval_is_that_of_the_jackknife(splits):
    """Catches: the deviation of the splits taken for the error of their mean, a score for its
    logarithm, the entropies alone, the error of one split for that of all."""
    p = distributions(1200, 5) ** torch.linspace(0.1, 3, 1200, dtype=torch.float64)[:, None]
    p = p * torch.tensor([1, 0.5, 0.2, 0.1, 0.02])  # classes that are not equally frequent
    p = (p / p.sum(dim=1, keepdim=True))[torch.arange(1200) * 7 % 1200]
    found, size = inception_score(p, splits=splits), 1200 // splits
    variance = 0.0
    for part in p.split(size):
        logs = [
            math.log(inception_score(torch.cat([part[:i], part[i + 1 :]])).value)
            for i in range(0, size, 4)  # a quarter of them says it as well
        ]
        spread = float(torch.tensor(logs, dtype=torch.float64).var(correction=0))
        variance += inception_score(part).value ** 2 * spread * (size - 1) ** 2 / size
    low, high = found.interval
    half = 1.959964 * math.sqrt(variance) / splits
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (high + low) / 2 == pytest.approx(found.value)


def test_there_is_no_interval_where_nothing_varies():
    """Catches: a point for an interval, of images that the classifier says the same of; the
    variance of one image, which is NaN."""
    assert inception_score(torch.eye(4).repeat(5, 1)).interval is None
    assert inception_score(distributions(1, 4).repeat(9, 1)).interval is None
    assert inception_score(distributions(7, 4), splits=5).interval is None


def test_float32_probabilities_are_scored_in_float64():
    """Catches: sums over many images in float32."""
    p = distributions(20_000, 10).float()
    expected = inception_score(p.double()).value
    assert inception_score(p).value == expected


@pytest.mark.parametrize("splits", [0, 6])
def test_more_splits_than_images_are_refused(splits):
    """Catches: the mean of no images, which is NaN."""
    with pytest.raises(ConfigError, match=f"splits={splits} of 5 images"):
        inception_score(distributions(5, 3), splits=splits)


@pytest.mark.parametrize("row", [[2.0, -1.0, 0.0], [0.5, 0.1, 0.1], [math.nan, 0.5, 0.5]])
def test_what_is_no_distribution_is_refused(row):
    """Catches: logits taken for probabilities, NaN as a score."""
    p = distributions(3, 3)
    p[1] = torch.tensor(row)
    with pytest.raises(DataError, match="row 1 of the class probabilities"):
        inception_score(p)
