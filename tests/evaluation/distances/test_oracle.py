"""Our numbers beside those of torch-fidelity, of the same features."""

import numpy as np
import pytest
from torch import Tensor

from ddpm_core.evaluation.distances.kernels import kernel_distance
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.evaluation.distances.neighbours import neighbours
from ddpm_core.evaluation.distances.scores import inception_score
from tests.evaluation.distances.sets import drawn
from tests.oracles.fidelity import torch_fidelity


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    return drawn(300, 12, seed=0), drawn(300, 12, seed=1, shift=0.3)


def test_the_frechet_distance_is_torch_fidelitys(sets):
    """Catches: the biased covariance, a root of another product, a factor at the trace."""
    statistics = [torch_fidelity.metric_fid.fid_features_to_statistics(x.double()) for x in sets]
    found = torch_fidelity.metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    ours = frechet_distance(*map(moments_of, sets))
    assert ours == pytest.approx(found["frechet_inception_distance"], rel=1e-9)


@pytest.mark.parametrize("splits", [1, 10])
def test_the_inception_score_is_torch_fidelitys(sets, splits):
    """Catches: a mean of logarithms instead of scores, another cut of the splits."""
    logits = sets[0][:297]  # which ten splits do not divide
    found = torch_fidelity.metric_isc.isc_features_to_metric(logits, splits, shuffle=False)
    ours = inception_score(logits.double().softmax(1), splits=splits)
    assert ours.value == pytest.approx(found["inception_score_mean"], rel=1e-9)
    if splits > 1:
        deviation = found["inception_score_std"]
        assert ours.standard_deviation == pytest.approx(deviation, rel=1e-9)


def test_the_kernel_distance_of_all_images_is_torch_fidelitys(sets):
    """Catches: the diagonal in the mean, a kernel without its division by d, of another degree."""
    found = torch_fidelity.metric_kid.kid_features_to_metric(
        *(x.double() for x in sets), kid_subsets=1, kid_subset_size=300, verbose=False
    )
    ours = kernel_distance(*sets, seed=0, num_subsets=1, subset_size=300)
    assert ours.estimate.value == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-9)


def test_the_kernel_distance_by_subsets_agrees_with_torch_fidelitys(sets):
    """Catches: subsets drawn with replacement, a deviation divided by one less."""
    found = torch_fidelity.metric_kid.kid_features_to_metric(
        *(x.double() for x in sets), kid_subsets=200, kid_subset_size=100, verbose=False
    )
    ours = kernel_distance(*sets, seed=0, num_subsets=200, subset_size=100)
    deviation = found["kernel_inception_distance_std"]
    assert ours.standard_deviation == pytest.approx(deviation, rel=0.2)
    error = deviation / np.sqrt(200)
    mean = found["kernel_inception_distance_mean"]
    assert abs(ours.estimate.value - mean) < 4 * np.sqrt(2) * error


@pytest.mark.parametrize("full", [False, True])
def test_precision_and_recall_are_torch_fidelitys(sets, full):
    """Catches: made and real exchanged, an image as its own neighbour, balls without surface."""
    made, real = sets
    made = made[:250] * (1.3 if full else 1.0)
    found = torch_fidelity.metric_prc.prc_features_to_metric(
        made.double(), real.double(), prc_neighborhood=3, save_cpu_ram=full, verbose=False
    )
    ours = neighbours(made, real)
    assert ours.precision.value == pytest.approx(found["precision"], abs=1e-7)
    assert ours.recall.value == pytest.approx(found["recall"], abs=1e-7)
    assert 0.05 < ours.precision.value < 1
    assert 0.05 < ours.recall.value < 1
