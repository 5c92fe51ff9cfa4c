"""Low resolutions of images: made small, brought to the size of the images, and noised.

A low resolution has whole levels of 8 bits, as files of images have: what a network learns to
enlarge is what it will be given.

Source: Ho et al. 2022, arXiv:2106.15282, sections 3 and 4.2 (noise of the process itself on the low
resolution, at a level of its own for each image); Nichol et al. 2021, arXiv:2112.10741, its code
(8 bits, and bilinear without aligned corners); the mean over areas is ours.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ddpm_core.diffusion.paths.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.shapes import Images, Timesteps

_HALF = 127.5


def shrunk(images: Images, size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Return images made small: each pixel the mean of the area it covers, fractions included.

    The images are rounded to 8 bits before, and the means after, halves up: to the last bit what
    `data.resize=box` makes of an image file, on every device.

    Args:
        images: in [-1, 1]; beyond they are clipped.
        size: (height, width), each at most the images'.

    Returns:
        float32, on the levels of 8 bits in [-1, 1].
    """
    levels = ((images.double() + 1) * _HALF).round().clamp(0, 255)
    (height, width), device = levels.shape[2:], levels.device
    rows, columns = _areas(height, size[0], device), _areas(width, size[1], device)
    # Whole numbers below 2**53, so exact in whatever order they are added.
    sums = rows @ levels @ columns.T
    means = ((2 * sums + height * width) / (2 * height * width)).floor()
    return (means / _HALF - 1).float()


def _areas(length: int, count: int, device: torch.device) -> Tensor:
    """Return how much of each old pixel each new one covers, times `count`, (count, length)."""
    new = torch.arange(count, dtype=torch.float64, device=device)[:, None] * length
    old = torch.arange(length, dtype=torch.float64, device=device)[None, :] * count
    return (torch.minimum(new + length, old + count) - torch.maximum(new, old)).clamp(min=0)


def enlarged(low: Float[Tensor, "b c h2 w2"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Return low resolutions in the size of the images: bilinear between the centres of pixels.

    Args:
        low: in [-1, 1].
        size: (height, width).
    """
    return interpolate(low, size, mode="bilinear", align_corners=False)


def noised_by(schedule: NoiseSchedule, images: Images, level: Timesteps, eps: Images) -> Images:
    """Return images after so many steps of a chain.

    Level s is x_s of the process that begins at x_0 = the image. A chain keeps the variance,
    whatever the path it was made of: a network is given no larger numbers the noisier they are.

    Args:
        schedule: the chain.
        images: in [-1, 1].
        level: steps of each, 0: the image itself.
        eps: standard normal.

    Source: Ho et al. 2022, arXiv:2106.15282, section 4.2.
    """
    noised = q_sample(schedule, images, (level - 1).clamp(min=0), eps)
    return torch.where(expand(level > 0, images), noised, images)
