"""The regions of the training images that a network of `model.known` is shown as known.

Source: Nichol et al. 2021, arXiv:2112.10741, section 3.2: random regions are erased, and the rest
is given with a mask. Which regions the paper does not say; these are ours.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from ddpm_core import seeding

_NOTHING, _INSIDE = 1 / 8, 1 / 4


def known_regions(
    key: seeding.Key, step: seeding.Step, positions: Tensor, like: Tensor
) -> Bool[Tensor, "b 1 h w"]:
    """Return which pixels are known of each image of a batch: a function of (key, step, position).

    A rectangle is drawn whose middle lies anywhere in the image and whose sides have up to twice
    the image's, so that what is left of it in the image is often a half. Of every 8 images it is
    erased of 5, alone kept of 2, and of 1 nothing is known: that is the model without a mask.

    Args:
        key: of the purpose "known".
        step: optimiser step, or that of each row.
        positions: (b,) index of each image in the global batch.
        like: (b, c, h, w), whose size the regions have.
    """
    kind, *places = seeding.uniform(key, step, positions, (5,)).unbind(1)
    size = like.shape[2:]
    inside = torch.ones(len(positions), *size, dtype=torch.bool, device=positions.device)
    for axis, length in enumerate(size):
        middle, half = places[2 * axis] * length, places[2 * axis + 1] * length
        centres = torch.arange(length, device=positions.device) + 0.5
        # The nearest pixel is always inside: no rectangle is empty.
        reach = half.clamp(min=0.5)[:, None]
        covered = (centres - middle[:, None]).abs() <= reach
        inside &= covered[:, :, None] if axis == 0 else covered[:, None, :]
    kept = (kind < _NOTHING + _INSIDE)[:, None, None]
    known = torch.where(kept, inside, ~inside) & (kind >= _NOTHING)[:, None, None]
    return known[:, None]
