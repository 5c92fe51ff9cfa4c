"""Statistics of a set of images under the feature network: moments and inception score.

Features are reduced to moments part by part: what is in memory does not grow with their number.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ddpm_core.evaluation.distances.moments import Moments, merge, moments_of
from ddpm_core.evaluation.distances.scores import inception_score
from ddpm_core.units.ranges import Arrays


@dataclass(frozen=True)
class Seen:
    """Statistics of a set of images under the feature network."""

    moments: Moments
    score: float | None
    """inception score; None if class probabilities were not computed, or do not exist"""
    num_classes: int | None


def seen_of(parts: Iterator[Arrays]) -> Seen:
    """Return the moments and the score of parts of one set of images, in their order."""
    moments: Moments | None = None
    probabilities = []
    for part in parts:
        own = moments_of(part["features"])
        moments = own if moments is None else merge([moments, own])
        if "probabilities" in part:
            probabilities.append(part["probabilities"])
    if moments is None:
        raise ValueError("no units")
    if not probabilities:
        return Seen(moments, None, None)
    rows = torch.cat(probabilities)
    return Seen(moments, inception_score(rows).value, rows.shape[1])
