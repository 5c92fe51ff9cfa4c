"""Distances against their definitions written out, and against closed forms."""

import numpy as np
import pytest
import torch

from ddpm_core.errors import DataError
from ddpm_core.evaluation.distances import kernels, sliced
from ddpm_core.evaluation.distances.estimate import jackknife_error, share_of, subset
from ddpm_core.evaluation.distances.frechet import frechet_estimate, influence
from ddpm_core.evaluation.distances.kernels import gaussian_distance, kernel_distance
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.evaluation.distances.neighbours import neighbours
from ddpm_core.evaluation.distances.scores import inception_score
from ddpm_core.evaluation.distances.sliced import sliced_distance, squared_wasserstein
from tests.evaluation.distances.sets import drawn


def test_what_is_taken_where_nothing_is_said_is_what_is_published():
    """Catches: fewer subsets, smaller ones or fewer directions than the papers' code takes."""
    assert (kernels.NUM_SUBSETS, kernels.SUBSET_SIZE) == (100, 1000)
    assert sliced.NUM_DIRECTIONS == 1000
    found = kernel_distance(drawn(50, 2, seed=0), drawn(40, 2, seed=1), seed=0)
    assert (found.num_subsets, found.subset_size) == (100, 20)


def test_density_and_coverage_are_the_papers_sums():
    """Catches: density without its division by k, coverage of the made images, k = 3 for both."""
    made, real = drawn(40, 3, seed=0, shift=0.2), drawn(50, 3, seed=1)
    ours = neighbours(made, real)
    x, y = real.double().numpy(), made.double().numpy()
    radius = [sorted(np.linalg.norm(x - one, axis=1))[5] for one in x]  # 0 is itself
    balls = [[np.linalg.norm(m - r) <= radius[i] for i, r in enumerate(x)] for m in y]
    assert ours.density.value == pytest.approx(np.sum(balls) / (5 * len(y)), rel=1e-12)
    assert ours.coverage.value == pytest.approx(np.any(balls, axis=0).mean(), rel=1e-12)
    assert 0 < ours.coverage.value < 1


def test_a_ball_includes_its_surface():
    """Catches: images at exactly the radius left out, as duplicates of a real image would be.

    Of 0 ... 6 the third neighbour of 0 is at 3, and the fifth of 0 and of 1 at 5 and at 4.
    """
    line, outside = torch.arange(7.0)[:, None], torch.full((6, 1), -3.0)
    found = neighbours(outside, line)
    assert (found.precision.value, found.recall.value) == (1, 0)
    assert found.density.value == pytest.approx(2 / 5)
    assert found.coverage.value == pytest.approx(2 / 7)
    assert neighbours(line, outside).recall.value == 1


def test_neighbours_do_not_depend_on_how_many_rows_are_compared_at_once(monkeypatch):
    """Catches: in the second block of rows, an image as its own neighbour, or another's radius."""
    made, real = drawn(40, 3, seed=0, shift=0.2), drawn(50, 3, seed=1)
    at_once = neighbours(made, real)
    monkeypatch.setattr(kernels, "_BLOCK", 16)
    assert neighbours(made, real) == at_once


def test_a_set_that_leaves_half_out_is_precise_and_does_not_cover():
    """Catches: any two of the four exchanged."""
    left, right = drawn(60, 2, seed=0), drawn(60, 2, seed=0) + 100
    found = neighbours(left[:50], torch.cat([left, right]))
    assert found.precision.value == 1
    assert found.recall.value <= 0.5
    assert 0.3 < found.coverage.value <= 0.5
    assert found.density.value > 0.9


def test_neighbours_of_too_few_images_are_refused():
    """Catches: a k-th neighbour that is not there taken as infinitely far."""
    with pytest.raises(DataError, match="at least 6"):
        neighbours(drawn(5, 2, seed=0), drawn(50, 2, seed=1))


def test_the_gaussian_kernel_distance_is_the_papers_estimate():
    """Catches: the unbiased estimate, sigma not squared, a factor 2 in the exponent, no scale; an
    interval of the images of one set.
    """
    x, y = drawn(30, 4, seed=0), drawn(20, 4, seed=1, shift=1.0)
    x, y = (one.double().numpy() for one in (x, y))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-np.sum((p - q) ** 2) / 200) for q in b] for p in a]))

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    found = gaussian_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert found.value == pytest.approx(expected, rel=1e-9)
    # Far from the origin the same; and 0 of one set with itself.
    moved = gaussian_distance(torch.from_numpy(x) + 1e7, torch.from_numpy(y) + 1e7)
    assert moved.value == pytest.approx(expected, rel=1e-5)
    assert gaussian_distance(torch.from_numpy(x), torch.from_numpy(x)).value == 0
    # Both sets are only so many images, whichever is given first.
    turned = gaussian_distance(torch.from_numpy(y), torch.from_numpy(x))
    assert turned.interval == pytest.approx(found.interval, rel=1e-9)


def test_along_a_line_unequal_numbers_are_carried_by_their_quantiles():
    """Catches: the longer set cut off, quantile functions joined instead of stepping."""
    a, b = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[1.0, 0.0, 2.0]]).double()
    # (0, 1/3): 0 -> 0; (1/3, 1/2): 0 -> 1; (1/2, 2/3): 3 -> 1; (2/3, 1): 3 -> 2.
    assert float(squared_wasserstein(a, b)) == pytest.approx(0 + 1 / 6 + 4 / 6 + 1 / 3)
    # As many copies of each value change nothing.
    copies = squared_wasserstein(a.repeat(1, 3), b.repeat(1, 2))
    assert float(copies) == pytest.approx(7 / 6)


def test_the_sliced_distance_of_a_shift_is_its_closed_form():
    """Catches: a distance instead of its square, directions of a cube, alpha without d.

    A shift s moves each projection by (direction . s), whose square has the mean |s|^2 / d.
    """
    x = drawn(4, 6, seed=0)  # a shift is one of as many images as there are
    shift = torch.tensor([3.0, 0, 0, 4.0, 0, 0])
    found = sliced_distance(x, x + shift, seed=0, num_directions=20_000)
    assert found.mind.value == pytest.approx(3 * 25, rel=0.03)
    assert found.wasserstein == pytest.approx((25 / 6) ** 0.5, rel=0.015)
    assert sliced_distance(x, x, seed=0).mind.value == 0


def test_subsets_are_different_images_of_each_side_and_number():
    """Catches: replacement, one choice for both sets, the first images each time."""
    chosen = subset(0, 0, 0, 100, 60)
    assert len(chosen.unique()) == 60
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < 100
    others = (subset(0, 1, 0, 100, 60), subset(0, 0, 1, 100, 60), subset(1, 0, 0, 100, 60))
    assert not any(torch.equal(chosen, other) for other in others)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """Catches: the deviation over subsets taken as the error; the factor upside down."""
    values = drawn(400, 1, seed=0)[:, 0].double()
    means = torch.stack([values[subset(0, i, 0, 400, 100)].mean() for i in range(500)])
    error = jackknife_error(means, size=100, count=400)
    assert error == pytest.approx(float(values.std()) / 20, rel=0.06)
    assert jackknife_error(means, size=400, count=400) is None


def test_wilsons_interval_of_none_of_ten():
    """Catches: Wald's interval, which is a point there. Brown, Cai and DasGupta: [0, 0.278]."""
    low, high = share_of(torch.zeros(10, dtype=torch.bool)).interval
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(1.959964**2 / (10 + 1.959964**2), rel=1e-6)


def _spread(statistic, sets: int = 30) -> tuple[float, float]:
    """Return the deviation over fresh sets, and the mean half width of the intervals / 1.96."""
    found = [statistic(i) for i in range(sets)]
    widths = [(one.interval[1] - one.interval[0]) / (2 * 1.959964) for one in found]
    return float(np.std([one.value for one in found])), float(np.mean(widths))


@pytest.mark.parametrize("measure", ["frechet", "kernel", "few", "gaussian", "mind", "score"])
def test_intervals_are_as_wide_as_fresh_images_scatter(measure):
    """Catches: an interval of one side alone, too wide or narrow by a root of n or a factor; one
    that leaves out the draw of the subsets, which outweighs the images' where they are few.
    """

    def statistic(i: int):
        generator = torch.Generator().manual_seed(i)
        a = torch.randn(120, 3, generator=generator)
        b = torch.randn(120, 3, generator=generator) * 1.5 + 1
        match measure:
            case "frechet":
                return frechet_estimate(moments_of(a), moments_of(b), a, b)
            case "kernel":
                return kernel_distance(a, b, seed=i, num_subsets=12).estimate
            case "few":
                found = kernel_distance(a, b, seed=i, num_subsets=10, subset_size=4)
                return found.estimate
            case "gaussian":
                return gaussian_distance(a, b, sigma=1.0)
            case "score":
                return inception_score((2 * a).softmax(dim=1).double(), splits=3)
            case _:
                return sliced_distance(a, b, seed=i, num_directions=40).mind

    scatter, said = _spread(statistic)
    assert said == pytest.approx(scatter, rel=0.35)


def test_the_influence_is_the_derivative_of_the_distance():
    """Catches: the map of the other direction, its sign, a mean without its factor 2."""
    a, b = drawn(200, 3, seed=0).exp(), drawn(40, 3, seed=1, shift=0.5)
    whole, other = moments_of(a), moments_of(b)
    # Of n images each counts 1/n: left out, it takes with it 1/(n - 1) of what it adds.
    left_out = [
        frechet_distance(moments_of(torch.cat([a[:i], a[i + 1 :]])), other) for i in range(len(a))
    ]
    lost = (len(a) - 1) * (frechet_distance(whole, other) - torch.tensor(left_out))
    added = influence(whole, other).of(a)
    difference = (lost - lost.mean()) - (added - added.mean())
    assert float(difference.abs().max()) < 0.15 * float(added.abs().max())
    assert float(difference.std()) < 0.03 * float(added.std())


def test_no_interval_is_said_where_the_covariance_is_singular():
    """Catches: an inverse of noise, which made intervals of any width."""
    a, b = drawn(8, 10, seed=0), drawn(40, 10, seed=1)
    assert frechet_estimate(moments_of(a), moments_of(b), a, b).interval is None
