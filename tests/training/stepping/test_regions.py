"""The regions that training shows as known: of every kind, and a function of their place."""

import torch

from ddpm_core import seeding
from ddpm_core.training.stepping.regions import known_regions

KEY = seeding.key(0, "known")
MANY = torch.arange(4000)
LIKE = torch.zeros(1, 1, 8, 8)


def test_a_region_is_a_function_of_step_and_position():
    """Catches regions that depend on the ranks, on the batch, or that are one for all steps."""
    whole = known_regions(KEY, 7, MANY[:12], LIKE)
    parts = [known_regions(KEY, 7, MANY[start:12:3], LIKE) for start in range(3)]
    for start, part in enumerate(parts):
        assert torch.equal(part, whole[start::3])
    assert not torch.equal(known_regions(KEY, 8, MANY[:12], LIKE), whole)


def test_there_are_regions_of_every_kind():
    """Catches halves that never come, images that are always known in part, and a mask the wrong
    way round.

    A rectangle covers the middles of all n pixels of an axis with probability 1/4 + 1/(2 n).
    """
    covers = (1 / 4 + 1 / 16) * (1 / 4 + 1 / 12)
    known = known_regions(KEY, 0, MANY, LIKE[..., :6])
    assert known.shape == (4000, 1, 8, 6)
    share = known.float().mean(dim=(1, 2, 3))
    assert abs(float((share == 0).float().mean()) - (1 / 8 + 5 / 8 * covers)) < 0.02
    assert abs(float((share == 1).float().mean()) - 1 / 4 * covers) < 0.01
    halves = known.all(dim=2).squeeze(1)  # columns that are known from top to bottom
    right_erased = halves[:, :3].all(dim=1) & ~known[..., 3:].any(dim=(1, 2, 3))
    assert int(right_erased.sum()) >= 10
    # A single pixel at the least is erased of an image in whose middle a rectangle lies.
    assert int((share * 48 == 47).sum()) >= 1
