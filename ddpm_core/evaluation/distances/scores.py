"""The inception score, of the class probabilities of any classifier.

With Inception's 1,000 classes it is the published score; with a classifier of the data set's own K
classes it lies in 1 ... K and compares runs on that data set with one another alone.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.evaluation.distances.estimate import normal_interval

_SUM_TOLERANCE = 1e-4  # softmax in float32 over 1,000 classes leaves about 1e-6


class InceptionScore(NamedTuple):
    """Mean over the splits, and their standard deviation (divided by their number)."""

    value: float
    standard_deviation: float | None
    """None for one split"""
    interval: tuple[float, float] | None
    """of 95 %, as `Estimate.interval`: the bias of few images is not in it"""


def inception_score(probabilities: Tensor, *, splits: int = 1) -> InceptionScore:
    """Return exp(mean over images of KL(p(y | x) || p(y))), p(y) the mean of the p(y | x).

    1 if the classifier says the same of every image; K if it is sure of each and finds all K
    classes equally often.

    Args:
        probabilities: (n, K), p(y | x) of each image; rows sum to 1.
        splits: equal parts in order, each scored by itself; the original code of DDPM takes one,
            most others ten. The score of a part is biased downwards: few images cannot spread
            over the classes evenly.

    The interval is by the infinitesimal jackknife: what an image adds to the logarithm of a score
    is how far its divergence is from their mean, since the derivative of the mean's own part is 0.
    So a score has the variance score^2 Var KL / n, and the mean of S splits their mean / S.

    Raises:
        ConfigError: if there are fewer images than splits.
        DataError: if a row is no distribution.

    Source: Salimans et al. 2016, arXiv:1606.03498, section 4; Efron 1982, The jackknife, the
    bootstrap and other resampling plans, section 6.3.
    """
    count = len(probabilities)
    if not 1 <= splits <= count:
        raise ConfigError(f"splits={splits} of {count} images: each needs at least one image")
    p = probabilities.to("cpu", torch.float64)
    wrong = (p.sum(dim=1) - 1).abs().gt(_SUM_TOLERANCE) | p.lt(0).any(dim=1) | p.isnan().any(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"row {row} of the class probabilities begins {p[row, :3].tolist()} and sums to "
            f"{float(p[row].sum())}: it is no distribution; give the softmax of the logits"
        )
    ends = [i * count // splits for i in range(splits + 1)]  # as the published code cuts
    parts = [p[a:b] for a, b in pairwise(ends)]
    scores = torch.stack([_score(one) for one in parts])
    deviation = float(scores.std(correction=0)) if splits > 1 else None
    return InceptionScore(float(scores.mean()), deviation, _interval(scores, parts))


def _score(p: Tensor) -> Tensor:
    # KL(p(y|x) || p(y)), averaged, is H(p(y)) - mean H(p(y|x)); entr(0) is 0.
    of_mean = torch.special.entr(p.mean(dim=0)).sum()
    return torch.exp(of_mean - torch.special.entr(p).sum(dim=1).mean())


def _divergences(p: Tensor) -> Tensor:
    """Return (n,), KL(p(y | x) || p(y)) of each image."""
    # Where p(y) is 0 each p(y | x) is, too, and xlogy is 0.
    of_mean = torch.special.xlogy(p, p.mean(dim=0))
    own: Tensor = -torch.special.entr(p) - of_mean
    return own.sum(dim=1)


def _interval(scores: Tensor, parts: Sequence[Tensor]) -> tuple[float, float] | None:
    if min(len(one) for one in parts) < 2:
        return None
    own = torch.stack([_divergences(one).var() / len(one) for one in parts])
    value, error = float(scores.mean()), float((scores.square() * own).sum().sqrt()) / len(parts)
    # Equal divergences leave what rounding does.
    return normal_interval(value, error, at_least=1) if error > 1e-12 * value else None
