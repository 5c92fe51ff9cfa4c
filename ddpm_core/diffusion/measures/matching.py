"""Which of several captions is an image's own: found by the error with which each explains it.

The errors are those of the diffusion classifier, `class_errors` of denoisers that are given one
caption each, or any others of which less is better. A network that makes nothing of its captions
errs equally with all of them: such ties count as drawn by lot, so that it is right by chance alone.

Source: Li et al. 2023, arXiv:2303.16203, section 3 (choosing among prompts by the error of eps);
ranks as retrieval reports them, e.g. Radford et al. 2021, arXiv:2103.00020, section 3.1.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddpm_core.errors import ConfigError


class Match(NamedTuple):
    """How an image's own captions rank among all that it was compared with, one value each."""

    is_first: Float[Tensor, " b"]
    """the chance, from 0 to 1, that an own one is chosen: 1 where it is least alone; a share of
    those that are least, where there are ties"""
    reciprocal_rank: Float[Tensor, " b"]
    """1 / rank of the best own one, its mean over the orders of a tie"""


def match(errors: Float[Tensor, "b k"], own: Bool[Tensor, "b k"]) -> Match:
    """Return how each image's own captions rank.

    Args:
        errors: of each image given each of k captions; less is better.
        own: which are its own; at least one in each row.

    Raises:
        ConfigError: an image has no own caption, or an error is no number.
    """
    if not bool(own.any(dim=1).all()):
        raise ConfigError("an image is matched with captions of which none is its own")
    if not bool(errors.isfinite().all()):
        raise ConfigError("an error of a caption is no finite number; the network gives none")
    best = errors.masked_fill(~own, float("inf")).amin(dim=1, keepdim=True)
    better = (errors < best).sum(dim=1)  # none of them is own
    tied_own, tied = ((errors == best) & own).sum(dim=1), (errors == best).sum(dim=1)
    is_first = (better == 0) * tied_own / tied
    return Match(is_first.double(), _mean_reciprocal(better, tied, tied_own))


def _mean_reciprocal(
    better: Int[Tensor, " b"], tied: Int[Tensor, " b"], tied_own: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return the mean of 1 / (rank of the first own one) over all orders of the tied ones.

    It is at place j of n tied, of which m are own, with probability C(n - j, m - 1) / C(n, m).
    """
    total = better.double() * 0
    left = (tied * 0 + 1).double()  # the probability that no own one came before place j
    for place in range(1, int(tied.max()) + 1):
        remaining = (tied - place + 1).clamp(min=1)
        chance = left * (tied_own / remaining).clamp(max=1) * (place <= tied)
        total += chance / (better + place)
        left = left - chance
    return total
