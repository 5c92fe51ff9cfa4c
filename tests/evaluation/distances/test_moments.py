import torch

from ddpm_core.evaluation.distances.moments import Moments, frechet_distance, merge, moments_of


def features(num: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(num, dim, generator=generator, dtype=torch.float64) @ mixing + 3.0


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Moments:
    return Moments(101, mean, covariance * 100)


def test_moments_are_mean_and_unbiased_covariance():
    """Catches: dividing by n instead of n - 1, or not centring."""
    x = features(50, 7, seed=0)
    moments = moments_of(x)
    torch.testing.assert_close(moments.mean, x.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(x.T))


def test_moments_of_float32_far_from_zero_are_computed_in_float64():
    """Catches: accumulating in the dtype of the features, whose variance drowns in the mean."""
    x = 1e4 + torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        moments_of(x).covariance, torch.cov(x.double().T), rtol=1e-9, atol=1e-9
    )


def test_merge_equals_the_moments_of_everything_whatever_the_cuts():
    """Catches: a merge without the term of the two means, or weighted by parts, not by counts."""
    x = features(60, 5, seed=1)
    x[40:] += 10.0  # parts that differ in their means
    whole = moments_of(x)
    for cuts in [(1, 59), (7, 13, 40), (20, 20, 20), (60,)]:
        merged = merge([moments_of(part) for part in x.split(list(cuts))])
        assert merged.count == 60
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-11, atol=1e-9)


def test_merge_is_associative_to_rounding():
    """Catches: a merge that depends on how the parts were grouped."""
    a, b, c = (moments_of(part) for part in features(60, 5, seed=2).split([10, 30, 20]))
    left, right = merge([merge([a, b]), c]), merge([a, merge([b, c])])
    torch.testing.assert_close(left.mean, right.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(left.scatter, right.scatter, rtol=1e-12, atol=1e-10)


def test_frechet_distance_of_diagonal_gaussians_has_its_closed_form():
    """sum (m_a - m_b)^2 + sum (s_a - s_b)^2. Catches: a lost factor 2, variance for deviation."""
    mean_a, mean_b = torch.tensor([[1.0, -2, 0, 5], [0.5, 1, 0, 5]], dtype=torch.float64)
    std_a, std_b = torch.tensor([[1.0, 2, 0.1, 3], [4, 0.5, 0.1, 1]], dtype=torch.float64)
    expected = float((mean_a - mean_b).square().sum() + (std_a - std_b).square().sum())
    a, b = gaussian(mean_a, std_a.square().diag()), gaussian(mean_b, std_b.square().diag())
    assert abs(frechet_distance(a, b) - expected) < 1e-12 * expected


def test_frechet_distance_of_correlated_gaussians():
    """Catches: Tr S_a^(1/2) S_b^(1/2) in place of Tr (S_a S_b)^(1/2): equal only if they commute.

    The reference: the roots of the eigenvalues of the product S_a S_b, which is not symmetric.
    """
    a, b = moments_of(features(80, 6, seed=3)), moments_of(features(90, 6, seed=4))
    roots = torch.linalg.eigvals(a.covariance @ b.covariance).real.sqrt().sum()
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    assert abs(frechet_distance(a, b) - float(expected - 2 * roots)) < 1e-9
    assert abs(frechet_distance(a, b) - frechet_distance(b, a)) < 1e-9


def test_frechet_distance_to_itself_is_zero_also_when_the_covariance_is_singular():
    """Catches: a square root that needs full rank (fewer images than features)."""
    for num in (3, 40):
        moments = moments_of(features(num, 16, seed=5))
        assert frechet_distance(moments, moments) < 1e-5 * float(moments.covariance.trace())


def test_frechet_distance_of_a_rotation_stays():
    """Catches: any step that treats coordinates apart (a diagonal covariance)."""
    x, y = features(80, 6, seed=6), features(80, 6, seed=7)
    rotation, _ = torch.linalg.qr(features(6, 6, seed=8))
    plain = frechet_distance(moments_of(x), moments_of(y))
    turned = frechet_distance(moments_of(x @ rotation), moments_of(y @ rotation))
    assert abs(plain - turned) < 1e-9 * plain
