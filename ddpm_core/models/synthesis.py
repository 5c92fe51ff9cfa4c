"""The average of any width, made after the training of stored averages of power functions.

Source: Karras et al. 2024, arXiv:2312.02696, section 3.2 and appendix C.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_core.models.profiles import inner_product

_RCOND = 1e-13


@dataclass(frozen=True)
class Profile:
    """A power function, as of an average that was tracked up to a step."""

    gamma: float
    step: int


@dataclass(frozen=True)
class Fit:
    """A profile as a sum of others."""

    coefficients: list[float]
    """of each of the others"""
    error: float
    """what is left of the profile, relative to it, in the norm of L2: 0 is exact"""


def fit(target: Profile, stored: Sequence[Profile]) -> Fit:
    """Return the sum of stored profiles that is nearest to one in the norm of L2.

    The average of that sum of profiles is the same sum of their averages. Double precision.

    Args:
        target: the profile that is wanted.
        stored: of averages that are there, at least one.
    """
    pairs = [[_inner(a, b) for b in stored] for a in stored]
    gram = torch.tensor(pairs, dtype=torch.float64)
    wanted = torch.tensor([_inner(one, target) for one in stored], dtype=torch.float64)
    # Of profiles of length 1: those of short steps are much higher than those of late ones.
    length = gram.diagonal().sqrt()
    unit, along = gram / length / length[:, None], wanted / length
    found: Tensor = torch.linalg.lstsq(unit, along[:, None], rcond=_RCOND, driver="gelsd")[0][:, 0]
    whole = _inner(target, target)
    left = whole - 2 * float(found @ along) + float(found @ unit @ found)
    return Fit((found / length).tolist(), math.sqrt(max(left, 0.0) / whole))


def _inner(one: Profile, other: Profile) -> float:
    return inner_product(one.gamma, float(one.step), other.gamma, float(other.step))
