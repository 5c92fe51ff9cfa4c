"""The inception score, of the class probabilities of any classifier.

With Inception's 1,000 classes it is the published score; with a classifier of the data set's own K
classes it lies in 1 ... K and compares runs on that data set with one another alone.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError, DataError

_SUM_TOLERANCE = 1e-4  # softmax in float32 over 1,000 classes leaves about 1e-6


class InceptionScore(NamedTuple):
    """Mean over the splits, and their standard deviation (divided by their number)."""

    value: float
    standard_deviation: float | None
    """None for one split"""


def inception_score(probabilities: Tensor, *, splits: int = 1) -> InceptionScore:
    """Return exp(mean over images of KL(p(y | x) || p(y))), p(y) the mean of the p(y | x).

    1 if the classifier says the same of every image; K if it is sure of each and finds all K
    classes equally often.

    Args:
        probabilities: (n, K), p(y | x) of each image; rows sum to 1.
        splits: equal parts in order, each scored by itself; the original code of DDPM takes one,
            most others ten. The score of a part is biased downwards: few images cannot spread
            over the classes evenly.

    Raises:
        ConfigError: if there are fewer images than splits.
        DataError: if a row is no distribution.

    Source: Salimans et al. 2016, arXiv:1606.03498, section 4.
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
    scores = torch.stack([_score(p[a:b]) for a, b in pairwise(ends)])
    deviation = float(scores.std(correction=0)) if splits > 1 else None
    return InceptionScore(float(scores.mean()), deviation)


def _score(p: Tensor) -> Tensor:
    # KL(p(y|x) || p(y)), averaged, is H(p(y)) - mean H(p(y|x)); entr(0) is 0.
    of_mean = torch.special.entr(p.mean(dim=0)).sum()
    return torch.exp(of_mean - torch.special.entr(p).sum(dim=1).mean())
